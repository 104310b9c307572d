"""How a checkpoint becomes a network: device, number format, quantisation, and whether it fits into memory.

What is wrong with a folder is said before or while it is read: transformers itself would fill weights that are missing
with random numbers and go on.
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
from lensmith.models.memory import available_memory

SMALL = 100_000_000
"""Below this many parameters, weights are held in float32 even if products run in bfloat16: rounding the stored weights
of a small model costs more accuracy than the memory is worth."""


@dataclass(frozen=True)
class Checkpoint:
    """What a model folder holds, loaded."""

    network: Any
    tokenizer: Any
    settings: dict[str, Any]
    """Those of images, as transformers' image processor has them."""
    folder: Path


def load(kind: Any, folder: Path, options: ModelOptions, components: dict[str, str]) -> Checkpoint:
    """Read a model folder onto its device.

    Args:
        kind: transformers' class of the network.
        components: as in `family.Model`.

    Raises:
        UserError: the device can't be used, there is not enough memory, or the folder is incomplete, damaged, or not
            that of one model.
    """
    from transformers import AutoTokenizer

    device = pick_device(options.device)
    dtype = compute_dtype(options.dtype, device)
    sizes = weight_sizes(folder)
    held = torch.float32 if sum(map(prod, sizes.values())) < SMALL else dtype
    require_memory(options, sizes, device, held, components["language_model"])
    # Straight to the GPU: the machine beside it may have less memory.
    on_gpu = {"device_map": {"": device}} if device.type == "cuda" else {}
    try:
        settings = image_settings(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        template = folder / "chat_template.json"  # where processors kept it once
        if tokenizer.chat_template is None and template.exists():
            tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
        network, found = kind.from_pretrained(
            folder,
            config=read_config(kind.config_class, folder),
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            **(quantisation(options, device, dtype, components) or {"dtype": held} | on_gpu),
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The model in {folder} can't be loaded: {reason}") from error
    require_all(folder, found, components["language_model"])
    # Fused attention's backward is slow on a CPU for short segments: 18 times the forward at 16 tokens.
    network.set_attn_implementation("eager" if device.type == "cpu" else "sdpa")
    network.get_submodule(components["language_model"]).set_attn_implementation(ATTENTION)
    if options.quantize == "none":
        network.to(device)
        hold_products(network, dtype)
    return Checkpoint(network.eval().requires_grad_(False), tokenizer, settings, folder)


def read_config(kind: Any, folder: Path) -> Any:
    """config.json as transformers' configuration, whatever the release that wrote it."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "image_token_id" not in values and "image_token_index" in values:  # its name until transformers 4.57
        values["image_token_id"] = values.pop("image_token_index")
    unused = -1 - values.get("vision_feature_layer", -1)
    if unused > 0:  # LFM2-VL-1.6B's first release counts the tower's last layer, and has no weights for it
        values["vision_config"]["num_hidden_layers"] -= unused
    return kind.from_dict(values | {"model_type": kind.model_type})  # LFM2-VL's first was `lfm2-vl`


def image_settings(folder: Path) -> dict[str, Any]:
    """The image processor's settings: in a file of their own, or among the processor's, where LFM2-VL's first release
    has them, or as a part of the processor's, where transformers 5 puts them.

    Raises:
        OSError: there are none.
        ValueError: they can't be read.
    """
    own, processor = (
        json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}
        for name in ("preprocessor_config.json", "processor_config.json")
    )
    part = processor.pop("image_processor", {})
    if not (own or part or processor.keys() & {"max_image_tokens", "tile_size"}):
        raise FileNotFoundError("it has no preprocessor_config.json, which says how images are prepared")
    return cast(dict[str, Any], processor | own | part)


def weight_sizes(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of every tensor in the folder's safetensors files, from their headers.

    Raises:
        UserError: there are none, one is missing, or one is damaged.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    found: dict[str, list[int]] = {}
    try:
        if index.exists():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            with safe_open(folder / name, "pt") as file:
                found |= {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(
            f"The model in {folder} has no {name}.", "Lensmith reads safetensors only; fetch the model again."
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} are damaged: {error}.", "Fetch the model again.") from None
    return found


def require_memory(
    options: ModelOptions, sizes: dict[str, list[int]], device: torch.device, held: torch.dtype, decoder: str
) -> None:
    """Raises UserError if the weights don't fit into the memory that is free; what scoring or training takes on top
    depends on the batch, which is made smaller when memory runs out."""
    part = decoder.rpartition(".")[2]
    needed = 0.0
    for name, shape in sizes.items():
        four_bits = options.quantize == "4bit" and len(shape) == 2 and part in name and "embed" not in name
        needed += prod(shape) * (0.52 if four_bits else held.itemsize)  # NF4, and its scales in eight bits
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if needed <= free:
        return
    kind = "four bits" if options.quantize == "4bit" else str(held).removeprefix("torch.")
    hints = ["Use a smaller model"]
    if held == torch.float32:
        hints.append("model.dtype=bfloat16")
    if device.type == "cuda" and options.quantize == "none":
        hints.append("model.quantize=4bit")
    raise UserError(
        f"{options.base} needs {needed / 1e9:.1f} GB of memory for its weights in {kind}; {free / 1e9:.1f} GB are free "
        f"({device}).",
        f"{', or '.join(hints)}.",
    )


def require_all(folder: Path, found: dict[str, Any], decoder: str) -> None:
    """Raises UserError if weights were missing, of other shapes, or more than the configuration has layers for.

    Other weights that the network has no place for are left aside: checkpoints carry heads that nothing here uses.
    """
    extra = [name for name in found.get("unexpected_keys", ()) if name.startswith(decoder)]
    wrong = [*found.get("missing_keys", ()), *found.get("mismatched_keys", ()), *extra]
    if wrong:
        names: Sequence[str] = sorted(name if isinstance(name, str) else name[0] for name in wrong)
        raise UserError(
            f"The weights in {folder} don't fit its config.json: {len(names)} are missing, of another shape or too "
            f"many, such as {names[0]}.",
            "Fetch the model again, or save it again with its own configuration.",
        )


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        UserError: the machine has no such device.
    """
    if name == "auto":
        # Of several processes on one machine, each has its own GPU.
        own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return torch.device(own if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"model.device {name!r} can't be used here: {reason}.", "Use auto or cpu.") from None
    return device


def quantisation(
    options: ModelOptions, device: torch.device, dtype: torch.dtype, components: dict[str, str]
) -> dict[str, Any]:
    """What `from_pretrained` must be told to hold the decoder's weights in four bits (NF4, its scales in eight;
    Dettmers et al., QLoRA, 2305.14314); nothing if the options don't ask for it.

    Raises:
        UserError: there is no CUDA GPU, or bitsandbytes isn't installed.
    """
    if options.quantize == "none":
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


def hold_products(network: Any, dtype: torch.dtype) -> None:
    """Keep the weights of matrix products in the type they are multiplied in, rather than cast them at each one.

    For frozen weights: the products are the same. Norms, embeddings and the vocabulary projection stay as they are.
    """
    head = network.get_output_embeddings()
    for module in network.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.to(dtype)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor computes in it, else float32."""
    if name != "auto":
        return cast(torch.dtype, getattr(torch, name))
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        fast = bool(probe and probe()) and device.type == "cpu"
    return torch.bfloat16 if fast else torch.float32
