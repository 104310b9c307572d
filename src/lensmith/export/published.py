"""A model folder as the families' publishers write it, which is what other programs' loaders expect.

transformers 5 saves its own names of tensors and leaves out fields of the configuration that it no longer needs.
llama.cpp and Ollama map only the published names, vLLM's tower has them too, and mlx-vlm wants the older fields. So
both are written, whatever release of transformers is installed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from lensmith.models.base import Model
from lensmith.runs.files import write_json

RENAMED = {"lfm2_vl": ("model.vision_tower.", "model.vision_tower.vision_model.")}
"""By family, the beginning of tensors' names as transformers 5 saves them, and as published."""
SHARD = "5GB"
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")


def family_of(model: Model) -> str:
    """The name of the model's family, as in `models/families`."""
    return type(model).__module__.rpartition(".")[2]


def write_model(model: Model, folder: Path, dtype: torch.dtype) -> None:
    """Write weights, configuration, tokenizer and image settings.

    The model itself is rounded, so that there is no second copy of it: it can't be used afterwards.

    Args:
        dtype: in which the weights are stored.
    """
    old, new = RENAMED.get(family_of(model), ("", ""))
    state: dict[str, Tensor] = {}
    for name, weight in model.network.to(dtype).state_dict().items():
        published = name if not old or name.startswith(new) or not name.startswith(old) else new + name[len(old) :]
        state[published] = weight
    if model.network.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_torch_state_dict(state, folder, max_shard_size=SHARD)
    model.tokenizer.save_pretrained(folder)
    write_json(folder / "config.json", config_of(model, dtype))
    settings = {key: value for key, value in model.settings.items() if key != "processor_class"}
    processor = type(model.network).__name__.replace("ForConditionalGeneration", "Processor")
    write_json(folder / "preprocessor_config.json", settings | {"processor_class": processor})
    # Ollama reads the limits of tokens and tiles from here.
    write_json(folder / "processor_config.json", {"processor_class": processor, "image_processor": settings})
    for name in ("chat_template.jinja", "generation_config.json"):
        if (model.folder / name).exists() and not (folder / name).exists():
            shutil.copyfile(model.folder / name, folder / name)
    for pattern in LICENCES:
        for path in model.folder.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def config_of(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """config.json: what transformers writes, with the older fields."""
    name = str(dtype).removeprefix("torch.")
    config: dict[str, Any] = model.network.config.to_diff_dict() | {"dtype": name, "torch_dtype": name}
    config["image_token_index"] = config.get("image_token_id")
    full = model.network.config
    for part in ("text_config", "vision_config"):
        # All fields, because other programs' defaults differ from transformers'.
        config[part] = {k: v for k, v in getattr(full, part).to_dict().items() if k not in ("_name_or_path", "dtype")}
    text = config["text_config"]
    if family_of(model) == "lfm2_vl":
        size, inner = text["hidden_size"], text["intermediate_size"]
        text |= {"block_dim": size, "conv_dim": size, "conv_dim_out": size, "block_ff_dim": inner}
        text |= {"block_norm_eps": text["norm_eps"], "rope_theta": text["rope_parameters"]["rope_theta"]}
        text |= {"block_use_swiglu": True, "block_use_xavier_init": True, "num_heads": text["num_attention_heads"]}
        text |= {"full_attn_idxs": [i for i, kind in enumerate(text["layer_types"]) if kind == "full_attention"]}
        config["vision_feature_layer"] = -1
    return config


def require_no_head(has_head: bool, form: str) -> None:
    """Raises UserError if a head answers, for which the format has no place."""
    from lensmith.errors import UserError

    if has_head:
        raise UserError(
            f"This run answers by a head on the model's features, and {form} has no place for one.",
            "Use --to onnx, web or npz; or teach the decoder to answer (`lensmith train`), and export that run.",
        )
