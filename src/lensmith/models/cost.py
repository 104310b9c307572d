"""What an image costs: tokens, and operations of a forward pass, from the model's own shape.

A linear layer takes two operations a weight and token (Kaplan et al., 2001.08361, section 2.1), and attention four a
query, key and number of a head's width. Norms, convolutions over a few tokens and activations are left out: under 2 %.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

from torch import nn

from lensmith.data import Split
from lensmith.data.images import full_size
from lensmith.errors import ImageError, UserError
from lensmith.models.base import Model
from lensmith.models.tuning import component_of
from lensmith.models.views import Shape


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a forward pass, by part."""

    vision_tower: float
    projector: float
    language_model: float

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.vision_tower + self.projector + self.language_model


def weights(model: Model) -> dict[str, int]:
    """Component -> weights of its linear layers, which every token goes through."""
    found = dict.fromkeys(model.components, 0)
    for name, module in model.network.named_modules():
        component = component_of(model, name)
        if component and isinstance(module, nn.Linear):
            found[component] += module.in_features * module.out_features
    return found


def operations(model: Model, shape: Shape, past: int, text: int = 0) -> Operations:
    """Of one image's forward pass, its vocabulary projection aside.

    Args:
        shape: of its views; () for text alone.
        past: tokens before it, which it looks at and which are not run again.
        text: tokens after it that are run with it.
    """
    vision, words = model.network.config.vision_config, model.network.config.text_config
    size = weights(model)
    tokens = (model.tokens(shape) if shape else 0) + text
    kinds = list(getattr(words, "layer_types", None) or ["full_attention"] * words.num_hidden_layers)
    window = getattr(words, "sliding_window", None) or past + tokens
    seen = {"full_attention": past + tokens / 2, "sliding_attention": min(window, past + tokens / 2)}
    width = words.num_attention_heads * (
        getattr(words, "head_dim", None) or words.hidden_size // words.num_attention_heads
    )
    types = list(getattr(vision, "layer_types", None) or ["full_attention"] * vision.num_hidden_layers)
    looks = 4 * vision.hidden_size * types.count("full_attention")
    return Operations(
        sum(n * (2 * size["vision_tower"] + looks * own) for n, own in model.patches(shape)),
        2 * size["projector"] * sum(h * w // model.step**2 for _, h, w in shape),
        tokens * (2 * size["language_model"] + 4 * width * sum(seen.get(kind, 0) for kind in kinds)),
    )


def describe(model: Model, sizes: Sequence[tuple[int, int]], past: int) -> str:
    """What images of these (height, width) cost after a question of `past` tokens, and what a quarter of their tokens
    would, as a sentence."""

    def cost(model: Model) -> tuple[float, float]:
        shapes = [tuple((3, *view) for view in model.sizes(*size)) for size in sizes]
        each = {shape: (model.tokens(shape), operations(model, shape, past).total) for shape in set(shapes)}
        return fmean(each[shape][0] for shape in shapes), fmean(each[shape][1] for shape in shapes)

    tokens, needed = cost(model)
    sentence = (
        f"An image becomes {tokens:.0f} tokens after a question of {past:,}, and takes {needed / 1e9:,.1f} billion "
        "operations."
    )
    fewer, budget = copy.copy(model), max(1, round(tokens / 4))
    try:
        fewer.limit(budget)
        less, share = cost(fewer)
    except UserError:  # it can't have so few
        return sentence
    if less > tokens / 2:
        return sentence
    return (
        f"{sentence} With model.image_tokens={budget} it becomes {less:.0f}, shows less, and takes "
        f"{share / needed:.2f} of that."
    )


def image_cost(model: Model, split: Split, past: int, max_pixels: int, samples: int = 16) -> str:
    """What an image costs, as a sentence, by the sizes of some images of a split.

    Args:
        past: tokens of the question before the image.
        max_pixels: as in `decode_image`.
    """
    sizes = []
    for i in range(0, len(split), -(-len(split) // samples)):
        with suppress(ImageError):  # images that can't be read are reported where they are scored
            sizes.append(full_size(split.image(i, max_pixels, lambda *_: (1, 1))))
    return describe(model, sizes, past) if sizes else "No image can be read."
