"""LFM2-VL as the two GGUF files that llama.cpp reads: the decoder, and the vision tower with the projector (mmproj).

Names of tensors and keys are those of the package `gguf`, which llama.cpp's authors keep. The values are what
llama.cpp's converter writes for the same checkpoint (compared with build 11434).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from lensmith.models.base import Model

PRE_TOKENIZER = "lfm2"
"""How text is cut before it is tokenised; llama.cpp's name for it."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
_IMAGE_SIZE = 256
"""A field that llama.cpp requires, and doesn't use for this family."""
_FILE_TYPES = {"f16": 1, "q8_0": 7}


def write_decoder(model: Model, path: Path, numbers: str, name: str) -> None:
    """Write the decoder and the tokenizer.

    Args:
        numbers: `f16` or `q8_0`: how matrices are stored.
    """
    text = model.network.config.text_config
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    inner = model.network.model.language_model.layers[0].feed_forward.w1.weight.shape[0]
    writer.add_feed_forward_length(int(inner))
    writer.add_head_count(text.num_attention_heads)
    heads = [text.num_key_value_heads if kind == "full_attention" else 0 for kind in text.layer_types]
    writer.add_head_count_kv(heads)
    writer.add_rope_freq_base(float(text.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(text.norm_eps)
    writer.add_vocab_size(text.vocab_size)
    writer.add_shortconv_l_cache(text.conv_L_cache)
    writer.add_file_type(_FILE_TYPES[numbers])
    writer.add_quantization_version(2)
    _add_tokenizer(writer, model, text.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LFM2, text.num_hidden_layers)
    for key, weight in model.network.model.language_model.state_dict().items():
        weight = weight.squeeze(1) if key.endswith("conv.conv.weight") else weight
        _add(writer, names, f"model.{key}", weight, numbers)
    if not model.network.config.tie_word_embeddings:
        _add(writer, names, "lm_head.weight", model.network.lm_head.weight, numbers)
    _finish(writer)


def write_mmproj(model: Model, path: Path, numbers: str, name: str) -> None:
    """Write the vision tower and the projector; arguments as for `write_decoder`."""
    config = model.network.config
    vision = config.vision_config
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(name)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("lfm2")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(_IMAGE_SIZE)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_image_mean(list(model.settings.get("image_mean", [0.5] * 3)))
    writer.add_vision_image_std(list(model.settings.get("image_std", [0.5] * 3)))
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_projector_scale_factor(config.downsample_factor)
    writer.add_vision_use_gelu(True)
    writer.add_file_type(_FILE_TYPES[numbers])
    writer.add_quantization_version(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, vision.num_hidden_layers)
    for key, weight in model.network.model.vision_tower.state_dict().items():
        if key.endswith("patch_embedding.weight"):  # the channels of a patch's pixels come first there
            side = vision.patch_size
            weight = weight.view(len(weight), side, side, 3).permute(0, 3, 1, 2)
        exact = "f32" if "position_embedding" in key else numbers
        _add(writer, names, f"vision_tower.vision_model.{key}", weight, exact)
    for key, weight in model.network.model.multi_modal_projector.state_dict().items():
        _add(writer, names, f"multi_modal_projector.{key}", weight, numbers)
    _finish(writer)


def _add(writer: Any, names: Any, key: str, weight: Tensor, numbers: str) -> None:
    name = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise KeyError(f"GGUF has no name for the tensor {key}")
    values = weight.detach().to(torch.float32).contiguous().numpy()
    if values.ndim < 2 or numbers == "f32" or "shortconv.conv" in name:
        writer.add_tensor(name, values)
    elif numbers == "q8_0" and values.ndim == 2 and values.shape[1] % 32 == 0:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values.astype(np.float16))


def _add_tokenizer(writer: Any, model: Model, size: int) -> None:
    tokenizer = model.tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = {token["id"]: _CONTROL if token["special"] else _USER_DEFINED for token in content["added_tokens"]}
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([words.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([kinds.get(i, _NORMAL) if i in words else _UNUSED for i in range(size)])
    merges = content["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_chat_template(tokenizer.chat_template)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
