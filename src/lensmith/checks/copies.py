"""Copies of images that aren't the same file: re-encoded, brightened, shifted, cropped, mirrored, turned.

Candidates are the nearest neighbours by three descriptions: the thumbnail's layout (the low frequencies of a cosine
transform), its spectrum (magnitudes of a Fourier transform, which a shift doesn't change) and, if there are any, the
model's features. Each candidate is aligned, and the agreement of the detail decides.

No fixed limit fits all images: photographs of trousers agree more than holiday pictures do. So the limit follows from
the images at hand. Most images have no copy, and their best agreements (after Fisher's transform) are nearly normal, as
was seen on photographs of clothes, drawings and landscapes. What lies beyond 99.3 % of that distribution, and far
enough beyond that at most one in ten is expected by chance, is a copy. This is the empirical null and the false
discovery rate of B. Efron, Large-scale simultaneous hypothesis testing, JASA 99 (2004).
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, normalize

from lensmith.checks.align import agreement, detail
from lensmith.checks.neighbours import EXACT, Nearest, nearest
from lensmith.checks.survey import PIXELS, SIDE, Survey
from lensmith.progress import Tell, counter

CHANCE = 0.1
"""The greatest fraction of the copies found that chance alone may explain."""
BEYOND = 0.993
"""A copy agrees more than this fraction of the best agreements of images without copies."""
PLAIN = 1.0
"""Images with less detail than this, in levels of 0..255, can't be told apart by it: a clear sky, a white wall."""
_PLACES = 32
"""Images whose detail is in fewer pixels of the thumbnail can't be told apart either: a fly on a white wall."""
_SAMPLE = 1_000
"""Images whose candidates are all aligned, which gives the distribution; of others only promising ones."""
_KNOWN = 60
"""Images of which copies are made, to see how much copies agree."""
_UNLIKE = 0.2
"""Candidates that are less alike than the nearest images of this fraction of all images aren't aligned."""
_LEAST = 50
_NARROWEST = 0.05
_ROUGHER = 0.4
"""Copies of whole images agree less than those made here of thumbnails, by so much after Fisher's transform."""
_WEIGHTS = (0.9, 0.1)
"""How much of what chance may explain goes to pairs as they are, and to mirrored ones, which agree almost completely if
they are copies (C. Genovese, K. Roeder and L. Wasserman, False discovery control with p-value weighting, 2006)."""
_COLOUR = 12.0
"""How far the mean colours of copies may differ, in levels, beside a fifth of the colour itself."""


@dataclass(frozen=True)
class Pair:
    """An image and a copy of it, as indices into the survey."""

    first: int
    second: int
    agreement: float
    """Correlation of the detail after alignment, up to 1."""
    chance: float
    """The fraction of such pairs that chance would explain, 0..1: of this agreement or more."""
    mirrored: bool = False


@dataclass(frozen=True)
class Copies:
    """The pairs found, and how."""

    pairs: list[Pair]
    """The surest first. Of several identical files, only the first is compared."""
    expected: float
    """How many of the images in pairs chance alone would have put there."""
    limit: float
    """The agreement from which a pair is one."""
    usual: float
    """The median of the images' best agreements with another image."""
    plain: list[int]
    """Images with too little detail to be compared."""


@dataclass(frozen=True)
class _Candidates:
    """Candidate pairs, each once: (pairs,) tensors."""

    first: Tensor
    second: Tensor
    mirrored: Tensor
    """Whether the first is compared as in a mirror."""

    def __getitem__(self, rows: Tensor) -> _Candidates:
        return _Candidates(self.first[rows], self.second[rows], self.mirrored[rows])

    def __len__(self) -> int:
        return len(self.first)


def find_copies(survey: Survey, features: Tensor | None, tell: Tell) -> Copies:
    """The pairs of images that are copies of each other, exact ones left out.

    Args:
        features: (images, size) the model's features, with a row of zeros for images without any; or None.
    """
    unique = list({survey.contents[i]: i for i in reversed(survey.readable())}.values())[::-1]
    everything = torch.from_numpy(survey.thumbnails[unique]).float()
    rich = torch.cat([_has_detail(part) for part in everything.split(4096)])
    plain = [i for i, is_rich in zip(unique, rich.tolist(), strict=True) if not is_rich]
    kept = [i for i, is_rich in zip(unique, rich.tolist(), strict=True) if is_rich]
    if len(kept) < 3:
        return Copies([], 0.0, 1.0, 0.0, plain)
    thumbnails = everything[rich]
    colours = torch.from_numpy(survey.pixels[kept][:, [PIXELS.index(c) for c in ("red", "green", "blue")]])
    of_model = None if features is None else features[kept]
    sample = torch.zeros(len(kept), dtype=torch.bool)
    sample[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[:_SAMPLE]] = True
    sides = [min(file.width, file.height) for i in kept if (file := survey.files[i])]
    # A shift by some pixels is much only for small images; among very many, looking for it would take too long.
    shifted = statistics.median(sides) < 2 * SIDE and len(kept) <= EXACT
    pairs = _promising(thumbnails, of_model, sample, shifted, tell)
    pairs = pairs[_same_colours(colours[pairs.first], colours[pairs.second])]
    known = _known_copies(thumbnails)
    scores, nulls, least = _scored(thumbnails, pairs, sample, known, tell)
    pairs, scores = pairs[scores >= least], scores[scores >= least]
    tails = torch.ones(len(pairs))
    for mirrored, null in enumerate(nulls):
        rows = pairs.mirrored == bool(mirrored)
        found = ((scores[rows] - null.mean) / null.stdev).double()
        tails[rows] = (torch.special.erfc(found / 2**0.5) / 2 / _WEIGHTS[mirrored]).clamp_max(1.0).float()
    best = torch.ones(len(kept))
    for side in (pairs.first, pairs.second):
        best.scatter_reduce_(0, side, tails, "amin")
    limit, chance = _decide(best)
    listed: dict[tuple[int, int], Pair] = {}
    chosen = (tails <= limit).nonzero()[:, 0].tolist()
    for k in sorted(chosen, key=lambda k: (float(tails[k]), -float(scores[k]))):
        first, second = sorted((kept[int(pairs.first[k])], kept[int(pairs.second[k])]))
        agreed, rate = float(torch.tanh(scores[k])), chance(float(tails[k]))
        listed.setdefault((first, second), Pair(first, second, agreed, rate, bool(pairs.mirrored[k])))
    beyond = 1 - max(limit * _WEIGHTS[0], 1e-9)
    agreed_from = math.tanh(max(least, nulls[0].inv_cdf(beyond)))
    return Copies(list(listed.values()), len(kept) * limit, agreed_from, math.tanh(nulls[0].mean), plain)


def _has_detail(thumbnails: Tensor) -> Tensor:
    """(images,) whether there is enough detail, in enough places, to tell images apart."""
    energy = detail(thumbnails).square().flatten(1)
    spread = energy.sum(1).square() / energy.square().sum(1).clamp_min(1e-6)  # pixels that share it, were they equal
    return (energy.mean(1).sqrt() >= PLAIN) & (spread >= _PLACES)


def _promising(thumbnails: Tensor, features: Tensor | None, sample: Tensor, shifted: bool, tell: Tell) -> _Candidates:
    """The candidates of a sample of images, and of the others those that are more alike than is usual."""
    n, keys, promising = len(thumbnails), [], []
    for mirrored, found in _searches(thumbnails, features, shifted, tell):
        rows = torch.arange(n)[:, None].expand_as(found.index)
        there = found.index >= 0
        alike = found.similarity >= found.similarity[:, 0].quantile(_UNLIKE)
        first, second = torch.minimum(rows, found.index)[there], torch.maximum(rows, found.index)[there]
        keys.append((first * n + second) * 2 + mirrored)
        promising.append(alike[there] | sample[first] | sample[second])
    key, where = torch.cat(keys).unique(return_inverse=True)
    chosen = torch.zeros(len(key), dtype=torch.bool)
    chosen[where[torch.cat(promising)]] = True
    key = key[chosen]
    return _Candidates(key // 2 // n, key // 2 % n, key % 2 == 1)


def _scored(
    thumbnails: Tensor, pairs: _Candidates, sample: Tensor, known: tuple[Tensor, Tensor], tell: Tell
) -> tuple[Tensor, tuple[NormalDist, NormalDist], float]:
    """Fisher's transform of the agreement of each pair; the distributions of the best agreement of images without
    copies, with images as they are and with mirrored ones; and what nearly all copies agree in."""
    scores = torch.full((len(pairs),), -torch.inf)
    complete = sample[pairs.first] | sample[pairs.second]
    progress, done = counter("aligning pairs", len(pairs), tell, "pairs"), 0
    for rows in complete.nonzero()[:, 0].split(4096):
        scores[rows] = _score(thumbnails, pairs[rows], -1.0, (-9.0, -9.0))
        progress(done := done + len(rows))
    agreed = _fisher(torch.maximum(agreement(*known), agreement(known[1], known[0])))
    nulls = []
    for mirrored in (False, True):
        best, rows = torch.full((len(sample),), -torch.inf), complete & (pairs.mirrored == mirrored)
        for side in (pairs.first, pairs.second):
            best.scatter_reduce_(0, side[rows], scores[rows], "amax")
        nulls.append(_null(best[sample & best.isfinite()], float(agreed.quantile(0.05))))
    # Among many images, only what looks like a copy early is followed up: the rest would take most of the time.
    fraction, margin, deviations = (0.02, _ROUGHER, 0) if len(sample) <= EXACT else (0.05, 0.0, 1)
    hopeless = math.tanh(float(_fisher(agreement(*known, hopeless=2.0)).quantile(fraction)) - margin)
    usual = (nulls[0].mean + deviations * nulls[0].stdev, nulls[1].mean + deviations * nulls[1].stdev)
    for rows in (~complete).nonzero()[:, 0].split(4096):
        scores[rows] = _score(thumbnails, pairs[rows], hopeless, usual)
        progress(done := done + len(rows))
    return scores, (nulls[0], nulls[1]), float(agreed.quantile(0.05)) - _ROUGHER


def _score(thumbnails: Tensor, pairs: _Candidates, hopeless: float, usual: tuple[float, float]) -> Tensor:
    """Fisher's transform of the agreement of pairs, aligned in the other direction too if it is more than usual."""
    a, b = thumbnails[pairs.first].clone(), thumbnails[pairs.second]
    a[pairs.mirrored] = a[pairs.mirrored].flip(2)
    result = _fisher(agreement(a, b, hopeless))
    again = (result >= torch.where(pairs.mirrored, usual[1], usual[0])).nonzero()[:, 0]
    result[again] = torch.maximum(result[again], _fisher(agreement(b[again], a[again], hopeless)))
    return result


def _fisher(correlation: Tensor) -> Tensor:
    return torch.atanh(correlation.clamp(-0.999, 0.99999))


def _searches(thumbnails: Tensor, features: Tensor | None, shifted: bool, tell: Tell) -> Iterator[tuple[bool, Nearest]]:
    """For each description of the images: whether they are compared mirrored, and the nearest images of each."""
    layout, spectrum = _layout(thumbnails), _spectrum(thumbnails)
    searches: list[tuple[bool, Tensor, Tensor, int]] = [
        (False, layout, layout, 2),
        (True, layout, _layout(thumbnails.flip(2)), 1),
        (False, spectrum, spectrum, 4),
        (True, spectrum, _spectrum(thumbnails.flip(2)), 1),
        (False, spectrum, _spectrum(_cropped(thumbnails)), 3),
    ]
    if shifted:
        searches += [(False, layout, _layout(_moved(thumbnails, shift)), 1) for shift in _SHIFTS]
    if features is not None:
        searches.append((False, features, features, 3))
    for mirrored, vectors, queries, k in searches:
        mean = vectors.mean(0)  # what all images have in common
        of_images, asked = normalize(vectors - mean, dim=1), normalize(queries - mean, dim=1)
        yield mirrored, nearest(of_images, asked, k, tell, "looking for copies")


_SHIFTS = [torch.tensor([[1.0, 0.0, x / 7], [0.0, 1.0, y / 7]]) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
"""A fourteenth of the side in eight directions: what a shift moves over the edge changes a small image's spectrum."""


def _layout(thumbnails: Tensor, kept: int = 8) -> Tensor:
    """(images, 63) the lowest frequencies of the cosine transform, without the mean."""
    n = torch.arange(SIDE, dtype=torch.float32)
    cosines = torch.cos(torch.pi * (n[None] + 0.5) * n[:kept, None] / SIDE)
    return (cosines @ thumbnails @ cosines.T).flatten(1)[:, 1:]


def _spectrum(thumbnails: Tensor, kept: int = 8) -> Tensor:
    """(images, 128) magnitudes of the lowest frequencies, of which a shift changes only what it moves over the edge."""
    edges = [thumbnails[:, 0], thumbnails[:, -1], thumbnails[:, :, 0], thumbnails[:, :, -1]]
    ground = torch.cat(edges, 1).median(1).values
    parts = (thumbnails - ground[:, None, None]).split(4096)
    found = torch.cat([torch.fft.rfft2(part, s=(2 * SIDE, 2 * SIDE)).abs() for part in parts])
    return torch.cat([found[:, -kept:, :kept], found[:, :kept, :kept]], 1).sqrt().flatten(1)


def _cropped(thumbnails: Tensor, zoom: float = 0.9) -> Tensor:
    """The inner part of each thumbnail, as large as the whole."""
    return _moved(thumbnails, torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]]))


def _moved(thumbnails: Tensor, affine: Tensor) -> Tensor:
    moved = []
    for part in thumbnails.split(4096):
        grid = affine_grid(affine.expand(len(part), 2, 3), [len(part), 1, SIDE, SIDE], align_corners=False)
        moved.append(grid_sample(part[:, None], grid, padding_mode="border", align_corners=False)[:, 0])
    return torch.cat(moved)


def _same_colours(first: Tensor, second: Tensor) -> Tensor:
    """(pairs,) whether the mean colours (pairs, 3) could be those of copies, one of which may be grey."""
    a, b = (x - x.mean(1, keepdim=True) for x in (first, second))
    strength = torch.maximum(a.abs().amax(1), b.abs().amax(1))
    grey = torch.minimum(a.abs().amax(1), b.abs().amax(1)) < 1.0
    return ((a - b).abs().amax(1) <= _COLOUR + 0.2 * strength) | grey


def _known_copies(thumbnails: Tensor) -> tuple[Tensor, Tensor]:
    """Some images, and copies that are made of them, to see how much copies agree."""
    rows = torch.randperm(len(thumbnails), generator=torch.Generator().manual_seed(1))[:_KNOWN]
    originals = thumbnails[rows]
    turned, shift = 0.087, 0.1  # five degrees; a twentieth of the side
    made = [
        torch.stack([_reencoded(image) for image in originals]),
        _moved(originals, torch.tensor([[1.0, 0.0, shift], [0.0, 1.0, -shift]])),
        _moved(originals, torch.tensor([[0.9, 0.0, 0.06], [0.0, 0.9, 0.06]])),
        _moved(originals, torch.tensor([[1.0, turned, 0.0], [-turned, 1.0, 0.0]])),
        (originals * 1.15).clamp_max(255),
    ]
    return originals.repeat(len(made), 1, 1), torch.cat(made)


def _reencoded(thumbnail: Tensor) -> Tensor:
    stream = io.BytesIO()
    Image.fromarray(thumbnail.byte().numpy()).save(stream, "JPEG", quality=60)
    return torch.from_numpy(np.asarray(Image.open(stream), np.float32).copy())


def _null(best: Tensor, of_copies: float) -> NormalDist:
    """The distribution of the best agreements of images without a copy.

    Its centre and spread are those of the lower three quarters, which copies don't reach. Those that agree like copies
    are left out first, in case most images have one.

    Args:
        best: (images,) Fisher's transform of the agreement with the image that agrees most.
        of_copies: what 95 % of copies exceed.
    """
    below = best[best < of_copies]
    if len(below) < _LEAST:  # there are few images, or nearly all have copies: then what copies agree in decides
        centre = float(below.median()) if len(below) else 0.0
        return NormalDist(centre, max(_NARROWEST, (of_copies - centre) / 2.6))
    centre = float(below.median())
    spread = min(centre - float(below.quantile(0.1587)), (float(below.quantile(0.75)) - centre) / 0.6745)
    return NormalDist(centre, max(_NARROWEST, spread))


def _decide(best: Tensor) -> tuple[float, Callable[[float], float]]:
    """The tail of the distribution that pairs of copies lie in, 0 for none; and the fraction of such pairs that chance
    explains.

    Args:
        best: (images,) the tail beyond each image's best agreement.
    """
    tails = best.sort().values
    rates = tails * len(tails) / torch.arange(1, len(tails) + 1)
    rates = rates.flip(0).cummin(0).values.flip(0).clamp_max(1.0)
    sure = (rates <= CHANCE) & (tails <= 1 - BEYOND)

    def chance(tail: float) -> float:
        return float(rates[max(0, int((tails <= tail).sum()) - 1)])

    return float(tails[sure][-1]) if sure.any() else 0.0, chance
