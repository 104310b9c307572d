"""What every verb needs of a vision-language model, and nothing more.

A family turns an image into pixels of a size it likes (`prepare`), pixels into embeddings (`look`), token ids into
embeddings (`embed`), and hidden states into logits (`logits`). Everything else (prompts, branches, scoring, training)
is the same for all families. Sizes, token ids and templates are read from the checkpoint, never written down here.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensmith.config import ModelOptions
from lensmith.errors import UserError


class ClassHead(nn.Linear):
    """Scores classes by the hidden state that would begin the answer: (..., hidden) -> (..., labels) logits.

    It starts at zero, where all classes are equally probable.
    """

    def __init__(self, size: int, labels: Sequence[str]) -> None:
        super().__init__(size, len(labels))
        self.labels = tuple(labels)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """In float32; not under autocast, so that close classes don't tie."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())

    def save(self, path: Path) -> None:
        """Write weights and labels as one safetensors file."""
        save_file(self.state_dict(), path, {"labels": json.dumps(self.labels)})

    @classmethod
    def load(cls, path: Path) -> ClassHead:
        """Read what `save` wrote. Raises ValueError, KeyError or RuntimeError if it is something else."""
        with safe_open(path, "pt") as file:
            labels = json.loads(file.metadata()["labels"])
        state = load_file(path)
        head = cls(state["weight"].shape[1], labels)
        head.load_state_dict(state)
        return head.requires_grad_(False)


class Model(ABC):
    """A loaded model: `network` is transformers', `peft` wraps it once LoRA is on, `head` may answer for it."""

    # Component -> prefix of its modules' names; the keys are the switches of TuneOptions.
    components: ClassVar[dict[str, str]]

    def __init__(self, network: Any, tokenizer: Any, options: ModelOptions, folder: Path) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.options = options
        self.folder = folder
        self.peft: Any = None
        self.head: ClassHead | None = None
        self.device = torch.device(next(network.parameters()).device)
        self.compute = compute_dtype(options.dtype, self.device)

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model: ...

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The language model without its vocabulary projection, as `branches.grow` runs it."""

    @property
    @abstractmethod
    def image_token(self) -> str:
        """What the chat template writes where an image stands."""

    @property
    @abstractmethod
    def image_frame(self) -> tuple[str, str]:
        """Special tokens written before and after an image's embeddings."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, H, W) bytes, resized as the model was trained."""

    @abstractmethod
    def see(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) values in 0..255, images of one size -> (n, ..., size) what the vision tower makes of them."""

    @abstractmethod
    def project(self, seen: Tensor) -> Tensor:
        """What `see` gives -> (n, image tokens, hidden) embeddings."""

    def look(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) values in 0..255, images of one size -> (n, image tokens, hidden) embeddings."""
        return self.project(self.see(pixels))

    @abstractmethod
    def memory(self, shape: Sequence[int], past: int) -> int:
        """Bytes that scoring an image of a shape (3, H, W) after `past` tokens takes at its peak: a high estimate."""

    def free_memory(self) -> int:
        """Bytes that are free on the device, or on the machine."""
        if self.device.type == "cuda":
            # What PyTorch has taken and not given back is free too.
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return int(torch.cuda.mem_get_info(self.device)[0]) + kept
        return available_memory()

    def embed(self, ids: Tensor) -> Tensor:
        """(rows, tokens) token ids -> (rows, tokens, hidden) embeddings."""
        return cast(Tensor, self.network.get_input_embeddings()(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocabulary) in float32; not under autocast, so that close labels don't tie."""
        head = self.network.get_output_embeddings()
        with torch.autocast(self.device.type, enabled=False):
            return cast(Tensor, head(hidden.to(head.weight.dtype))).float()

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in the compute dtype."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute)


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
    if find_spec("bitsandbytes") is None:
        raise UserError("model.quantize=4bit needs the package bitsandbytes.", "pip install 'lensmith[quantized]'")
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


def available_memory() -> int:
    """Bytes of this machine's memory, or of what a container may use of it, that are free."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        free = min(free, limit - int((group / "memory.current").read_text(encoding="utf-8")))
    return max(0, free)


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


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU's or the machine's memory is used up."""
    text = str(error)
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in text for words in said)


def grouped(keys: Iterable[Any]) -> list[list[int]]:
    """Positions with equal keys together, in the order of their first."""
    found: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return list(found.values())
