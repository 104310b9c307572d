"""LFM2-VL and LFM2.5-VL: SigLIP2 NaFlex tower, pixel unshuffle, projector, hybrid conv/attention decoder.

transformers' own image processor needs torchvision, so images are prepared here. An image gets the size that keeps its
aspect ratio within the checkpoint's token budget. A large image becomes a grid of tiles, with a thumbnail if the
checkpoint uses thumbnails.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Lfm2VlForConditionalGeneration

from lensmith.config import ModelOptions
from lensmith.errors import UserError
from lensmith.models import base
from lensmith.models.loading import Checkpoint, load
from lensmith.models.views import Fit, Views, choose_grid, cut_tiles, join_tiles, resample_filter, tiles_of


class Model(base.Model):
    components: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "projector": "model.multi_modal_projector",
        "vision_tower": "model.vision_tower",
    }

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        super().__init__(checkpoint, options)
        config, settings = self.network.config, self.settings
        self.patch_side = int(config.vision_config.patch_size)
        self.token_side = self.patch_side * int(config.downsample_factor)
        self.tile_side = int(settings.get("tile_size", 512))
        self.resample = resample_filter(settings.get("resample"), 2)
        self.min_pixels, self.max_pixels = (
            int(settings.get(key, default)) * self.token_side**2
            for key, default in (("min_image_tokens", 64), ("max_image_tokens", 256))
        )
        limits = int(settings.get("min_tiles", 2)), int(settings.get("max_tiles", 10))
        self.tile_limits = limits if settings.get("do_image_splitting", True) and limits != (1, 1) else None
        if options.image_tokens:
            self.limit_image_tokens(options.image_tokens)
        if self.tile_limits and 2 * self.tile_side**2 <= self.max_pixels:  # a grid is recognised by its size
            raise UserError(
                f"{options.base} has grids of tiles no larger than an image without tiles.", "Set model.image_tokens."
            )
        self.tolerance = float(settings.get("max_pixels_tolerance", 2.0))
        self.thumbnail = bool(settings.get("use_thumbnail", True))
        mean, std = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
        # (values of a patch,), channels innermost.
        self.mean, self.std = (
            torch.tensor(values, device=self.device).repeat(self.patch_side**2) * 255 for values in (mean, std)
        )

    @classmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        return cls(load(Lfm2VlForConditionalGeneration, folder, options, cls.components), options)

    def limit_image_tokens(self, image_tokens: int) -> None:
        self.max_pixels, self.tile_limits = image_tokens * self.token_side**2, None
        self.min_pixels = min(self.min_pixels, self.max_pixels)
        least = self.min_pixels // self.token_side**2
        # A new dictionary, since a copy of the model shares the old one with it.
        self.settings = self.settings | {
            "max_image_tokens": image_tokens,
            "min_image_tokens": least,
            "do_image_splitting": False,
        }

    @property
    def image_frame(self) -> tuple[str, str]:
        return self._token("image_start_token", "<|image_start|>"), self._token("image_end_token", "<|image_end|>")

    def _token(self, name: str, default: str) -> str:
        return str(getattr(self.tokenizer, name, None) or default)

    @property
    def fit(self) -> Fit:
        return Fit(self.token_side, self.min_pixels, self.max_pixels)

    @property
    def tiled(self) -> bool:
        return self.tile_limits is not None

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        single = self.fit.size(height, width)
        if not self.tile_limits:
            return [single]
        high, wide = (max(self.patch_side, round(side / self.token_side) * self.token_side) for side in (height, width))
        if high * wide <= self.max_pixels * self.tolerance:
            return [single]
        rows, columns = choose_grid(height, width, *self.tile_limits, self.tile_side)
        grid = rows * self.tile_side, columns * self.tile_side
        return [grid, single] if self.thumbnail and rows * columns > 1 else [grid]

    def encode_images(self, views: Views) -> Views:
        return tuple(self._encode(view.to(self.device)) for view in views)

    def _encode(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if self.tile_limits and height * width > self.max_pixels:
            return join_tiles(
                self._encode(cut_tiles(pixels, self.tile_side)), height // self.tile_side, width // self.tile_side
            )
        n, p = pixels.shape[0], self.patch_side
        rows, columns = height // p, width // p
        patches = pixels.reshape(n, 3, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
        values = (patches.reshape(n, rows * columns, -1).float() - self.mean).div_(self.std)
        tower = self.network.model.vision_tower
        embeddings = tower.embeddings
        # All images here have the same size. Positions are therefore resized once (the tower would do it for each
        # image), and attention needs no mask.
        grid = embeddings.position_embedding.weight.view(*[embeddings.position_embedding_size] * 2, -1)
        # As the tower does it: a CPU can't smooth in 16 bits.
        grid = grid.float() if grid.device.type == "cpu" else grid
        positions = F.interpolate(
            grid.permute(2, 0, 1)[None], (rows, columns), mode="bilinear", align_corners=False, antialias=True
        )
        positions = positions.flatten(2).transpose(1, 2).to(embeddings.position_embedding.weight.dtype)
        weight = embeddings.patch_embedding.weight
        embedded = embeddings.patch_embedding(values.to(weight.dtype)) + positions
        states = tower.post_layernorm(tower.encoder(inputs_embeds=embedded).last_hidden_state)
        return cast(Tensor, states.view(n, rows, columns, -1))

    def project(self, encoded: Views) -> Views:
        return tuple(self._project(view) for view in encoded)

    def _project(self, encoded: Tensor) -> Tensor:
        projected: Tensor = self.network.model.multi_modal_projector(encoded)
        return projected

    def sequence(self, projected: Views) -> list[Tensor | str]:
        *grids, last = projected
        side = self.tile_side // self.token_side
        if not grids and (
            not self.tile_limits or last.shape[1] * last.shape[2] * self.token_side**2 <= self.max_pixels
        ):
            return [last.flatten(1, 2)]
        items: list[Tensor | str] = []
        for row, tiles in enumerate(tiles_of(projected[0], side), 1):
            for column, tile in enumerate(tiles, 1):
                items += [f"<|img_row_{row}_col_{column}|>", tile]
        if grids:
            items += [self._token("image_thumbnail_token", "<|img_thumbnail|>"), last.flatten(1, 2)]
        return items
