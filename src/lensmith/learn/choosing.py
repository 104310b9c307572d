"""Which images to label next, from what a model sees in them.

With very few labels the typical images of different clusters teach most (Hacohen et al., TypiClust, 2202.02794); later
those whose class is in doubt, spread over different clusters so that they don't repeat each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TYPICAL = 10
"""Labels a class up to which typical images are chosen, and above which uncertain ones."""
CANDIDATES = 10
"""Uncertain images from which each chosen one comes."""
NEAREST = 20
"""Neighbours by which it is measured how typical an image is."""

Vectors = NDArray[np.float32]


def standardised(vectors: Vectors) -> Vectors:
    """(images, size) features, standardised and then scaled to length 1: distances are those of directions."""
    spread = vectors.std(0)
    scaled = (vectors - vectors.mean(0)) / np.where(spread > 1e-6, spread, 1)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12), np.float32)


def choose_typical(vectors: Vectors, labelled: Sequence[int], n: int, seed: int = 0) -> list[int]:
    """The most typical images of the largest clusters that have no labelled image.

    Args:
        vectors: (images, size) of all images, labelled or not; see `standardised`.
        labelled: rows of the labelled ones.
        n: how many to choose.

    Returns:
        Rows, those of the largest clusters first.
    """
    taken = set(labelled)
    clusters = _clusters(vectors, len(taken) + n, seed)
    has_label = {int(clusters[i]) for i in taken}
    sizes = np.bincount(clusters)
    order = sorted(range(len(sizes)), key=lambda c: (c in has_label, -sizes[c]))
    chosen: list[int] = []
    for cluster in order:
        rows = [int(i) for i in np.flatnonzero(clusters == cluster) if int(i) not in taken]
        if rows and len(chosen) < n:
            chosen.append(rows[_most_typical(vectors[rows])])
    used = taken | set(chosen)
    free = [i for i in range(len(vectors)) if i not in used]
    return [*chosen, *free[: n - len(chosen)]]


def choose_uncertain(vectors: Vectors, probabilities: NDArray[np.float32], n: int, seed: int = 0) -> list[int]:
    """The image in most doubt of each of n clusters of images in doubt.

    Doubt is a small margin between the two most probable classes.

    Args:
        vectors: (images, size) of the images to choose from; see `standardised`.
        probabilities: (images, classes).

    Returns:
        Rows, those in most doubt first.
    """
    ordered = np.sort(probabilities, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    doubtful = np.argsort(margins, kind="stable")[: CANDIDATES * n]
    clusters = _clusters(vectors[doubtful], n, seed)
    first: dict[int, int] = {}
    for row, cluster in zip(doubtful.tolist(), clusters.tolist(), strict=True):  # the smallest margins come first
        first.setdefault(cluster, row)
    chosen = list(first.values())
    used = set(chosen)
    left = [row for row in doubtful.tolist() if row not in used]
    return sorted([*chosen, *left[: n - len(chosen)]], key=lambda row: margins[row])


def _clusters(vectors: Vectors, n: int, seed: int) -> NDArray[np.int64]:
    """(images,) the cluster of each image, by k-means."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    n = max(1, min(n, len(np.unique(vectors, axis=0)), len(vectors)))
    kind = KMeans if len(vectors) <= 20_000 else MiniBatchKMeans
    return np.asarray(kind(n, n_init=1, random_state=seed).fit_predict(vectors), np.int64)


def _most_typical(vectors: Vectors) -> int:
    """The row with the highest mean similarity to its nearest neighbours."""
    if len(vectors) < 3:
        return 0
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    k = min(NEAREST, len(vectors) - 1)
    return int(np.partition(similarity, -k, axis=1)[:, -k:].mean(1).argmax())
