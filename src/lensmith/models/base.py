"""What every verb needs of a vision-language model, and nothing more.

A family resizes an image to views (`prepare`), runs the vision tower (`encode_images`) and the projector (`project`) on
them, and arranges the embeddings with the text between them (`sequence`, `assemble`). `embed_images` does all but the
first. `embed` turns token ids into embeddings and `logits` hidden states into logits. Everything else (prompts,
branches, scoring, training) is the same for all families. Sizes, token ids and templates are read from the checkpoint,
never written down here. `loading.py` reads checkpoints.
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
from lensmith.models.tower_attention import fused
from lensmith.models.views import Fit, Shape, Views, resize, to_pixels


class Model(ABC):
    """A loaded model. `network` is transformers' module; `peft` wraps it once LoRA is attached."""

    # Component -> prefix of its modules' names. The keys are the switches of TuneOptions.
    components: ClassVar[dict[str, str]]

    patch_side: int
    """Side of the squares into which the vision tower splits a view, in pixels."""
    token_side: int
    """Side of the square that becomes one embedding, in pixels."""
    tile_side: int
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
        """Load a checkpoint. Raises UserError as `loading.load` does."""

    @property
    def decoder(self) -> nn.Module:
        """The language model without its vocabulary projection, as `branches.grow` runs it."""
        return cast(nn.Module, self.network.get_submodule(self.components["language_model"]))

    @property
    def image_token(self) -> str:
        """The token that the chat template writes in the position of an image."""
        return str(self.tokenizer.convert_ids_to_tokens(self.network.config.image_token_id))

    @abstractmethod
    def limit_image_tokens(self, image_tokens: int) -> None:
        """Show each image as one view of at most n embeddings. Raises UserError if the model can't."""

    @property
    @abstractmethod
    def image_frame(self) -> tuple[str, str]:
        """The text before and after an image's embeddings, whatever its views."""

    @abstractmethod
    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) in pixels of each view of an image. If there are several views, the first is a grid of
        tiles."""

    @property
    def fit(self) -> Fit | None:
        """How the size of the last view is chosen: the only one, or the thumbnail. None if the family does it in
        another way."""
        return None

    @property
    def tiled(self) -> bool:
        """Whether a large image has several views."""
        return True

    def prepare(self, image: Image.Image | Tensor) -> Views:
        """Resize an image to its views, (3, H, W) bytes each, as the model was trained.

        Args:
            image: an image, or (..., 3, H, W) bytes: images of one size on any device.
        """
        pixels = image if isinstance(image, Tensor) else to_pixels(image)
        full = tuple(pixels.shape[-2:]) if isinstance(image, Tensor) else full_size(image)
        return tuple(resize(pixels, size, self.resample) for size in self.sizes(*full))

    @abstractmethod
    def encode_images(self, views: Views) -> Views:
        """Run the vision tower: (n, 3, H, W) values in 0..255 of each view -> (n, rows, columns, size) states."""

    @abstractmethod
    def project(self, encoded: Views) -> Views:
        """Run the projector: the result of `encode_images` -> (n, rows, columns, hidden) embeddings of each view."""

    @abstractmethod
    def sequence(self, projected: Views) -> list[Tensor | str]:
        """The result of `project` in prompt order, for the position inside `image_frame`: (n, tokens, hidden)
        embeddings, and the text between them."""

    def assemble(self, projected: Views) -> Tensor:
        """The result of `project` -> (n, tokens, hidden) embeddings of the views and the text between them."""
        n, items = projected[0].shape[0], self.sequence(projected)
        embeddings = (self.embed(self._ids(i)).expand(n, -1, -1) if isinstance(i, str) else i for i in items)
        return torch.cat([item.to(projected[0].dtype) for item in embeddings], 1)

    def _ids(self, text: str) -> Tensor:
        return torch.tensor([self.tokenizer.encode(text, add_special_tokens=False)], device=self.device)

    def embed_images(self, views: Views) -> Tensor:
        """(n, 3, H, W) values in 0..255 of each view -> (n, tokens, hidden) embeddings."""
        return self.assemble(self.project(self.encode_images(views)))

    def sufficient_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which an image has all the detail that its views show. Decoding can stop there."""
        sizes = self.sizes(height, width)
        return max(h for h, _ in sizes), max(w for _, w in sizes)

    def photo_bytes(self) -> int:
        """Size of the views of a large photograph (12 megapixels), in bytes."""
        return sum(3 * height * width for height, width in self.sizes(3000, 4000))

    def tokens(self, shape: Shape) -> int:
        """Number of embeddings of an image with these views, the text between them included."""
        maps = tuple(torch.empty(1, h // self.token_side, w // self.token_side, 0) for _, h, w in shape)
        items = (item if isinstance(item, Tensor) else self._ids(item) for item in self.sequence(maps))
        return sum(item.shape[1] for item in items)

    def patches(self, shape: Shape) -> list[tuple[int, int]]:
        """For each view, the number of patches that enter the tower, and how many each one attends to: those of its
        tile."""
        area = self.patch_side**2
        return [(h * w // area, min(h * w, self.tile_side**2) // area) for _, h, w in shape]

    def memory(self, shape: Shape, past: int) -> int:
        """Peak memory of scoring an image with these views after `past` tokens, in bytes: a high estimate."""
        vision, text = self.network.config.vision_config, self.network.config.text_config
        tokens = self.tokens(shape) + 64  # the end of the question, and the answers being scored
        # Float32 copies of a layer's widest activations and of its attention scores. A tile attends only to itself, and
        # the fused kernel keeps no scores.
        tower = sum(
            n
            * (
                6 * vision.intermediate_size
                + 3 * vision.num_attention_heads * attended * (not fused(attended, self.compute, False))
            )
            for n, attended in self.patches(shape)
        )
        decoder = tokens * (6 * text.intermediate_size + 3 * text.num_attention_heads * (past + tokens))
        return int(4 * max(tower, decoder) + 4 * text.vocab_size)

    def training_memory(self, tokens: int) -> int:
        """Memory that a training step keeps for the backward pass of a segment of n tokens, in bytes: an estimate.
        (LFM2-VL-450M: 1.7 MB per token; benchmarks/true_size.py measured about 1.4.)"""
        text = self.network.config.text_config
        # The inputs that products and norms keep, in the compute dtype; attention scores in float32.
        per_token = (
            text.num_hidden_layers * (5 * text.intermediate_size + 20 * text.hidden_size) * self.compute.itemsize
        )
        types = list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
        scores = 12 * text.num_attention_heads * sum(name.endswith("attention") for name in types) * tokens
        return int(tokens * (per_token + scores))

    def total_memory(self) -> int:
        """Memory of the device or of the machine in bytes, whether free or not. It never changes."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return machine_memory()

    def free_memory(self) -> int:
        """Free memory of the device or of the machine, in bytes."""
        if self.device.type == "cuda":
            # Memory that PyTorch has reserved but doesn't use is free too.
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free, _ = torch.cuda.mem_get_info(self.device)
            return int(free) + unused
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
        """A context in which matrix products run in the compute dtype."""
        if self.compute == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute)


def grouped(keys: Iterable[Any]) -> list[list[int]]:
    """The indices of equal keys, as one list per key, ordered by first occurrence."""
    groups: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())
