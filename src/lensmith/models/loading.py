"""Loading a checkpoint: device, number format, quantisation, and whether it fits into memory.

Problems of a folder are reported before or while it is read. transformers itself would fill missing weights with random
numbers and continue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lensmith.config import ModelOptions
from lensmith.errors import UserError, optional
from lensmith.models.attention import ATTENTION
from lensmith.models.layers.int8 import quantise_tower
from lensmith.models.memory import available_memory, keep_freed_memory
from lensmith.models.tower_attention import TOWER

SMALL = 100_000_000
"""Number of parameters below which weights are stored in float32 even if products run in bfloat16. Rounding the stored
weights of a small model costs accuracy and saves little memory."""


@dataclass(frozen=True)
class Checkpoint:
    """The loaded contents of a model folder."""

    network: Any
    tokenizer: Any
    settings: dict[str, Any]
    """Image settings, as in transformers' image processor."""
    folder: Path


def load(network_class: Any, folder: Path, options: ModelOptions, components: dict[str, str]) -> Checkpoint:
    """Load a model folder onto its device.

    Args:
        network_class: transformers' class of the network.
        components: as in `base.Model`.

    Raises:
        UserError: the device can't be used, there is not enough memory, or the folder is incomplete, damaged, or mixes
            several models.
    """
    from transformers import AutoTokenizer

    device = pick_device(options.device)
    dtype = compute_dtype(options.dtype, device)
    if device.type == "cpu":
        keep_freed_memory()
    sizes = weight_sizes(folder)
    storage_dtype = torch.float32 if sum(map(prod, sizes.values())) < SMALL else dtype
    require_memory(options, sizes, device, storage_dtype, components["language_model"])
    # Straight to the GPU: the machine's main memory may be smaller.
    on_gpu = {"device_map": {"": device}} if device.type == "cuda" else {}
    try:
        settings = image_settings(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        template = folder / "chat_template.json"  # where older processors store it
        if tokenizer.chat_template is None and template.exists():
            tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
        network, loading_info = network_class.from_pretrained(
            folder,
            config=read_config(network_class.config_class, folder),
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            **(quantisation(options, device, dtype, components) or {"dtype": storage_dtype} | on_gpu),
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The model in {folder} can't be loaded: {reason}") from error
    require_matching_weights(folder, loading_info, components["language_model"])
    network.set_attn_implementation(TOWER if device.type == "cpu" else "sdpa")
    network.get_submodule(components["language_model"]).set_attn_implementation(ATTENTION)
    if options.quantize != "4bit":
        network.to(device)
        cast_linear_layers(network, dtype)
    if options.quantize == "int8":
        quantise_tower(network, components["vision_tower"])
    return Checkpoint(network.eval().requires_grad_(False), tokenizer, settings, folder)


def read_config(config_class: Any, folder: Path) -> Any:
    """config.json as transformers' configuration, whichever release wrote it."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "image_token_id" not in values and "image_token_index" in values:  # the name until transformers 4.57
        values["image_token_id"] = values.pop("image_token_index")
    unused = -1 - values.get("vision_feature_layer", -1)
    if unused > 0:  # LFM2-VL-1.6B's first release counts a last tower layer that has no weights
        values["vision_config"]["num_hidden_layers"] -= unused
    # The model_type of LFM2-VL's first release was `lfm2-vl`.
    return config_class.from_dict(values | {"model_type": config_class.model_type})


def image_settings(folder: Path) -> dict[str, Any]:
    """The image processor's settings.

    They are in preprocessor_config.json, or in processor_config.json: at its top level (LFM2-VL's first release), or
    under `image_processor` (transformers 5).

    Raises:
        OSError: there are none.
        ValueError: they can't be read.
    """
    preprocessor, processor = (
        json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}
        for name in ("preprocessor_config.json", "processor_config.json")
    )
    nested = processor.pop("image_processor", {})
    if not (preprocessor or nested or processor.keys() & {"max_image_tokens", "tile_size"}):
        raise FileNotFoundError("it has no preprocessor_config.json, which says how images are prepared")
    return cast(dict[str, Any], processor | preprocessor | nested)


def weight_sizes(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of every tensor in the folder's safetensors files, from their headers.

    Raises:
        UserError: a file is missing or damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    shapes: dict[str, list[int]] = {}
    try:
        if index.exists():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            with safe_open(folder / name, "pt") as file:
                shapes |= {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(
            f"The model in {folder} has no {name}.", "Lensmith only reads safetensors. Fetch the model again."
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} are damaged: {error}.", "Fetch the model again.") from None
    return shapes


def require_memory(
    options: ModelOptions, sizes: dict[str, list[int]], device: torch.device, storage_dtype: torch.dtype, decoder: str
) -> None:
    """Raises UserError if the weights don't fit into the free memory.

    The memory for scoring or training is not checked: it depends on the batch, which shrinks when memory runs out.
    """
    decoder_name = decoder.rpartition(".")[2]
    needed = 0.0
    for name, shape in sizes.items():
        four_bits = options.quantize == "4bit" and len(shape) == 2 and decoder_name in name and "embed" not in name
        needed += prod(shape) * (0.52 if four_bits else storage_dtype.itemsize)  # NF4, and its scales in eight bits
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if needed <= free:
        return
    number_format = "four bits" if options.quantize == "4bit" else str(storage_dtype).removeprefix("torch.")
    hints = ["Use a smaller model"]
    if storage_dtype == torch.float32:
        hints.append("model.dtype=bfloat16")
    if device.type == "cuda" and options.quantize == "none":
        hints.append("model.quantize=4bit")
    raise UserError(
        f"{options.base} needs {needed / 1e9:.1f} GB of memory for its weights in {number_format}; "
        f"{free / 1e9:.1f} GB are free ({device}).",
        f"{', or '.join(hints)}.",
    )


def require_matching_weights(folder: Path, loading_info: dict[str, Any], decoder: str) -> None:
    """Raises UserError if weights were missing, had other shapes, or belong to decoder layers that the configuration
    doesn't have.

    Other unexpected weights are ignored: checkpoints contain heads that Lensmith doesn't use.
    """
    extra = [name for name in loading_info.get("unexpected_keys", ()) if name.startswith(decoder)]
    wrong = [*loading_info.get("missing_keys", ()), *loading_info.get("mismatched_keys", ()), *extra]
    if wrong:
        names: Sequence[str] = sorted(name if isinstance(name, str) else name[0] for name in wrong)
        raise UserError(
            f"The weights in {folder} don't fit its config.json: {len(names)} are missing, have another shape or "
            f"are unexpected, such as {names[0]}.",
            "Fetch the model again, or save it again with its own configuration.",
        )


def pick_device(name: str) -> torch.device:
    """The device of this name. `auto` is the GPU if there is one.

    Raises:
        UserError: the machine has no such device.
    """
    if name == "auto":
        # Each of several processes on one machine uses another GPU.
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device `meta` has no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"model.device {name!r} can't be used here: {reason}.", "Use auto or cpu.") from None
    return device


def quantisation(
    options: ModelOptions, device: torch.device, dtype: torch.dtype, components: dict[str, str]
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that store the decoder's weights in four bits (NF4, its scales in eight; Dettmers
    et al., QLoRA, 2305.14314). Empty unless the options request it.

    Raises:
        UserError: four bits, and there is no CUDA GPU, or bitsandbytes isn't installed; or eight bits, and no CPU.
    """
    if options.quantize == "int8" and device.type != "cpu":
        raise UserError(
            f"model.quantize=int8 is for CPUs; the device is {device.type}.", "Use model.quantize=none, or 4bit."
        )
    if options.quantize != "4bit":
        return {}
    if device.type != "cuda":
        raise UserError(
            f"model.quantize=4bit needs a CUDA GPU; the device is {device.type}.", "Use model.quantize=none."
        )
    optional("bitsandbytes", "quantized", "model.quantize=4bit")
    from transformers import BitsAndBytesConfig

    others = [prefix for name, prefix in components.items() if name != "language_model"]
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*others, "lm_head"],
    )
    return {"quantization_config": config, "device_map": {"": device}, "dtype": dtype}


def cast_linear_layers(network: Any, dtype: torch.dtype) -> None:
    """Cast the weights of linear layers to the dtype of matrix products once, instead of at each product.

    The products of frozen weights are the same. Norms, embeddings and the vocabulary projection are not cast.
    """
    head = network.get_output_embeddings()
    for module in network.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.to(dtype)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of this name. `auto` is bfloat16 if the processor supports it in hardware, else float32."""
    if name != "auto":
        return cast(torch.dtype, getattr(torch, name))
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported()
    else:
        check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        supported = bool(check and check()) and device.type == "cpu"
    return torch.bfloat16 if supported else torch.float32
