"""SmolVLM and SmolVLM2: SigLIP tower, pixel shuffle, projector, Llama decoder. It shares no component with the LFM
family.

Images are scaled with Pillow's Lanczos filter, as the model was trained, in three steps: to a fixed length of the
longer side, then to a grid of square tiles, then the grid to one more tile, which shows the full image.
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
from lensmith.models.views import Views, cut_tiles, join_tiles, stack, tiles_of, to_pixels


class Model(base.Model):
    components: ClassVar[dict[str, str]] = {
        "language_model": "model.text_model",
        "projector": "model.connector",
        "vision_tower": "model.vision_model",
    }

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        super().__init__(checkpoint, options)
        config, settings = self.network.config, self.settings
        self.patch_side = int(config.vision_config.patch_size)
        self.token_side = self.patch_side * int(config.scale_factor)
        self.tile_side = int(settings["max_image_size"]["longest_edge"])
        self.length = int(settings["size"]["longest_edge"])
        self.splits = bool(settings.get("do_image_splitting", True))
        if options.image_tokens:
            self.limit_image_tokens(options.image_tokens)
        mean, std = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
        self.mean, self.std = (torch.tensor(values, device=self.device).view(3, 1, 1) * 255 for values in (mean, std))

    @classmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        return cls(load(SmolVLMForConditionalGeneration, folder, options, cls.components), options)

    def limit_image_tokens(self, image_tokens: int) -> None:
        minimum = (self.tile_side // self.token_side) ** 2
        if image_tokens < minimum:
            raise UserError(
                f"{self.options.base} needs at least {minimum} tokens for an image.",
                f"Use model.image_tokens={minimum}.",
            )
        self.splits = False
        # A new dictionary, since a copy of the model shares the old one with it.
        self.settings = self.settings | {"do_image_splitting": False}

    @property
    def image_frame(self) -> tuple[str, str]:
        fake = str(getattr(self.tokenizer, "fake_image_token", None) or "<fake_token_around_image>")
        return fake, fake

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        single = self.tile_side, self.tile_side
        if not self.splits:
            return [single]
        height, width = self._scaled(height, width)
        # The longer side first: the shorter is computed from its rounded length.
        if width >= height:
            wide = math.ceil(width / self.tile_side) * self.tile_side
            high = math.ceil(int(wide / (width / height)) / self.tile_side) * self.tile_side
        else:
            high = math.ceil(height / self.tile_side) * self.tile_side
            wide = math.ceil(int(high * (width / height)) / self.tile_side) * self.tile_side
        return [single] if (high, wide) == single else [(high, wide), single]

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) whose longer side is `length`; the other side is even."""
        ratio = width / height
        if width >= height:
            other = int(self.length / ratio)
            return max(other + other % 2, 1), self.length
        other = int(self.length * ratio)
        return self.length, max(other + other % 2, 1)

    def prepare(self, image: Image.Image | Tensor) -> Views:
        if isinstance(image, Tensor):  # only Pillow has the filter, and it takes one image at a time
            flat = image.reshape(-1, *image.shape[-3:]).cpu()
            stacked = stack([self.prepare(Image.fromarray(pixels.permute(1, 2, 0).numpy())) for pixels in flat])
            return tuple(view.reshape(*image.shape[:-2], *view.shape[-2:]).to(image.device) for view in stacked)
        scaled, views = image.convert("RGB"), []
        for height, width in [self._scaled(*full_size(image)), *self.sizes(*full_size(image))]:
            scaled = scaled.resize((width, height), Image.Resampling.LANCZOS)
            views.append(to_pixels(scaled))
        return tuple(views[1:])

    def encode_images(self, views: Views) -> Views:
        return tuple(self._by_tiles(view.to(self.device), self._encode, self.tile_side) for view in views)

    def _encode(self, tiles: Tensor) -> Tensor:
        tower = self.network.model.vision_model
        values = (tiles.float() - self.mean) / self.std
        side = self.tile_side // self.patch_side
        states: Tensor = tower(pixel_values=values.to(tower.embeddings.patch_embedding.weight.dtype)).last_hidden_state
        return states.view(len(states), side, side, -1)

    def project(self, encoded: Views) -> Views:
        side = self.tile_side // self.patch_side
        return tuple(self._by_tiles(view.movedim(-1, 1), self._project, side) for view in encoded)

    def _project(self, tiles: Tensor) -> Tensor:
        projected: Tensor = self.network.model.connector(tiles.movedim(1, -1).flatten(1, 2).contiguous())
        side = self.tile_side // self.token_side
        return projected.view(len(projected), side, side, -1)

    @staticmethod
    def _by_tiles(view: Tensor, change: Callable[[Tensor], Tensor], side: int) -> Tensor:
        return join_tiles(change(cut_tiles(view, side)), view.shape[-2] // side, view.shape[-1] // side)

    def sequence(self, projected: Views) -> list[Tensor | str]:
        *grids, thumbnail = projected
        fake, _ = self.image_frame
        items: list[Tensor | str] = []
        between = ""  # the image frame already has the token before the first tile
        for grid in grids:
            for row, tiles in enumerate(tiles_of(grid, self.tile_side // self.token_side), 1):
                for column, tile in enumerate(tiles, 1):
                    items += [f"{between}<row_{row}_col_{column}>", tile]
                    between = fake
                between = f"\n{fake}"
            between = f"\n\n{fake}"
        items += [f"{between}{getattr(self.tokenizer, 'global_image_token', None) or '<global-img>'}"]
        return [*items, thumbnail.flatten(1, 2)]
