"""The large charts show the points of the records."""

from __future__ import annotations

import re

import pytest

from lensmith.pages.charts import curves
from lensmith.records import CoveragePoint, Rate, ReliabilityBin
from tests.pages.samples import rate


def test_a_long_loss_curve_is_smoothed_and_small() -> None:
    points = [(i, 1.0 + 8 * (i % 10 == 0)) for i in range(20_000)]
    assert {loss for _, loss in curves.running_median(points)} == {1.0}
    assert len(curves.loss_curve(points, 20_000)) < 50_000


def test_the_reliability_chart() -> None:
    bins = [ReliabilityBin(0.2, 0.4, 0.3, rate(0.5, 10)), ReliabilityBin(0.8, 1.0, 0.9, rate(0.8, 40))]
    drawn = curves.reliability_curve(bins)
    assert 'cx="30.0%" cy="50.0%"' in drawn
    assert 'x1="90.0%" x2="90.0%" y1="10.0%" y2="30.0%"' in drawn
    assert "30.0 % confident, 50.0 % correct; 90.0 % confident, 80.0 % correct" in drawn
    few, many = (float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)%"', drawn))
    assert many == 4 * few
    assert "<title>40 images</title>" in drawn


def test_the_coverage_chart() -> None:
    points = [CoveragePoint(0.9, 0.6, Rate(0.9, 0.86, 0.94, 90)), CoveragePoint(0.1, 0.9, Rate(1, 0.8, 1, 10))]
    drawn = curves.coverage_curve(points, points[0])
    assert '<polygon points="10,0 90,30 90,70 10,100"' in drawn
    assert 'cx="90.0%" cy="50.0%"' in drawn
    assert curves.coverage_curve(points, None).count("<circle") == 0
    assert curves.coverage_curve(points[:1], None).count("<circle") == 1


@pytest.mark.parametrize(
    ("low", "floor"), [(0.97, 95), (0.95, 95), (0.93, 90), (0.8, 80), (0.61, 60), (0.3, 0), (0, 0)]
)
def test_the_coverage_axis_starts_below_all_intervals(low: float, floor: int) -> None:
    points = [CoveragePoint(1, 0.5, Rate(0.98, low, 1, 10)), CoveragePoint(0.5, 0.5, Rate(0.98, 0.98, 1, 10))]
    assert curves.coverage_floor(points) == floor
