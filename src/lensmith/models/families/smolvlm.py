"""SmolVLM and SmolVLM2: SigLIP tower, pixel shuffle, projector, Llama decoder. It shares nothing with the LFM family.

Images are scaled by Pillow's Lanczos filter, as the model was trained: to one length, whatever their own, then to a
grid of square tiles, then that to one tile more, which shows the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import SmolVLMForConditionalGeneration

from lensmith.config import ModelOptions
from lensmith.data.images import full_size
from lensmith.errors import UserError
from lensmith.models import base
from lensmith.models.loading import Checkpoint, load
from lensmith.models.views import Views, cut, join, stack, tiles_of, to_pixels


class Model(base.Model):
    components: ClassVar[dict[str, str]] = {
        "language_model": "model.text_model",
        "projector": "model.connector",
        "vision_tower": "model.vision_model",
    }

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        super().__init__(checkpoint, options)
        config, settings = self.network.config, self.settings
        self.patch = int(config.vision_config.patch_size)
        self.step = self.patch * int(config.scale_factor)
        self.tile = int(settings["max_image_size"]["longest_edge"])
        self.length = int(settings["size"]["longest_edge"])
        self.splits = bool(settings.get("do_image_splitting", True))
        if options.image_tokens:
            self.limit(options.image_tokens)
        mean, std = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
        self.mean, self.std = (torch.tensor(values, device=self.device).view(3, 1, 1) * 255 for values in (mean, std))

    @classmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        return cls(load(SmolVLMForConditionalGeneration, folder, options, cls.components), options)

    def limit(self, image_tokens: int) -> None:
        least = (self.tile // self.step) ** 2
        if image_tokens < least:
            raise UserError(
                f"{self.options.base} shows an image in {least} tokens at least.", f"Use model.image_tokens={least}."
            )
        self.splits = False

    @property
    def image_frame(self) -> tuple[str, str]:
        fake = str(getattr(self.tokenizer, "fake_image_token", None) or "<fake_token_around_image>")
        return fake, fake

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        one = self.tile, self.tile
        if not self.splits:
            return [one]
        height, width = self._scaled(height, width)
        # The longer side first: the shorter follows from what it has become.
        if width >= height:
            wide = math.ceil(width / self.tile) * self.tile
            high = math.ceil(int(wide / (width / height)) / self.tile) * self.tile
        else:
            high = math.ceil(height / self.tile) * self.tile
            wide = math.ceil(int(high * (width / height)) / self.tile) * self.tile
        return [one] if (high, wide) == one else [(high, wide), one]

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Scaled to the one length; the other side is even."""
        ratio = width / height
        if width >= height:
            other = int(self.length / ratio)
            return max(other + other % 2, 1), self.length
        other = int(self.length * ratio)
        return self.length, max(other + other % 2, 1)

    def prepare(self, image: Image.Image | Tensor) -> Views:
        if isinstance(image, Tensor):  # Pillow has the filter, and takes one image at a time
            flat = image.reshape(-1, *image.shape[-3:]).cpu()
            stacked = stack([self.prepare(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in flat])
            return tuple(view.reshape(*image.shape[:-2], *view.shape[-2:]).to(image.device) for view in stacked)
        scaled, views = image.convert("RGB"), []
        for height, width in [self._scaled(*full_size(image)), *self.sizes(*full_size(image))]:
            scaled = scaled.resize((width, height), Image.Resampling.LANCZOS)
            views.append(to_pixels(scaled))
        return tuple(views[1:])

    def encode_images(self, views: Views) -> Views:
        return tuple(self._by_tiles(view.to(self.device), self._encode, self.tile) for view in views)

    def _encode(self, tiles: Tensor) -> Tensor:
        tower = self.network.model.vision_model
        values = (tiles.float() - self.mean) / self.std
        side = self.tile // self.patch
        seen: Tensor = tower(pixel_values=values.to(tower.embeddings.patch_embedding.weight.dtype)).last_hidden_state
        return seen.view(len(seen), side, side, -1)

    def project(self, seen: Views) -> Views:
        return tuple(self._by_tiles(view.movedim(-1, 1), self._project, self.tile // self.patch) for view in seen)

    def _project(self, tiles: Tensor) -> Tensor:
        projected: Tensor = self.network.model.connector(tiles.movedim(1, -1).flatten(1, 2).contiguous())
        side = self.tile // self.step
        return projected.view(len(projected), side, side, -1)

    @staticmethod
    def _by_tiles(view: Tensor, change: Callable[[Tensor], Tensor], side: int) -> Tensor:
        return join(change(cut(view, side)), view.shape[-2] // side, view.shape[-1] // side)

    def sequence(self, projected: Views) -> list[Tensor | str]:
        *grids, whole = projected
        fake, _ = self.image_frame
        parts: list[Tensor | str] = []
        between = ""  # the first tile follows the frame's own token
        for grid in grids:
            for row, tiles in enumerate(tiles_of(grid, self.tile // self.step), 1):
                for column, tile in enumerate(tiles, 1):
                    parts += [f"{between}<row_{row}_col_{column}>", tile]
                    between = fake
                between = f"\n{fake}"
            between = f"\n\n{fake}"
        parts += [f"{between}{getattr(self.tokenizer, 'global_image_token', None) or '<global-img>'}"]
        return [*parts, whole.flatten(1, 2)]
