"""One vector an image, of several kinds: what the vision tower and the decoder make of it, for simple classifiers.

| kind | |
|---|---|
| `tower mean` | the tower's last layer, averaged over the image |
| `tower grid` | the same over each quarter of it: where things are is kept |
| `decoder end` | the decoder's last hidden state that would begin the answer, which a class head looks at too |
| `decoder image` | its last hidden states, averaged over the image's tokens |
| `decoder 8 end`, `decoder 8 image` | the same after so many layers: a half and three quarters of them |
| `pixels` | 28 x 28 grey values in 0..1: no model at all |

Of an image shown in tiles, the tower's kinds are of the whole where it is shown too. (LFM2-VL's tower has no pooling of
its own: `vision_use_head` is false.)
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
"""Of the image that `pixels` is of."""


def depths(model: Model) -> list[int]:
    """After how many layers the decoder's states are taken, the last aside."""
    n = len(_layers(model))
    return sorted({n // 2, 3 * n // 4} - {0, n})


def feature_names(model: Model) -> list[str]:
    """The kinds that a model has, `pixels` aside."""
    inner = [f"decoder {depth} {where}" for depth in depths(model) for where in ("end", "image")]
    return ["tower mean", "tower grid", *inner, ANSWER, "decoder image"]


def extract(model: Model, before: Branch, after: Tensor, views: Views, wanted: Sequence[str]) -> dict[str, Tensor]:
    """The vectors of n images of one shape; what isn't needed for them isn't run.

    Args:
        before: one row, the question up to the image.
        after: (1, tokens, hidden) embeddings of the question's end.
        views: (n, 3, H, W) values in 0..255 each.

    Returns:
        (n, size) each, by kind, in the order of `wanted`.
    """
    found: dict[str, Tensor] = {}
    if PIXELS in wanted:
        grey = views[-1].float().mean(1, keepdim=True)
        found[PIXELS] = nn.functional.interpolate(grey, (SIDE, SIDE), mode="area").flatten(1) / 255
    if set(wanted) - found.keys():
        seen = model.encode_images(views)
        whole = seen[-1].float().permute(0, 3, 1, 2)
        found["tower mean"] = whole.mean((2, 3))
        found["tower grid"] = nn.functional.adaptive_avg_pool2d(whole, 2).flatten(1)
    if set(wanted) - found.keys():
        image = model.assemble(model.project(seen))
        segment = torch.cat([image, after.expand(len(image), -1, -1).to(image.dtype)], 1)
        inner = [depth for depth in depths(model) if any(kind.startswith(f"decoder {depth} ") for kind in wanted)]
        with _states(model, inner) as states:
            states[""], _ = grow(model.decoder, segment, fork_all(before, len(image)))
        for depth, state in states.items():
            name = f"decoder {depth} ".replace("  ", " ")
            found[f"{name}end"] = state[:, -1].float()
            found[f"{name}image"] = state[:, : image.shape[1]].float().mean(1)
    return {kind: found[kind] for kind in wanted}


def _layers(model: Model) -> nn.ModuleList:
    found: Any = model.decoder
    layers: nn.ModuleList = found.layers
    return layers


@contextmanager
def _states(model: Model, wanted: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Collects the (rows, tokens, hidden) states after so many of the decoder's layers while it runs, by depth."""
    states: dict[str, Tensor] = {}

    def keep(depth: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            states[str(depth)] = output[0] if isinstance(output, tuple) else output

        return _layers(model)[depth - 1].register_forward_hook(hook)

    hooks = [keep(depth) for depth in wanted]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
