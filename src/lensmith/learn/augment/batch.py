"""What is random about a batch, drawn from seed and step alone: augmentation, mixing, negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmith.config import AugmentOptions
from lensmith.engine.objective import SoftLabels
from lensmith.learn.augment import images as image_changes
from lensmith.learn.augment import mix
from lensmith.models.base import grouped
from lensmith.models.views import Views, shape_of, stack, unstack


@dataclass(frozen=True)
class BatchRandomness:
    """What is random about a batch: a row for each image."""

    augment: image_changes.Draws
    mix: mix.Mixing
    negatives: Tensor
    """(images, labels) uniform numbers in 0..1."""

    @classmethod
    def draw(cls, n: int, labels: int, options: AugmentOptions, seed: int) -> BatchRandomness:
        """For n images, from a seed."""
        generator = torch.Generator().manual_seed(seed)
        return cls(
            image_changes.draw(n, options, generator),
            mix.draw(n, options, generator),
            torch.rand(n, labels, generator=generator).clamp(1e-7, 1 - 1e-7),
        )

    def of(self, index: Sequence[int]) -> BatchRandomness:
        """That of some of the images."""
        return BatchRandomness(self.augment.of(index), self.mix.of(index), self.negatives[list(index)])


def vary(
    images: Sequence[Views],
    parts: Sequence[SoftLabels],
    options: AugmentOptions,
    randomness: BatchRandomness,
    device: torch.device | str = "cpu",
) -> tuple[list[Views], list[SoftLabels]]:
    """Augment and mix images, all views of one alike, and share their labels out accordingly.

    Args:
        images: their views, (3, H, W) bytes each.
        parts: the labels of each with their shares.
        device: where it is done.

    Returns:
        The same with (3, H, W) values in 0..255, and the labels of each with their new shares.
    """
    if options == AugmentOptions():
        return list(images), list(parts)
    changed: dict[int, Views] = {}
    for places in grouped(map(shape_of, images)):
        views, drawn = stack([images[i] for i in places]), randomness.augment.of(places)
        made = tuple(image_changes.augment(view.to(device), options, drawn) for view in views)
        changed |= zip(places, unstack(made), strict=True)
    if options.mix == "none":
        return [changed[i] for i in range(len(images))], list(parts)
    partner = mix.partners([shape_of(image) for image in images])
    mixed: dict[int, Views] = {}
    shared: dict[int, SoftLabels] = {}
    for places in grouped(map(shape_of, images)):
        inner = {place: k for k, place in enumerate(places)}
        others, drawn_mix = torch.tensor([inner[partner[i]] for i in places]), randomness.mix.of(places)
        both = [mix.mix(view, others, drawn_mix) for view in stack([changed[i] for i in places])]
        mixed |= zip(places, unstack(tuple(pixels for pixels, _ in both)), strict=True)
        kept = both[0][1]  # a box's share is of whole pixels, most exactly in the largest view
        for i, share in zip(places, kept.tolist(), strict=True):
            of_both: dict[int, float] = {}
            for label, part in [(c, p * share) for c, p in parts[i]] + [
                (c, p * (1 - share)) for c, p in parts[partner[i]]
            ]:
                of_both[label] = of_both.get(label, 0.0) + part
            shared[i] = [(label, part) for label, part in of_both.items() if part > 0]
    return [mixed[i] for i in range(len(images))], [shared[i] for i in range(len(images))]
