"""What a model is fed with of an image, for comparing it with what transformers' own processors make of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lensmith.models.base import Model
from lensmith.models.families import lfm2_vl, lfm3_vl
from lensmith.models.views import Views, stack


class _Seen(Exception):
    """Ends the forward pass where the pixels go in."""


def patches(model: Model, views: Views) -> list[Tensor]:
    """(patches, values) that the vision tower is given of each tile, row by row, and then of the whole image.

    Caught where they enter the tower, so that cutting, normalising and the order of patches are Lensmith's own.
    """
    tower: Any = model.network.model.vision_tower
    entrance = tower.embeddings.patch_embedding if hasattr(tower, "embeddings") else tower
    caught: list[Tensor] = []

    def catch(_: Any, inputs: tuple[Tensor, ...]) -> None:
        caught.extend(inputs[0] if inputs[0].ndim == 3 else inputs[0][None])
        raise _Seen

    handle = entrance.register_forward_pre_hook(catch)
    try:
        for view in stack([views]):
            try:
                model.encode_images((view,))
            except _Seen:
                continue
            raise AssertionError("the vision tower was not asked")
    finally:
        handle.remove()
    return caught


def levels(model: Model, values: Tensor) -> Tensor:
    """Values as they enter the tower -> (n,) levels 0..255; where mean and deviation are those of all channels."""
    assert isinstance(model, lfm2_vl.Model | lfm3_vl.Model)
    return values.flatten() * model.std.flatten()[0] + model.mean.flatten()[0]


def shapes(model: Model, views: Views) -> list[list[int]]:
    """(rows, columns) of patches of each tile, row by row, and then of the whole image."""
    found: list[list[int]] = []
    for view in views:
        height, width = view.shape[-2:]
        if height * width > model.tile**2:
            found += [[model.tile // model.patch] * 2] * (height * width // model.tile**2)
        else:
            found.append([height // model.patch, width // model.patch])
    return found


def words(model: Model, views: Views) -> str:
    """What stands in the prompt for an image, with the image token where an embedding goes."""
    maps = tuple(torch.empty(1, v.shape[-2] // model.step, v.shape[-1] // model.step, 0) for v in views)
    start, end = model.image_frame
    parts = (p if isinstance(p, str) else model.image_token * p.shape[1] for p in model.sequence(maps))
    return start + "".join(parts) + end
