"""Features of an image for simple classifiers: fixed-size summaries of the vision tower's and the decoder's states.

| feature | |
|---|---|
| `tower mean` | the tower's last layer, averaged over the image |
| `tower grid` | the same for each quarter of the image, which preserves coarse positions |
| `decoder end` | the decoder's last hidden state before the answer, which a class head also uses |
| `decoder image` | its last hidden states, averaged over the image's tokens |
| `decoder 8 end`, `decoder 8 image` | the same after 8 layers; extracted at half and three quarters of the layers |
| `pixels` | 28 x 28 grey values in 0..1; no model involved |

For an image shown as tiles, the tower's features are those of the thumbnail, if there is one. (LFM2-VL's tower has no
pooling layer: `vision_use_head` is false.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.engine.branches import Branch, fork_all, grow
from lensmith.models.base import Model
from lensmith.models.heads import ANSWER
from lensmith.models.views import Views

PIXELS = "pixels"
SIDE = 28
"""Side of the grey image that `pixels` holds, in pixels."""


def depths(model: Model) -> list[int]:
    """The numbers of layers after which the decoder's states are extracted, apart from the last layer."""
    n = len(_layers(model))
    return sorted({n // 2, 3 * n // 4} - {0, n})


def feature_names(model: Model) -> list[str]:
    """The names of a model's features, `pixels` excluded."""
    inner = [f"decoder {depth} {position}" for depth in depths(model) for position in ("end", "image")]
    return ["tower mean", "tower grid", *inner, ANSWER, "decoder image"]


def extract(
    model: Model, before: Branch, after: Tensor, views: Views, wanted: Sequence[str], encoded: Views | None = None
) -> dict[str, Tensor]:
    """The features of n images of one shape. Parts of the model that they don't need aren't run.

    Args:
        before: one row, the question up to the image.
        after: (1, tokens, hidden) embeddings of the end of the question.
        views: (n, 3, H, W) values in 0..255 each.
        wanted: feature names.
        encoded: the result of `Model.encode_images`, if it is known already.

    Returns:
        (n, size) for each feature name, in the order of `wanted`.
    """
    features: dict[str, Tensor] = {}
    if PIXELS in wanted:
        grey = views[-1].float().mean(1, keepdim=True)
        features[PIXELS] = nn.functional.interpolate(grey, (SIDE, SIDE), mode="area").flatten(1) / 255
    if set(wanted) - features.keys():
        encoded = encoded or model.encode_images(views)
        last_view = encoded[-1].float().permute(0, 3, 1, 2)
        features["tower mean"] = last_view.mean((2, 3))
        features["tower grid"] = nn.functional.adaptive_avg_pool2d(last_view, 2).flatten(1)
    if set(wanted) - features.keys():
        image = model.assemble(model.project(encoded or model.encode_images(views)))
        segment = torch.cat([image, after.expand(image.shape[0], -1, -1).to(image.dtype)], 1)
        inner = [depth for depth in depths(model) if any(name.startswith(f"decoder {depth} ") for name in wanted)]
        with _states(model, inner) as states:
            states[""], _ = grow(model.decoder, segment, fork_all(before, image.shape[0]))
        for depth, state in states.items():
            prefix = f"decoder {depth} ".replace("  ", " ")
            features[f"{prefix}end"] = state[:, -1].float()
            features[f"{prefix}image"] = state[:, : image.shape[1]].float().mean(1)
    return {name: features[name] for name in wanted}


def _layers(model: Model) -> nn.ModuleList:
    decoder: Any = model.decoder
    layers: nn.ModuleList = decoder.layers
    return layers


@contextmanager
def _states(model: Model, depths: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Records the (rows, tokens, hidden) states after the given numbers of decoder layers while it runs, by depth."""
    states: dict[str, Tensor] = {}

    def record(depth: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            states[str(depth)] = output[0] if isinstance(output, tuple) else output

        return _layers(model)[depth - 1].register_forward_hook(hook)

    hooks = [record(depth) for depth in depths]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
