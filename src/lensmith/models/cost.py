"""The cost of an image: its tokens and the operations of its forward pass, computed from the model's configuration.

A linear layer takes two operations per weight and token (Kaplan et al., 2001.08361, section 2.1). Attention takes four
per query, key and unit of head width. Norms, short convolutions and activations are left out: under 2 %.
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
from lensmith.models.layers.int8 import Int8Linear
from lensmith.models.tuning import component_of
from lensmith.models.views import Shape


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a forward pass, by component."""

    vision_tower: float
    projector: float
    language_model: float

    @property
    def total(self) -> float:
        """Of all components."""
        return self.vision_tower + self.projector + self.language_model


def weights(model: Model) -> dict[str, int]:
    """Component -> number of weights in its linear layers."""
    counts = dict.fromkeys(model.components, 0)
    for name, module in model.network.named_modules():
        component = component_of(model, name)
        if component and isinstance(module, (nn.Linear, Int8Linear)):
            counts[component] += module.in_features * module.out_features
    return counts


def operations(model: Model, shape: Shape, past: int, text: int = 0) -> Operations:
    """The operations of one image's forward pass, without the vocabulary projection.

    Args:
        shape: shapes of the image's views; () for text alone.
        past: tokens before the image, which it attends to and which are not run again.
        text: tokens after the image that run with it.
    """
    vision, decoder = model.network.config.vision_config, model.network.config.text_config
    linear = weights(model)
    tokens = (model.tokens(shape) if shape else 0) + text
    decoder_types = list(getattr(decoder, "layer_types", None) or ["full_attention"] * decoder.num_hidden_layers)
    window = getattr(decoder, "sliding_window", None) or past + tokens
    # Mean number of keys per query.
    keys = {"full_attention": past + tokens / 2, "sliding_attention": min(window, past + tokens / 2)}
    width = decoder.num_attention_heads * (
        getattr(decoder, "head_dim", None) or decoder.hidden_size // decoder.num_attention_heads
    )
    tower_types = list(getattr(vision, "layer_types", None) or ["full_attention"] * vision.num_hidden_layers)
    tower_attention = 4 * vision.hidden_size * tower_types.count("full_attention")
    return Operations(
        sum(n * (2 * linear["vision_tower"] + tower_attention * attended) for n, attended in model.patches(shape)),
        2 * linear["projector"] * sum(h * w // model.token_side**2 for _, h, w in shape),
        tokens * (2 * linear["language_model"] + 4 * width * sum(keys.get(name, 0) for name in decoder_types)),
    )


@dataclass(frozen=True)
class ImageCost:
    """What an image costs on average after a question."""

    tokens: float
    operations: float
    past: int
    """Tokens of the question before the image."""
    budget: int | None = None
    """A quarter of the tokens as `model.image_tokens`, if the model can show an image in so few."""
    budget_tokens: float = 0.0
    budget_share: float = 1.0
    """The tokens that an image really has with that budget, and the fraction of the operations that it then takes."""

    @property
    def sentence(self) -> str:
        """For a person."""
        sentence = (
            f"An image becomes {self.tokens:.0f} tokens after a question of {self.past:,}, and takes "
            f"{self.operations / 1e9:,.1f} billion operations."
        )
        if self.budget is None:
            return sentence
        return (
            f"{sentence} With model.image_tokens={self.budget} it becomes {self.budget_tokens:.0f}, shows less detail, "
            f"and takes {self.budget_share:.0%} of the operations."
        )


def describe(model: Model, sizes: Sequence[tuple[int, int]], past: int) -> ImageCost:
    """The mean cost of images of these (height, width) sizes, and the cost with a quarter of their tokens."""

    def mean_cost(model: Model) -> tuple[float, float]:
        """Tokens and operations per image."""
        shapes = [tuple((3, *view) for view in model.sizes(*size)) for size in sizes]
        tokens = {shape: model.tokens(shape) for shape in set(shapes)}
        totals = {shape: operations(model, shape, past).total for shape in set(shapes)}
        return fmean(tokens[shape] for shape in shapes), fmean(totals[shape] for shape in shapes)

    tokens, total = mean_cost(model)
    cost = ImageCost(tokens, total, past)
    limited, budget = copy.copy(model), max(1, round(tokens / 4))
    try:
        limited.limit_image_tokens(budget)
        limited_tokens, limited_total = mean_cost(limited)
    except UserError:  # the model needs more tokens
        return cost
    if limited_tokens > tokens / 2:
        return cost
    return ImageCost(tokens, total, past, budget, limited_tokens, limited_total / total)


def image_cost(model: Model, split: Split, past: int, max_pixels: int, samples: int = 16) -> ImageCost | None:
    """The cost of an image, from the sizes of some images of a split; None if none of them can be read.

    Args:
        past: tokens of the question before the image.
        max_pixels: as in `decode_image`.
        samples: maximum number of images read.
    """
    sizes = []
    for i in range(0, len(split), -(-len(split) // samples)):
        with suppress(ImageError):  # images that can't be read are reported where they are scored
            sizes.append(full_size(split.image(i, max_pixels, lambda *_: (1, 1))))
    return describe(model, sizes, past) if sizes else None
