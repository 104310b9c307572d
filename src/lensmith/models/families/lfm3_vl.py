"""LFM3-VL: a tower of gated 2-D convolutions and attention, block merge, projector, and a decoder of conv, attention
and sliding-window attention layers.

Images are prepared as in transformers' Qwen2VLImageProcessor: one view, at the size that keeps the aspect ratio within
the checkpoint's pixel budget. Needs transformers 5.23 or later.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor
from transformers import Lfm3VlForConditionalGeneration

from lensmith.config import ModelOptions
from lensmith.models import base
from lensmith.models.loading import Checkpoint, load
from lensmith.models.views import Fit, Views, resample_filter


class Model(base.Model):
    components: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "projector": "model.multi_modal_projector",
        "vision_tower": "model.vision_tower",
    }

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions) -> None:
        super().__init__(checkpoint, options)
        vision, settings = self.network.config.vision_config, self.settings
        self.patch_side, self.merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self.frames = int(vision.temporal_patch_size)
        self.token_side = self.patch_side * self.merge
        self.resample = resample_filter(settings.get("resample"), 3)
        size = settings.get("size", {})
        self.min_pixels = int(settings.get("min_pixels") or size.get("shortest_edge", 56 * 56))
        self.max_pixels = int(settings.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280))
        self.tile_side = self.max_pixels  # no tiles: a view is never larger than this
        if options.image_tokens:
            self.limit_image_tokens(options.image_tokens)
        self.mean, self.std = (
            torch.tensor(settings.get(name, default), device=self.device).view(3, 1, 1) * 255
            for name, default in (("image_mean", [0.48145466, 0.4578275, 0.40821073]),
                                ("image_std", [0.26862954, 0.26130258, 0.27577711]))
        )  # fmt: skip

    @classmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        return cls(load(Lfm3VlForConditionalGeneration, folder, options, cls.components), options)

    def limit_image_tokens(self, image_tokens: int) -> None:
        self.max_pixels = image_tokens * self.token_side**2
        self.min_pixels = min(self.min_pixels, self.max_pixels)
        # A new dictionary, since a copy of the model shares the old one with it.
        self.settings = self.settings | {
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
        }
        self.settings = self.settings | {"size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}}

    @property
    def image_frame(self) -> tuple[str, str]:
        return "", ""  # the chat template writes the frame

    @property
    def fit(self) -> Fit:
        return Fit(self.token_side, self.min_pixels, self.max_pixels, narrow=False)

    @property
    def tiled(self) -> bool:
        return False

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        return [self.fit.size(height, width)]

    def encode_images(self, views: Views) -> Views:
        (pixels,) = views
        n, _, height, width = pixels.shape
        rows, columns, m, p = height // self.token_side, width // self.token_side, self.merge, self.patch_side
        values = (pixels.to(self.device).float() - self.mean) / self.std
        # Patches are ordered by the blocks that become one embedding. An image is a video of identical frames.
        blocks = values.view(n, 3, rows, m, p, columns, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        patches = (
            blocks[..., None, :, :].expand(*blocks.shape[:-2], self.frames, p, p).reshape(-1, 3 * self.frames * p * p)
        )
        tower = self.network.model.vision_tower
        # To the tower, images of one size are frames of one video, each of which attends only to itself.
        grid = torch.tensor([[n, rows * m, columns * m]], device=self.device)
        states = tower(patches.to(tower.patch_embed.weight.dtype), grid_thw=grid).last_hidden_state
        return (cast(Tensor, states).view(n, rows, columns, -1),)

    def project(self, encoded: Views) -> Views:
        (view,) = encoded
        size = self.network.config.vision_config.hidden_size
        projected: Tensor = self.network.model.multi_modal_projector(view.reshape(-1, size))
        return (projected.view(*view.shape[:3], -1),)

    def sequence(self, projected: Views) -> list[Tensor | str]:
        return [projected[0].flatten(1, 2)]
