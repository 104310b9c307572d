"""The nearest neighbours of vectors among many: exact in blocks, and among a million only in the nearest cells.

An index library (faiss, hnswlib) would be quicker beyond a million vectors, at the price of a dependency whose OpenMP
doesn't get on with PyTorch's. Candidates are confirmed by looking at the images, so missing a few is no wrong figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmith.progress import Tell, counter, silent

EXACT = 20_000
"""Up to so many vectors, all pairs are compared."""
_CHUNK = 64
_PER_CELL = 500
_PROBED = 16
"""The cells that are searched for a vector: its own, and the nearest others."""
_BLOCK = 1 << 25
"""Similarities in memory at once."""


@dataclass(frozen=True)
class Nearest:
    """For each query the k most similar vectors, the most similar first."""

    index: Tensor
    """(queries, k); -1 where fewer were found."""
    similarity: Tensor
    """(queries, k) cosine; -1 where fewer were found."""


def nearest(vectors: Tensor, queries: Tensor, k: int, tell: Tell = silent, task: str = "comparing") -> Nearest:
    """The k nearest vectors of each query by cosine similarity, query i's own vector i left out.

    Args:
        vectors: (images, size), of length 1 each.
        queries: (images, size) the same images seen otherwise (mirrored, cropped), or `vectors` itself.
    """
    n = len(vectors)
    progress = counter(task, n, tell)
    index = torch.full((n, k), -1)
    similarity = torch.full((n, k), -1.0)
    if n > EXACT:
        _in_cells(vectors, queries, index, similarity, progress)
        return Nearest(index, similarity)
    step = max(1, _BLOCK // max(1, n))
    for start in range(0, n, step):
        rows = torch.arange(start, min(start + step, n))
        _search(vectors, None, queries[rows], rows, index, similarity)
        progress(int(rows[-1]) + 1)
    return Nearest(index, similarity)


def _search(
    vectors: Tensor, members: Tensor | None, queries: Tensor, rows: Tensor, index: Tensor, similarity: Tensor
) -> None:
    """Search some vectors (all, or the given members) for some queries, and keep the best of them and those known."""
    found = queries @ (vectors if members is None else vectors[members]).T
    if members is None:
        found[torch.arange(len(rows)), rows] = -1.0
    else:
        found[rows[:, None] == members[None]] = -1.0
    best, where = _top(found, min(index.shape[1], found.shape[1]))
    where = where if members is None else members[where]
    where = torch.where(best > -1.0, where, -1)
    similarity[rows], places = torch.cat([similarity[rows], best], 1).topk(index.shape[1], 1)
    index[rows] = torch.cat([index[rows], where], 1).gather(1, places)


def _top(found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, and where. `topk` of a long row takes ten times as long as finding maxima."""
    rows, n = found.shape
    whole = n // _CHUNK * _CHUNK
    if whole < 4 * k * _CHUNK:
        return found.topk(k, 1)
    chunks = found[:, :whole].view(rows, -1, _CHUNK)
    nearest = chunks.amax(2).topk(k, 1).indices  # the k largest can only be in these chunks
    columns = (nearest[:, :, None] * _CHUNK + torch.arange(_CHUNK)).flatten(1)
    columns = torch.cat([columns, torch.arange(whole, n).expand(rows, -1)], 1)
    best, places = found.gather(1, columns).topk(k, 1)
    return best, columns.gather(1, places)


def _in_cells(
    vectors: Tensor, queries: Tensor, index: Tensor, similarity: Tensor, progress: Callable[[int], None]
) -> None:
    """Search only the cells (of k-means) that are nearest to a query."""
    centres = _centres(vectors)
    own = torch.cat([(block @ centres.T).argmax(1) for block in vectors.split(8192)])
    order = own.argsort()
    ends = own.bincount(minlength=len(centres)).cumsum(0).tolist()
    probed = torch.cat([(block @ centres.T).topk(_PROBED, 1).indices for block in queries.split(8192)])
    flat = probed.flatten()
    by_cell = flat.argsort(stable=True)
    asked_ends = flat.bincount(minlength=len(centres)).cumsum(0).tolist()
    done = 0
    for cell, (end, asked_end) in enumerate(zip(ends, asked_ends, strict=True)):
        members = order[ends[cell - 1] if cell else 0 : end]
        rows = by_cell[asked_ends[cell - 1] if cell else 0 : asked_end] // _PROBED
        for part in rows.split(max(1, _BLOCK // max(1, len(members)))):
            if len(part) and len(members):
                _search(vectors, members, queries[part], part, index, similarity)
        done += len(rows)
        progress(done // _PROBED)


def _centres(vectors: Tensor, rounds: int = 6) -> Tensor:
    """(cells, size) the centres of k-means on the sphere, fitted on a random part of the vectors."""
    cells = max(16, len(vectors) // _PER_CELL)
    random = torch.Generator().manual_seed(0)
    sample = vectors[torch.randperm(len(vectors), generator=random)[: 30 * cells]]
    centres = sample[:cells].clone()
    for _ in range(rounds):
        own = torch.cat([(block @ centres.T).argmax(1) for block in sample.split(8192)])
        sums = torch.zeros_like(centres).index_add_(0, own, sample)
        empty = own.bincount(minlength=cells) == 0
        centres = torch.where(empty[:, None], centres, torch.nn.functional.normalize(sums, dim=1))
    return centres
