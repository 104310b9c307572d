"""Learning curves: the law, its forecast, and the coverage of its intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import fmean, median

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lensmith.errors import UserError
from lensmith.measure.power_law import Gain, PowerLaw, check, sentence

SIZES = (300, 600, 1200, 2400, 4800, 9600)
Points = list[tuple[int, float]]

# Arbitrary accuracies: rising, falling, constant, or at the ends of the range.
CURVES = st.lists(
    st.tuples(st.integers(1, 100_000), st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)), min_size=3, max_size=20
).filter(lambda points: len({n for n, _ in points}) >= 3)


def truth(n: float, floor: float = 0.118, scale: float = 1.42, rate: float = 0.46) -> float:
    return float(1 - (floor + scale * n**-rate))


def measured(noise: float, models: int, seed: int = 0, sizes: Sequence[int] = SIZES) -> Points:
    """Points on the law above. `noise` is the standard deviation at the largest size; it is larger at smaller sizes."""
    random = Random(seed)
    return [(n, truth(n) + random.gauss(0, noise * (sizes[-1] / n) ** 0.5)) for n in sizes for _ in range(models)]


def width(points: Points, images: float) -> float:
    found = PowerLaw.fit(points).at(images)
    return found.high - found.low


@pytest.mark.parametrize(
    ("floor", "scale", "rate"), [(0.118, 1.42, 0.46), (0.02, 2.5, 0.35), (0.25, 20, 0.9), (0.1, 0.8, 0.25)]
)
def test_a_law_without_noise_is_recovered(floor: float, scale: float, rate: float) -> None:
    law = PowerLaw.fit([(n, truth(n, floor, scale, rate)) for n in SIZES for _ in range(3)])
    assert law.floor == pytest.approx(floor, abs=0.03)
    assert law.rate == pytest.approx(rate, rel=0.25)
    assert 1 - law.floor - law.scale * 9600**-law.rate == pytest.approx(law.at(9600).accuracy, abs=0.001)
    for times, off in ((1, 0.002), (2, 0.004), (10, 0.01)):
        found, right = law.at(9600 * times), truth(9600 * times, floor, scale, rate)
        assert found.accuracy == pytest.approx(right, abs=off)
        assert found.low < right < found.high


@given(CURVES, st.lists(st.floats(0.1, 1e9), min_size=2, max_size=4))
@example([(100, 0.9), (200, 0.8), (400, 0.7), (800, 0.6)], [100, 800, 8000])
@example([(100, 1.0), (200, 1.0), (400, 1.0)], [100, 400, 8000])
@example([(1, 0.0), (2, 0.0), (3, 0.0)], [1, 3, 100])
@settings(max_examples=60, deadline=None)
def test_a_forecast_is_an_accuracy_and_never_decreases(points: Points, images: list[float]) -> None:
    law = PowerLaw.fit(points)
    found = [law.at(n) for n in sorted(images)]
    assert all(0 <= f.low <= f.accuracy <= f.high <= 1 for f in found)
    for less, more in pairwise(found):
        assert less.low <= more.low
        assert less.accuracy <= more.accuracy
        assert less.high <= more.high
        gain = law.gain(less.images, more.images)
        assert gain.value == more.accuracy - less.accuracy
        assert 0 <= gain.low <= gain.value <= gain.high <= 1
    assert sentence(law, found[0].images, 2).endswith(".")


@given(CURVES, st.randoms(use_true_random=False))
@example([(1, 0.1), (1, 0.2), (1, 0.3), (2, 0.5), (3, 0.6)], Random(4))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_points_does_not_matter(points: Points, random: Random) -> None:
    other = random.sample(points, len(points))
    first, second = PowerLaw.fit(points), PowerLaw.fit(other)
    assert first.describe() == second.describe()
    assert all(first.at(n) == second.at(n) for n in (1, 12_345))


def test_the_interval_widens_with_distance_and_narrows_with_evidence() -> None:
    points = measured(0.005, 3)
    widths = [width(points, n) for n in (9600, 19_200, 38_400, 96_000, 192_000)]
    assert widths == sorted(widths)
    assert widths[3] > 2 * widths[0]
    # Between measured sizes, the forecast is at least as certain as at the smallest of them.
    assert width(measured(0.0005, 5), 600) < 0.012
    for images in (9600, 19_200):
        # Averaged over several draws of the noise, since a single one can look better than it is.
        few, many = (fmean(width(measured(0.005, models, seed), images) for seed in range(6)) for models in (1, 5))
        quiet = fmean(width(measured(0.0005, 5, seed), images) for seed in range(6))
        assert quiet < many < few
    # The differences between models of one size count, not only how well their means fit a law.
    apart = [(n, a + sign * 0.02) for n, a in measured(0, 1) for sign in (-1, 1)]
    assert width(apart, 19_200) > 1.3 * width(measured(0, 2), 19_200)


def test_models_of_the_largest_size_do_not_inform_the_variance_between_models() -> None:
    points = [(n, a) for n, a in measured(0.01, 3) if n < 9600]
    once, often = ([*points, *[(9600, truth(9600))] * models] for models in (1, 3))
    assert width(often, 9600) > 0.5 * width(once, 9600)
    # Only the mean and the number of models of the largest size are used.
    spread = [*points, (9600, truth(9600) - 0.03), (9600, truth(9600)), (9600, truth(9600) + 0.03)]
    assert PowerLaw.fit(spread).at(20_000).accuracy == pytest.approx(PowerLaw.fit(often).at(20_000).accuracy)


def test_a_gain_is_more_certain_than_its_two_accuracies() -> None:
    law = PowerLaw.fit(measured(0.005, 3))
    gain, then = law.gain(9600, 19_200), law.at(19_200)
    assert gain.value == then.accuracy - law.at(9600).accuracy
    assert gain.high - gain.low < then.high - then.low
    assert law.gain(9600, 9600) == Gain(0, 0, 0)
    with pytest.raises(ValueError, match="not more"):
        law.gain(9600, 9599)


@pytest.mark.parametrize("accuracy", [0.0, 0.8, 1.0])
def test_a_constant_accuracy_stays_constant(accuracy: float) -> None:
    law = PowerLaw.fit([(n, accuracy) for n in SIZES for _ in range(2)])
    for n in (9600, 96_000):
        found = law.at(n)
        assert found.accuracy == pytest.approx(accuracy, abs=0.01)
        assert found.low <= accuracy + 0.01
        assert found.high - found.low < 0.04
    assert sentence(law, 9600, 2) == "Twice the labels would bring less than half a point."


def test_a_decreasing_accuracy_is_treated_as_constant() -> None:
    points = [(100, 0.84), (200, 0.83), (400, 0.82), (800, 0.81)]
    for n in (800, 8000):
        assert 0.8 < PowerLaw.fit(points).at(n).accuracy < 0.84
    found = check(points)
    assert found is not None
    assert found.sentence.endswith("points less, outside the interval.") == (found.measured < found.forecast.low)


def test_points_that_cannot_be_fitted_are_refused() -> None:
    for points in ([], [(100, 0.5)] * 9, [(100, 0.5), (200, 0.6), (200, 0.7)]):
        with pytest.raises(UserError, match="at least three sizes") as error:
            PowerLaw.fit(points)
        assert error.value.hint
    for point in ((0, 0.5), (-5, 0.5), (400, 1.01), (400, -0.1), (400, float("nan"))):
        with pytest.raises(ValueError, match="must be positive, and accuracies in"):
            PowerLaw.fit([(100, 0.5), (200, 0.6), (300, 0.7), point])
    with pytest.raises(ValueError, match="must be positive, not 0"):
        PowerLaw.fit(measured(0, 1)).at(0)


def test_the_law_as_a_formula() -> None:
    law = PowerLaw.fit(measured(0.001, 3))
    found = re.fullmatch(r"error = (0\.\d{3}) \+ (\S+) n\^-(\d\.\d\d)", law.describe())
    assert found is not None
    assert [float(x) for x in found.groups()] == pytest.approx([law.floor, law.scale, law.rate], rel=0.02)


def test_what_more_labels_would_bring() -> None:
    few = PowerLaw.fit([(n, truth(n, 0.02, 3, 0.4)) for n in (100, 200, 400, 800, 1600)])
    text = sentence(few, 1600, 2)
    assert text == "Twice the labels would bring about 4 points (2 to 6): from 82 % to 86 % at 3,200 images."
    assert sentence(few, 1600, 10).startswith("Ten times the labels would bring about 9 points (5 to 15): from 82 %")
    assert sentence(few, 1600, 1.5).startswith("1.5 times the labels would bring about ")
    assert sentence(few, 1600, 3).startswith("Three times the labels would bring about ")
    near = PowerLaw.fit(measured(0.001, 3))
    assert re.fullmatch(
        r"Twice the labels would bring about 0\.[5-9] points \(0\.\d to \d\.\d\): "
        r"from 86\.\d % to 86\.\d % at 19,200 images\.",
        sentence(near, 9600, 2),
    )
    uncertain = PowerLaw.fit([(100, 0.80), (200, 0.82), (400, 0.79), (800, 0.81)])
    assert re.fullmatch(
        r"Twice the labels would bring little, at most \d\.\d points: from 8\d\.\d % to 8\d\.\d % at 1,600 images\.",
        sentence(uncertain, 800, 2),
    )


@given(CURVES, st.floats(1, 100), st.sampled_from([1.5, 2, 4, 10]))
@settings(max_examples=40, deadline=None)
def test_the_figures_of_a_sentence_add_up(points: Points, images: float, ahead: float) -> None:
    law = PowerLaw.fit(points)
    text = sentence(law, images, ahead)
    found = re.search(r"about (\S+) points? .* from (\S+) % to (\S+) %", text)
    if found is not None:
        gain, now, then = map(float, found.groups())
        assert gain == pytest.approx(then - now)
        step = 0.1 if "." in found[1] else 0.5
        assert 100 * law.gain(images, images * ahead).value == pytest.approx(gain, abs=step + 1e-9)


def test_the_check_forecasts_the_largest_size_from_the_others() -> None:
    points = measured(0.004, 3, seed=4)
    found = check(points)
    assert found is not None
    forecast, mean = found.forecast, found.measured
    known = [p for p in points if p[0] < 9600]
    assert forecast == PowerLaw.fit(known).at(9600)
    assert mean == pytest.approx(fmean(a for n, a in points if n == 9600))
    numbers = re.fullmatch(
        r"Fitted to 300 to 4,800 images, the law forecasts (\S+) % \((\S+) to (\S+)\) at 9,600 images\. "
        r"Measured: (\S+) %, (?:the same|(\S+) points (more|less)), within the interval\.",
        found.sentence,
    )
    assert numbers is not None
    forecast_text, low, high, measured_text, off, way = numbers.groups()
    shown = (forecast_text, low, high, measured_text)
    figures = (forecast.accuracy, forecast.low, forecast.high, mean)
    assert shown == tuple(f"{100 * x:.1f}" for x in figures)
    assert float(measured_text) - float(forecast_text) == pytest.approx(float(off or 0) * (-1 if way == "less" else 1))
    # A wrong forecast is reported as such, and the measurement does not influence the forecast.
    for accuracy, end in ((0.5, "points less, outside the interval."), (0.99, "points more, outside the interval.")):
        wrong = check([*known, (9600, accuracy)])
        assert wrong is not None
        assert wrong.forecast == forecast
        assert wrong.sentence.endswith(end)
    assert check([p for p in points if p[0] >= 2400]) is None


@dataclass
class Curve:
    """A power law, or the mean of two; `ratio` is the size divided by the largest size."""

    floor: float
    excess: float
    rates: tuple[float, ...]

    def accuracy(self, ratio: float) -> float:
        return 1 - self.floor - self.excess * fmean(ratio**-rate for rate in self.rates)


def test_about_nine_intervals_in_ten_cover_the_true_value() -> None:
    """On realistic curves: the mean of two power laws isn't one, and each size deviates from any smooth curve."""
    random = Random(1)
    covered: dict[int, list[bool]] = {2: [], 10: []}
    half: dict[int, list[float]] = {2: [], 10: []}
    for _ in range(150):
        rates = random.uniform(0.1, 1), random.uniform(0.1, 1)
        curve = Curve(random.uniform(0, 0.3), random.uniform(0.02, 0.08), random.choice([rates, rates[:1]]))
        sizes, models, noise = random.choice([4, 5, 6]), random.choice([1, 3, 5]), random.uniform(0.002, 0.008)
        points: Points = []
        for k in range(sizes):
            mean = curve.accuracy(2**-k) + random.gauss(0, 0.004)
            points += [(1600 >> k, max(0, mean + random.gauss(0, noise * 2 ** (k / 2)))) for _ in range(models)]
        law = PowerLaw.fit(points)
        for times in covered:
            found = law.at(1600 * times)
            covered[times].append(found.low <= curve.accuracy(times) + random.gauss(0, 0.004) <= found.high)
            half[times].append((found.high - found.low) / 2)
    coverage = {times: fmean(found) for times, found in covered.items()}
    assert all(0.86 <= fraction <= 0.98 for fraction in coverage.values()), coverage
    assert median(half[2]) < 0.016
    assert median(half[10]) < 0.033
