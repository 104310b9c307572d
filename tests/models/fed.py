"""The inputs that a model gets from an image, to compare them with those of transformers' own processors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lensmith.models.base import Model
from lensmith.models.families import lfm2_vl, lfm3_vl
from lensmith.models.views import Views, stack


class _Caught(Exception):
    """Stops the forward pass where the pixels enter it."""


def patches(model: Model, views: Views) -> list[Tensor]:
    """(patches, values) inputs of the vision tower for each tile, row by row, and then for the thumbnail.

    They are caught where they enter the tower, so tiling, normalisation and the order of patches are Lensmith's own.
    """
    tower: Any = model.network.model.vision_tower
    entrance = tower.embeddings.patch_embedding if hasattr(tower, "embeddings") else tower
    caught: list[Tensor] = []

    def catch(_: Any, inputs: tuple[Tensor, ...]) -> None:
        caught.extend(inputs[0] if inputs[0].ndim == 3 else inputs[0][None])
        raise _Caught

    handle = entrance.register_forward_pre_hook(catch)
    try:
        for view in stack([views]):
            try:
                model.encode_images((view,))
            except _Caught:
                continue
            raise AssertionError("the vision tower was not run")
    finally:
        handle.remove()
    return caught


def levels(model: Model, values: Tensor) -> Tensor:
    """Inputs of the tower -> (n,) levels 0..255, if all channels have the same mean and standard deviation."""
    assert isinstance(model, lfm2_vl.Model | lfm3_vl.Model)
    return values.flatten() * model.std.flatten()[0] + model.mean.flatten()[0]


def shapes(model: Model, views: Views) -> list[list[int]]:
    """(rows, columns) of patches of each tile, row by row, and then of the thumbnail."""
    grids: list[list[int]] = []
    for view in views:
        height, width = view.shape[-2:]
        if height * width > model.tile_side**2:
            grids += [[model.tile_side // model.patch_side] * 2] * (height * width // model.tile_side**2)
        else:
            grids.append([height // model.patch_side, width // model.patch_side])
    return grids


def words(model: Model, views: Views) -> str:
    """The text of an image in the prompt, with the image token in place of each embedding."""
    maps = tuple(torch.empty(1, v.shape[-2] // model.token_side, v.shape[-1] // model.token_side, 0) for v in views)
    start, end = model.image_frame
    items = (i if isinstance(i, str) else model.image_token * i.shape[1] for i in model.sequence(maps))
    return start + "".join(items) + end
