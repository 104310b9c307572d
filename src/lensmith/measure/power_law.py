"""A power law fitted to a learning curve: how accuracy grows with the number of labels, and what more would bring.

    error(n) = floor + scale n^-rate

A power law with a floor, in the number n of training images: C. Cortes et al., Learning curves: asymptotic values and
rate of convergence (1993); J. Hestness et al., Deep learning scaling is predictable, empirically (2017, 1712.00409);
J. Rosenfeld et al., A constructive prediction of the generalization error across scales (2020, 1909.12673).

With few sizes, a low floor that is approached slowly can't be distinguished from a high floor that is approached fast,
and the best fit is one of many that are about as good. So no single fit is chosen: the forecast is an average over a
grid of laws, each weighted by how well it explains the points (Bayes' rule, with weak priors). The interval also
accounts for three things that least squares ignores: random variation between models, even with one model per size;
deviations of the curve from a power law; and that the curve need not continue beyond the largest size as it began.

All accuracies must be measured on the same test images, and the forecast is the accuracy on these images. The error due
to the choice of test images is the same for all sizes, and is not part of the points' scatter or of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensmith.errors import UserError

Array = NDArray[np.float64]

# The grid. The error at the largest size is not part of it: given the other parameters it is normally distributed, and
# integrated analytically.
RATES: Array = np.geomspace(0.05, 1.5, 32)
FLOORS: Array = (np.arange(40) + 0.5) / 40
"""Fractions of the error at the largest size, with a uniform prior."""
CHANCES: Array = np.geomspace(0.0005, 0.06, 9)
"""Standard deviations, at the largest size, of the accuracy between models with different subsets and seeds. Like
`MISFITS`, they are multiples of sqrt(error (1 - error)) at that size, so that they are small where errors are rare."""
MISFITS: Array = np.geomspace(0.001, 0.05, 7)
"""Standard deviations, at the largest size, of the curve from a power law."""


class LogNormal(NamedTuple):
    """A log-normal prior."""

    median: float
    deviation: float
    """Standard deviation of the logarithm."""


# The priors and `BEND` were chosen on the curves of 92 cheap models, of 40 to 60,000 images. On 15 other curves, the
# intervals then contained the accuracy measured at 2, 4 and 10 times the largest size in 89, 93 and 97 of 100 cases;
# those of least squares with a bootstrap did in about 60. Halving or doubling the median of one prior, or `BEND`,
# changed this coverage by at most 5 of 100.
RATE = LogNormal(0.6, 0.6)
CHANCE = LogNormal(0.015, 0.8)
MISFIT = LogNormal(0.008, 0.5)
BEND = 0.3
"""Beyond the largest size, the law's gain is multiplied by a random factor; this is the standard deviation of its
logarithm."""

DRAWS = 4000
_TIMES = {2.0: "Twice", 3.0: "Three times", 4.0: "Four times", 5.0: "Five times", 10.0: "Ten times"}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Accuracy at a number of training images with its 90 % interval, all in 0..1.

    It is the mean over subsets and seeds: the accuracy of a single model varies a little more.
    """

    images: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """What more images would bring: the difference of two accuracies, with its 90 % interval. No value is below 0."""

    value: float
    low: float
    high: float


class PosteriorDraws(NamedTuple):
    """(DRAWS,) values of each parameter of the law, drawn from the posterior."""

    error: Array
    """Error at the largest size."""
    floor_fraction: Array
    """Fraction of this error that is the floor."""
    rate: Array
    bend: Array
    """Factor on the law's gain beyond the largest size."""


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """error(n) = floor + scale n^-rate, with a sample of the posterior over all such laws."""

    floor: float
    """Posterior median."""
    scale: float
    """Chosen so that, with floor and rate, the law gives the posterior median of the error at the largest size."""
    rate: float
    """Posterior median."""
    largest: float
    """The largest size among the points."""
    draws: PosteriorDraws

    @classmethod
    def fit(cls, points: Sequence[tuple[int, float]]) -> PowerLaw:
        """Fit a law to a learning curve. The order of the points has no effect.

        Args:
            points: (number of training images, accuracy in 0..1) of each model, one or more models per size.

        Raises:
            UserError: there are fewer than three sizes.
            ValueError: a size is not positive, or an accuracy is not in 0..1.
        """
        if not all(n > 0 and 0 <= accuracy <= 1 for n, accuracy in points):
            raise ValueError("Sizes must be positive, and accuracies in 0..1.")
        sizes = sorted({n for n, _ in points})
        if len(sizes) < 3:
            raise UserError(
                f"A learning curve needs training sets of at least three sizes, but these points have {len(sizes)}.",
                "Train on smaller subsets of the training images as well, each about half as large as the next.",
            )
        groups = [np.array(sorted(1 - accuracy for m, accuracy in points if m == n)) for n in sizes]
        error = np.array([group.mean() for group in groups])
        models = np.array([len(group) for group in groups])
        ratio = sizes[-1] / np.array(sizes, dtype=np.float64)
        unit = float(np.sqrt(max(error[-1] * (1 - error[-1]), 0.001)))

        # (rates, floors, sizes): each law's error relative to that at the largest size.
        shape = FLOORS[:, None] + (1 - FLOORS[:, None]) * ratio ** RATES[:, None, None]
        # (chances, misfits, sizes): the variance of the mean errors. The variance due to chance doubles when the size
        # halves, as measured. The deviation from the law grows with the distance from the largest size, like a random
        # walk. The means are treated as independent although the subsets are nested, as they were when the coverage of
        # the intervals was measured.
        chance = (CHANCES[:, None, None] * unit) ** 2 * ratio / models
        misfit = (MISFITS[:, None] * unit) ** 2 * (1 + np.log2(ratio))
        weight = 1 / (chance + misfit)
        # Weighted least squares for the one linear parameter, for every cell (rates, floors, chances, misfits) at once.
        precision = np.einsum("rfk,cmk->rfcm", shape**2, weight)
        mean = np.einsum("rfk,cmk->rfcm", shape * error, weight) / precision
        residual = (weight * error**2).sum(-1) - mean**2 * precision
        log_posterior = 0.5 * (np.log(weight).sum(-1) - np.log(precision) - residual)
        log_posterior += _log_normal(RATES, RATE)[:, None, None, None] + _log_normal(MISFITS, MISFIT)
        log_posterior += (_log_normal(CHANCES, CHANCE) + _spread(groups[:-1], ratio[:-1], CHANCES * unit))[:, None]

        cumulative = np.exp(log_posterior - log_posterior.max()).cumsum()
        chosen = cumulative.searchsorted((np.arange(DRAWS) + 0.5) / DRAWS * cumulative[-1])
        rate, floor, _, _ = np.unravel_index(chosen, log_posterior.shape)
        normal = np.array([NormalDist().inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)])
        random = np.random.default_rng(0)
        last = mean.ravel()[chosen] + random.permutation(normal) / np.sqrt(precision.ravel()[chosen])
        bend = np.exp(BEND * random.permutation(normal))
        draws = PosteriorDraws(last.clip(0, 1), FLOORS[floor], RATES[rate], bend)
        median_error, median_fraction = float(np.median(draws.error)), float(np.median(draws.floor_fraction))
        median_rate = float(np.median(draws.rate))
        scale = median_error * (1 - median_fraction) * sizes[-1] ** median_rate
        return cls(median_error * median_fraction, scale, median_rate, float(sizes[-1]), draws)

    def at(self, images: float) -> Forecast:
        """Forecast of the accuracy at a number of training images. It never decreases with the number.

        Raises:
            ValueError: the number is not positive.
        """
        low, middle, high = np.quantile(self._accuracies(images), [0.05, 0.5, 0.95]).tolist()
        return Forecast(images, middle, low, high)

    def gain(self, images: float, more: float) -> Gain:
        """The accuracy at `more` training images minus that at `images`.

        Its interval is narrower than those of the two accuracies, since what is uncertain about both cancels out.

        Raises:
            ValueError: `images` is not positive, or `more` is less than `images`.
        """
        if more < images:
            raise ValueError(f"{more} images are not more than {images}.")
        value = self.at(more).accuracy - self.at(images).accuracy
        low, high = np.quantile(self._accuracies(more) - self._accuracies(images), [0.05, 0.95]).tolist()
        return Gain(value, min(low, value), max(high, value))

    def describe(self) -> str:
        """The law as a formula, such as "error = 0.118 + 1.42 n^-0.46"."""
        return f"error = {self.floor:.3f} + {self.scale:.3g} n^-{self.rate:.2f}"

    def _accuracies(self, images: float) -> Array:
        """(DRAWS,) accuracy by each law. In none of them does it decrease with the number of images."""
        if not images > 0:
            raise ValueError(f"The number of images must be positive, not {images}.")
        error, floor_fraction, rate, bend = self.draws
        reduction = (1 - floor_fraction) * (1 - np.power(images / self.largest, -rate))
        remaining: Array = (error * (1 - (bend * reduction if images > self.largest else reduction))).clip(0, 1)
        return 1 - remaining


def _log_normal(values: Array, prior: LogNormal) -> Array:
    """Log-density of a prior, up to a constant."""
    return -0.5 * np.square(np.log(values / prior.median) / prior.deviation)


def _spread(groups: Sequence[Array], ratio: Array, chances: Array) -> Array:
    """(chances,) log-likelihood of the differences between models of the same size.

    The largest size must be left out: its models may all have been trained on the same images, and so differ less.
    """
    degrees_of_freedom = sum(len(group) - 1 for group in groups)
    squares = float(sum(g.var() * len(g) / r for g, r in zip(groups, ratio, strict=True)))
    return -degrees_of_freedom * np.log(chances) - squares / (2 * np.square(chances))


def sentence(law: PowerLaw, images: float, ahead: float) -> str:
    """What `ahead` times the labels would bring, given `images` now, as a sentence.

    For example "Twice the labels would bring about 3 points (1 to 5): from 84 % to 87 % at 12,000 images."

    Raises:
        ValueError: `images` is not positive or `ahead` is less than 1.
    """
    more = images * ahead
    gain = law.gain(images, more)
    start = f"{_TIMES.get(ahead, f'{ahead:g} times')} the labels would bring"
    if gain.high < 0.005:
        return f"{start} less than half a point."
    now, then = 100 * law.at(images).accuracy, 100 * law.at(more).accuracy
    # Rounded to whole points, unless the gain is small or the rounded figures would not add up.
    digits = 0 if gain.value >= 0.01 and round(then) - round(now) == round(100 * gain.value) else 1
    shown = (round(then, digits) - round(now, digits), 100 * gain.low, 100 * gain.high)
    value, low, high = (f"{x:.{digits}f}" for x in shown)
    points = "point" if value == "1" else "points"
    amount = f"about {value} {points} ({low} to {high})" if gain.value >= 0.005 else f"little, at most {high} points"
    return f"{start} {amount}: from {now:.{digits}f} % to {then:.{digits}f} % at {more:,.0f} images."


@dataclass(frozen=True)
class Check:
    """A law's forecast for the largest size, fitted to the smaller ones, and the measured accuracy."""

    forecast: Forecast
    measured: float
    """The mean accuracy at the largest size."""
    sentence: str
    """Compares forecast and measurement, for people."""


def check(points: Sequence[tuple[int, float]]) -> Check | None:
    """Check the law on the largest size: forecast it from the smaller sizes, and compare with the measurement.

    Points and errors are as for `PowerLaw.fit`.

    Returns:
        None if there are fewer than four sizes.
    """
    sizes = sorted({n for n, _ in points})
    if len(sizes) < 4:
        return None
    forecast = PowerLaw.fit([point for point in points if point[0] < sizes[-1]]).at(sizes[-1])
    accuracies = [accuracy for n, accuracy in points if n == sizes[-1]]
    measured = sum(accuracies) / len(accuracies)
    shown = (measured, forecast.accuracy, forecast.low, forecast.high)
    measured_text, forecast_text, low, high = (f"{100 * x:.1f}" for x in shown)
    off = float(measured_text) - float(forecast_text)
    compared = "the same" if off == 0 else f"{abs(off):.1f} points {'more' if off > 0 else 'less'}"
    where = "within" if forecast.low <= measured <= forecast.high else "outside"
    return Check(
        forecast,
        measured,
        f"Fitted to {sizes[0]:,} to {sizes[-2]:,} images, the law forecasts {forecast_text} % ({low} to {high}) at "
        f"{sizes[-1]:,} images. Measured: {measured_text} %, {compared}, {where} the interval.",
    )
