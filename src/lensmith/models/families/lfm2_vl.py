"""LFM2-VL and LFM2.5-VL: SigLIP2 NaFlex tower, pixel unshuffle, projector, hybrid conv/attention decoder.

transformers' own image processor needs torchvision, so images are prepared here: the size that keeps the aspect ratio
within the checkpoint's token budget; of a large image a grid of tiles, and a thumbnail if the checkpoint has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor
from transformers import Lfm2VlForConditionalGeneration

from lensmith.config import ModelOptions
from lensmith.errors import UserError
from lensmith.models import base
from lensmith.models.loading import Checkpoint, load
from lensmith.models.views import Views, cut, filter_of, fitting, join, tiles_of, tiling


class Model(base.Model):
    components: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "projector": "model.multi_modal_projector",
        "vision_tower": "model.vision_tower",
    }

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        super().__init__(checkpoint, options)
        config, settings = self.network.config, self.settings
        self.patch = int(config.vision_config.patch_size)
        self.step = self.patch * int(config.downsample_factor)
        self.tile = int(settings.get("tile_size", 512))
        self.resample = filter_of(settings.get("resample"), 2)
        self.least, self.most = (
            int(settings.get(key, default)) * self.step**2
            for key, default in (("min_image_tokens", 64), ("max_image_tokens", 256))
        )
        tiles = int(settings.get("min_tiles", 2)), int(settings.get("max_tiles", 10))
        self.tiles = tiles if settings.get("do_image_splitting", True) and tiles != (1, 1) else None
        if options.image_tokens:
            self.limit(options.image_tokens)
        if self.tiles and 2 * self.tile**2 <= self.most:  # by which a grid is known
            raise UserError(f"{options.base} has grids no larger than a whole image.", "Give model.image_tokens.")
        self.tolerance = float(settings.get("max_pixels_tolerance", 2.0))
        self.thumbnail = bool(settings.get("use_thumbnail", True))
        mean, std = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
        # (values of a patch,): channels lie innermost.
        self.mean, self.std = (
            torch.tensor(values, device=self.device).repeat(self.patch**2) * 255 for values in (mean, std)
        )

    @classmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        return cls(load(Lfm2VlForConditionalGeneration, folder, options, cls.components), options)

    def limit(self, image_tokens: int) -> None:
        self.most, self.tiles = image_tokens * self.step**2, None
        self.least = min(self.least, self.most)

    @property
    def image_frame(self) -> tuple[str, str]:
        return self._token("image_start_token", "<|image_start|>"), self._token("image_end_token", "<|image_end|>")

    def _token(self, name: str, usual: str) -> str:
        return str(getattr(self.tokenizer, name, None) or usual)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        whole = fitting(height, width, self.step, self.least, self.most)
        if not self.tiles:
            return [whole]
        high, wide = (max(self.patch, round(side / self.step) * self.step) for side in (height, width))
        if high * wide <= self.most * self.tolerance:
            return [whole]
        rows, columns = tiling(height, width, *self.tiles, self.tile)
        grid = rows * self.tile, columns * self.tile
        return [grid, whole] if self.thumbnail and rows * columns > 1 else [grid]

    def encode_images(self, views: Views) -> Views:
        return tuple(self._encode(view.to(self.device)) for view in views)

    def _encode(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        if height * width > self.most:
            return join(self._encode(cut(pixels, self.tile)), height // self.tile, width // self.tile)
        n, p = len(pixels), self.patch
        rows, columns = height // p, width // p
        patches = pixels.reshape(n, 3, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
        values = (patches.reshape(n, rows * columns, -1).float() - self.mean).div_(self.std)
        tower = self.network.model.vision_tower
        embeddings = tower.embeddings
        grid = embeddings.position_embedding.weight.view(*[embeddings.position_embedding_size] * 2, -1)
        # All images here have one size, so positions are resized once, where the tower would do it once an image,
        # and attention needs no mask.
        positions = embeddings.resize_positional_embeddings(
            grid, torch.tensor([[rows, columns]], device=self.device), max_length=rows * columns
        )
        weight = embeddings.patch_embedding.weight
        embedded = embeddings.patch_embedding(values.to(weight.dtype)) + positions
        seen = tower.post_layernorm(tower.encoder(inputs_embeds=embedded).last_hidden_state)
        return cast(Tensor, seen.view(n, rows, columns, -1))

    def project(self, seen: Views) -> Views:
        return tuple(self._project(view) for view in seen)

    def _project(self, seen: Tensor) -> Tensor:
        projected: Tensor = self.network.model.multi_modal_projector(seen)
        return projected

    def sequence(self, projected: Views) -> list[Tensor | str]:
        *grids, last = projected
        side = self.tile // self.step
        if not grids and last.shape[1] * last.shape[2] * self.step**2 <= self.most:
            return [last.flatten(1, 2)]
        parts: list[Tensor | str] = []
        for row, tiles in enumerate(tiles_of(projected[0], side), 1):
            for column, tile in enumerate(tiles, 1):
                parts += [f"<|img_row_{row}_col_{column}|>", tile]
        if grids:
            parts += [self._token("image_thumbnail_token", "<|img_thumbnail|>"), last.flatten(1, 2)]
        return parts
