"""What every verb needs of a vision-language model, and nothing more.

A family turns an image into pixels of sizes it likes (`prepare`), pixels into embeddings (`look`), token ids into
embeddings (`embed`), and hidden states into logits (`logits`). Everything else (prompts, branches, scoring, training)
is the same for all families. Sizes, token ids and templates are read from the checkpoint, never written down here.
How a checkpoint is read is in `loading.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from lensmith.config import ModelOptions
from lensmith.data.images import full_size
from lensmith.models.loading import Checkpoint, compute_dtype
from lensmith.models.memory import available_memory, machine_memory
from lensmith.models.views import Shape, Views, resize, to_pixels


class Model(ABC):
    """A loaded model: `network` is transformers', `peft` wraps it once LoRA is on."""

    # Component -> prefix of its modules' names; the keys are the switches of TuneOptions.
    components: ClassVar[dict[str, str]]

    patch: int
    """Side of the squares that the vision tower cuts a view into, in pixels."""
    step: int
    """Side of what becomes one embedding, in pixels."""
    tile: int
    """Side of a tile of a large image, in pixels."""
    resample: int
    """How images are scaled: 2 bilinear, 3 bicubic."""

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        self.network = checkpoint.network
        self.tokenizer = checkpoint.tokenizer
        self.settings = checkpoint.settings
        self.folder = checkpoint.folder
        self.options = options
        self.peft: Any = None
        self.device = torch.device(next(self.network.parameters()).device)
        self.compute = compute_dtype(options.dtype, self.device)

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        """Load a checkpoint (`loading.load`). Raises UserError if it can't be."""

    @property
    def decoder(self) -> nn.Module:
        """The language model without its vocabulary projection, as `branches.grow` runs it."""
        return cast(nn.Module, self.network.get_submodule(self.components["language_model"]))

    @property
    def image_token(self) -> str:
        """What the chat template writes where an image stands."""
        return str(self.tokenizer.convert_ids_to_tokens(self.network.config.image_token_id))

    @abstractmethod
    def limit(self, image_tokens: int) -> None:
        """Show images in at most so many embeddings, as a whole. Raises UserError if the model can't."""

    @property
    @abstractmethod
    def image_frame(self) -> tuple[str, str]:
        """What is written before and after an image's embeddings, whatever its views."""

    @abstractmethod
    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) in pixels of each view of an image; of more than one, the first is a grid of tiles."""

    def prepare(self, image: Image.Image | Tensor) -> Views:
        """An image -> its views, (3, H, W) bytes each, resized as the model was trained.

        Args:
            image: or (..., 3, H, W) bytes, images of one size on any device.
        """
        pixels = image if isinstance(image, Tensor) else to_pixels(image)
        full = tuple(pixels.shape[-2:]) if isinstance(image, Tensor) else full_size(image)
        return tuple(resize(pixels, size, self.resample) for size in self.sizes(*full))

    @abstractmethod
    def encode_images(self, views: Views) -> Views:
        """(n, 3, H, W) values in 0..255 of each view -> (n, rows, columns, size) what the vision tower makes of it."""

    @abstractmethod
    def project(self, seen: Views) -> Views:
        """What `see` gives -> (n, rows, columns, hidden) embeddings of each view."""

    @abstractmethod
    def sequence(self, projected: Views) -> list[Tensor | str]:
        """What `project` gives, as it stands in the prompt between `image_frame`: (n, tokens, hidden) embeddings, and
        words between them."""

    def assemble(self, projected: Views) -> Tensor:
        """What `project` gives -> (n, tokens, hidden): the views' embeddings and the words between them."""
        n, parts = len(projected[0]), self.sequence(projected)
        said = (self.embed(self._ids(p)).expand(n, -1, -1) if isinstance(p, str) else p for p in parts)
        return torch.cat([part.to(projected[0].dtype) for part in said], 1)

    def _ids(self, words: str) -> Tensor:
        return torch.tensor([self.tokenizer.encode(words, add_special_tokens=False)], device=self.device)

    def embed_images(self, views: Views) -> Tensor:
        """(n, 3, H, W) values in 0..255 of each view -> (n, tokens, hidden) embeddings."""
        return self.assemble(self.project(self.encode_images(views)))

    def enough(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which an image holds all that its views show: a decoder need not go beyond."""
        sizes = self.sizes(height, width)
        return max(h for h, _ in sizes), max(w for _, w in sizes)

    def bytes(self) -> int:
        """That a large photograph, of 12 megapixels, takes when it is prepared."""
        return sum(3 * height * width for height, width in self.sizes(3000, 4000))

    def tokens(self, shape: Shape) -> int:
        """Embeddings that an image of these views becomes, the words between them included."""
        maps = tuple(torch.empty(1, h // self.step, w // self.step, 0) for _, h, w in shape)
        words = (part if isinstance(part, Tensor) else self._ids(part) for part in self.sequence(maps))
        return sum(part.shape[1] for part in words)

    def patches(self, shape: Shape) -> list[tuple[int, int]]:
        """Of each view, the patches that the tower looks at, and how many of them each one sees: those of its tile."""
        return [(h * w // self.patch**2, min(h * w, self.tile**2) // self.patch**2) for _, h, w in shape]

    def memory(self, shape: Shape, past: int) -> int:
        """Bytes that scoring an image of these views after `past` tokens takes at its peak: a high estimate."""
        vision, text = self.network.config.vision_config, self.network.config.text_config
        tokens = self.tokens(shape) + 64  # the question's end, and what of the answers is in play
        # Float32 copies of a layer's widest activations, and of its attention scores; tiles see only themselves.
        tower = sum(
            n * (6 * vision.intermediate_size + 3 * vision.num_attention_heads * own) for n, own in self.patches(shape)
        )
        decoder = tokens * (6 * text.intermediate_size + 3 * text.num_attention_heads * (past + tokens))
        return int(4 * max(tower, decoder) + 4 * text.vocab_size)

    def training_memory(self, tokens: int) -> int:
        """Bytes that a training step keeps for the backward pass of a segment of so many tokens: an estimate.
        (LFM2-VL-450M: 1.7 MB a token by it, some 1.4 by what its memory grew in benchmarks/true_size.py.)"""
        text = self.network.config.text_config
        # What the layers' products and norms keep of their inputs, in the compute type; scores in float32.
        each = text.num_hidden_layers * (5 * text.intermediate_size + 20 * text.hidden_size) * self.compute.itemsize
        kinds = list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
        scores = 12 * text.num_attention_heads * sum(kind.endswith("attention") for kind in kinds) * tokens
        return int(tokens * (each + scores))

    def whole_memory(self) -> int:
        """Bytes of the device or of the machine, whether free or not: the same whenever it is asked."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return machine_memory()

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


def grouped(keys: Iterable[Any]) -> list[list[int]]:
    """Positions with equal keys together, in the order of their first."""
    found: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return list(found.values())
