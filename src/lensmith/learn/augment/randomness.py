"""All randomness of a training batch, a function of (seed, step): augmentation, mixing and negatives."""

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
    """All random numbers of a batch: one row for each image."""

    augment: image_changes.Draws
    mix: mix.Mixing
    negatives: Tensor
    """(images, labels) uniform numbers in 0..1, by which negative labels are drawn."""

    @classmethod
    def draw(cls, n: int, labels: int, options: AugmentOptions, seed: int) -> BatchRandomness:
        """The random numbers for n images, from a seed."""
        generator = torch.Generator().manual_seed(seed)
        return cls(
            image_changes.draw(n, options, generator),
            mix.draw(n, options, generator),
            torch.rand(n, labels, generator=generator).clamp(1e-7, 1 - 1e-7),
        )

    def of(self, index: Sequence[int]) -> BatchRandomness:
        """The rows of the images with these indices."""
        return BatchRandomness(self.augment.of(index), self.mix.of(index), self.negatives[list(index)])


def vary(
    images: Sequence[Views],
    targets: Sequence[SoftLabels],
    options: AugmentOptions,
    randomness: BatchRandomness,
    device: torch.device | str = "cpu",
) -> tuple[list[Views], list[SoftLabels]]:
    """Augment and mix images, and mix their labels in the same proportion. All views of an image are treated alike.

    Args:
        images: the views of each image, (3, H, W) bytes each.
        targets: the labels of each image with their weights.
        device: where the computation runs.

    Returns:
        The images with (3, H, W) values in 0..255, and the labels of each image with their new weights.
    """
    if options == AugmentOptions():
        return list(images), list(targets)
    augmented: dict[int, Views] = {}
    for group in grouped(map(shape_of, images)):
        views, draws = stack([images[i] for i in group]), randomness.augment.of(group)
        augmented_views = tuple(image_changes.augment(view.to(device), options, draws) for view in views)
        augmented |= zip(group, unstack(augmented_views), strict=True)
    if options.mix == "none":
        return [augmented[i] for i in range(len(images))], list(targets)
    partner = mix.partners([shape_of(image) for image in images])
    mixed: dict[int, Views] = {}
    mixed_targets: dict[int, SoftLabels] = {}
    for group in grouped(map(shape_of, images)):
        index_in_group = {i: k for k, i in enumerate(group)}
        partners_in_group, mixing = torch.tensor([index_in_group[partner[i]] for i in group]), randomness.mix.of(group)
        mixed_views = [mix.mix(view, partners_in_group, mixing) for view in stack([augmented[i] for i in group])]
        mixed |= zip(group, unstack(tuple(view.pixels for view in mixed_views)), strict=True)
        # A box covers whole pixels, so its area differs between views. The first view is the largest and most exact.
        image_weights = mixed_views[0].image_weight
        for i, image_weight in zip(group, image_weights.tolist(), strict=True):
            weight_of: dict[int, float] = {}
            for label, weight in [(label, weight * image_weight) for label, weight in targets[i]] + [
                (label, weight * (1 - image_weight)) for label, weight in targets[partner[i]]
            ]:
                weight_of[label] = weight_of.get(label, 0.0) + weight
            mixed_targets[i] = [(label, weight) for label, weight in weight_of.items() if weight > 0]
    return [mixed[i] for i in range(len(images))], [mixed_targets[i] for i in range(len(images))]
