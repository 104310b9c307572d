"""How accuracy grows with the number of labels, and what more of them would bring: a law fitted to a learning curve.

    error(n) = floor + scale n^-rate

A power law with a floor, in the number n of training images: C. Cortes et al., Learning curves: asymptotic values and
rate of convergence (1993); J. Hestness et al., Deep learning scaling is predictable, empirically (2017, 1712.00409);
J. Rosenfeld et al., A constructive prediction of the generalization error across scales (2020, 1909.12673).

Few sizes can't tell a low floor that is neared slowly from a high one that is neared fast, and the best fit is one of
many that are about as good. So none is chosen: the forecast is an average over a grid of them, each weighted by how
well it explains the points (Bayes' rule, with weak priors). The interval also holds three things that least squares
leaves out: how much chance is in the points though there is one model of a size, that no curve is quite a power law,
and that it need not go on as it began.

The accuracies must be of the same test images, and the forecast is of accuracy on these: what is due to their choice
is the same for all sizes, and neither in the points' scatter nor in the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lensmith.errors import UserError

Array = NDArray[np.float64]

# The grid. The error at the largest size is not on it: given the rest it is normal, and integrated exactly.
RATES: Array = np.geomspace(0.05, 1.5, 32)
FLOORS: Array = (np.arange(40) + 0.5) / 40
"""As shares of the error at the largest size, all equally likely beforehand."""
CHANCES: Array = np.geomspace(0.0005, 0.06, 9)
"""Standard deviations, at the largest size, of a model's accuracy by its subset and seed. Like the next ones they are
multiples of sqrt(error (1 - error)) there, so as to be small where errors are rare."""
MISFITS: Array = np.geomspace(0.001, 0.05, 7)
"""Standard deviations, at the largest size, of the curve about a power law."""

# Priors as (median, standard deviation of the logarithm). They and `BEND` were set on the curves of 92 cheap models, of
# 40 to 60,000 pictures. On those of 15 others intervals then held what was measured at 2, 4 and 10 times the largest
# size in 89, 93 and 97 of 100 cases, those of least squares with a bootstrap in some 60. To halve or double the median
# of one, or `BEND`, moved the share of intervals that hold by 5 of 100 at most.
RATE = (0.6, 0.6)
CHANCE = (0.015, 0.8)
MISFIT = (0.008, 0.5)
BEND = 0.3
"""Beyond the largest size the law's gain is off by a factor: this is the standard deviation of its logarithm."""

DRAWS = 4000
_TIMES = {2.0: "Twice", 3.0: "Three times", 4.0: "Four times", 5.0: "Five times", 10.0: "Ten times"}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Accuracy at a number of training images with its 90 % interval, all in 0..1.

    Of the mean over subsets and seeds: a single model scatters a little more.
    """

    images: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """What more images bring: the difference of two accuracies, with its 90 % interval. None is below 0."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """error(n) = floor + scale n^-rate, and all the laws that explain the points about as well."""

    floor: float
    """Its posterior median, as is the rate; the scale is such that the three meet the error at the largest size."""
    scale: float
    rate: float
    largest: float
    """The largest size of the points."""
    draws: tuple[Array, Array, Array, Array]
    """(DRAWS,) each, of the posterior: the error at the largest size, what of it is floor, the rate, the bend."""

    @classmethod
    def fit(cls, points: Sequence[tuple[int, float]]) -> PowerLaw:
        """The laws that explain a learning curve. The same points, in whatever order, give the same.

        Args:
            points: (training images, accuracy in 0..1) of each model, one or more of a size.

        Raises:
            UserError: there are fewer than three sizes.
            ValueError: a size is not positive, or an accuracy is not in 0..1.
        """
        if not all(n > 0 and 0 <= accuracy <= 1 for n, accuracy in points):
            raise ValueError("A size that is not positive, or an accuracy that is not in 0..1")
        sizes = sorted({n for n, _ in points})
        if len(sizes) < 3:
            raise UserError(
                f"A learning curve needs training sets of three sizes or more, and these points have {len(sizes)}.",
                "Train on smaller parts of the training images as well, each about half of the one before.",
            )
        groups = [np.array(sorted(1 - accuracy for m, accuracy in points if m == n)) for n in sizes]
        error = np.array([group.mean() for group in groups])
        models = np.array([len(group) for group in groups])
        ratio = sizes[-1] / np.array(sizes, dtype=np.float64)
        unit = float(np.sqrt(max(error[-1] * (1 - error[-1]), 0.001)))

        # (rates, floors, sizes): each law's error as a multiple of that at the largest size.
        shape = FLOORS[:, None] + (1 - FLOORS[:, None]) * ratio ** RATES[:, None, None]
        # (chances, misfits, sizes): the variance of the means. Chance's is twice as large at half the size, as it was
        # measured to be; a law that is right near the largest size is the less so the farther away, like a random walk.
        # The means count as independent, though subsets lie within each other: so did those of the measured coverage.
        chance = (CHANCES[:, None, None] * unit) ** 2 * ratio / models
        misfit = (MISFITS[:, None] * unit) ** 2 * (1 + np.log2(ratio))
        weight = 1 / (chance + misfit)
        # Least squares of the one linear parameter, for every cell (rates, floors, chances, misfits) at once.
        precision = np.einsum("rfk,cmk->rfcm", shape**2, weight)
        mean = np.einsum("rfk,cmk->rfcm", shape * error, weight) / precision
        misses = (weight * error**2).sum(-1) - mean**2 * precision
        log = 0.5 * (np.log(weight).sum(-1) - np.log(precision) - misses)
        log += _log_normal(RATES, *RATE)[:, None, None, None] + _log_normal(MISFITS, *MISFIT)
        log += (_log_normal(CHANCES, *CHANCE) + _spread(groups[:-1], ratio[:-1], CHANCES * unit))[:, None]

        cells = np.exp(log - log.max()).cumsum()
        chosen = cells.searchsorted((np.arange(DRAWS) + 0.5) / DRAWS * cells[-1])
        rate, floor, _, _ = np.unravel_index(chosen, log.shape)
        normal = np.array([NormalDist().inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)])
        random = np.random.default_rng(0)
        last = mean.ravel()[chosen] + random.permutation(normal) / np.sqrt(precision.ravel()[chosen])
        draws = (last.clip(0, 1), FLOORS[floor], RATES[rate], np.exp(BEND * random.permutation(normal)))
        middle, share, exponent = (float(np.median(values)) for values in draws[:3])
        scale = middle * (1 - share) * sizes[-1] ** exponent
        return cls(middle * share, scale, exponent, float(sizes[-1]), draws)

    def at(self, images: float) -> Forecast:
        """Accuracy at a number of training images. It never falls with the number.

        Raises:
            ValueError: the number is not positive.
        """
        low, middle, high = np.quantile(self._accuracies(images), [0.05, 0.5, 0.95]).tolist()
        return Forecast(images, middle, low, high)

    def gain(self, images: float, more: float) -> Gain:
        """Accuracy at `more` training images less that at `images`, of which it must be at least as many.

        Its interval is narrower than those of the two: what the laws disagree on at both cancels.

        Raises:
            ValueError: `images` is not positive or `more` is less.
        """
        if more < images:
            raise ValueError(f"{more} images are not more than {images}")
        value = self.at(more).accuracy - self.at(images).accuracy
        low, high = np.quantile(self._accuracies(more) - self._accuracies(images), [0.05, 0.95]).tolist()
        return Gain(value, min(low, value), max(high, value))

    def describe(self) -> str:
        """The law as a formula, like "error = 0.118 + 1.42 n^-0.46"."""
        return f"error = {self.floor:.3f} + {self.scale:.3g} n^-{self.rate:.2f}"

    def _accuracies(self, images: float) -> Array:
        """(DRAWS,) accuracy by each law; in none of them does it fall with the number of images."""
        if not images > 0:
            raise ValueError(f"Accuracy at {images} images")
        error, floor, rate, bend = self.draws
        gone = (1 - floor) * (1 - np.power(images / self.largest, -rate))
        left: Array = (error * (1 - (bend * gone if images > self.largest else gone))).clip(0, 1)
        return 1 - left


def _log_normal(values: Array, median: float, spread: float) -> Array:
    return -0.5 * np.square(np.log(values / median) / spread)


def _spread(groups: Sequence[Array], ratio: Array, chances: Array) -> Array:
    """(chances,) log-likelihood of how models of one size differ.

    The largest size is to be left out: its models may all have seen the same images, and differ less than by chance.
    """
    freedom = sum(len(group) - 1 for group in groups)
    squares = float(sum(g.var() * len(g) / r for g, r in zip(groups, ratio, strict=True)))
    return -freedom * np.log(chances) - squares / (2 * np.square(chances))


def sentence(law: PowerLaw, images: float, ahead: float) -> str:
    """What `ahead` times the labels would bring to somebody who has `images`, for people.

    Like "Twice the labels would bring about 3 points (1 to 5): from 84 % to 87 % at 12,000 images."

    Raises:
        ValueError: `images` is not positive or `ahead` is less than 1.
    """
    more = images * ahead
    gain = law.gain(images, more)
    start = f"{_TIMES.get(ahead, f'{ahead:g} times')} the labels would bring"
    if gain.high < 0.005:
        return f"{start} less than half a point."
    now, then = 100 * law.at(images).accuracy, 100 * law.at(more).accuracy
    # Whole points, unless there are few or the rounded figures would not add up.
    digits = 0 if gain.value >= 0.01 and round(then) - round(now) == round(100 * gain.value) else 1
    shown = (round(then, digits) - round(now, digits), 100 * gain.low, 100 * gain.high)
    value, low, high = (f"{x:.{digits}f}" for x in shown)
    points = "point" if value == "1" else "points"
    what = f"about {value} {points} ({low} to {high})" if gain.value >= 0.005 else f"little, {high} points at most"
    return f"{start} {what}: from {now:.{digits}f} % to {then:.{digits}f} % at {more:,.0f} images."


@dataclass(frozen=True)
class Check:
    """The largest size as the law forecasts it from all others, and as it was measured."""

    forecast: Forecast
    measured: float
    """The mean accuracy at the largest size."""
    sentence: str
    """That compares the two."""


def check(points: Sequence[tuple[int, float]]) -> Check | None:
    """What the law would have forecast for the largest size, had it not been measured. Points and errors: as for `fit`.

    Returns:
        None if there are fewer than four sizes.
    """
    sizes = sorted({n for n, _ in points})
    if len(sizes) < 4:
        return None
    said = PowerLaw.fit([point for point in points if point[0] < sizes[-1]]).at(sizes[-1])
    there = [accuracy for n, accuracy in points if n == sizes[-1]]
    measured = sum(there) / len(there)
    found, law, low, high = (f"{100 * x:.1f}" for x in (measured, said.accuracy, said.low, said.high))
    off = float(found) - float(law)
    compared = "the same" if found == law else f"{abs(off):.1f} points {'more' if off > 0 else 'less'}"
    where = "within" if said.low <= measured <= said.high else "outside"
    return Check(
        said,
        measured,
        f"Fitted to {sizes[0]:,} to {sizes[-2]:,} images, the law said {law} % ({low} to {high}) at {sizes[-1]:,}; "
        f"measured: {found} %, {compared}, {where} the interval.",
    )
