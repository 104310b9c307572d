"""How the pages write numbers. A dash stands for a number that is missing or not finite."""

from __future__ import annotations

import math

from lensmith.records import Estimate, Rate

MISSING = "\N{EN DASH}"
_UNTIL = {"s": 59.5, "min": 3570, "h": 171_000, "days": math.inf}  # seconds below which a duration has this unit


def percentage(value: float) -> str:
    """0.852 as `85.2 %`."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else MISSING


def whole_percentage(value: float) -> str:
    """0.852 as `85 %`."""
    return f"{100 * value:.0f} %" if math.isfinite(value) else MISSING


def percentage_interval(rate: Rate) -> str:
    """The 95 % interval of a rate as `82.9 to 87.3 %`."""
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %" if finite(rate.low, rate.high) else MISSING


def decimal(value: float) -> str:
    """A number such as F1 with three decimals."""
    return f"{value:.3f}" if math.isfinite(value) else MISSING


def decimal_interval(estimate: Estimate) -> str:
    """The 95 % interval of an estimate as `0.829 to 0.873`."""
    known = finite(estimate.low, estimate.high)
    return f"{estimate.low:.3f} to {estimate.high:.3f}" if known else MISSING


def points(value: float) -> str:
    """A difference of 0.051 as `+5.1`, in percentage points."""
    if not math.isfinite(value):
        return MISSING
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def points_interval(estimate: Estimate) -> str:
    """The 95 % interval of a difference as `+2.0 to +8.3`, in percentage points."""
    known = finite(estimate.low, estimate.high)
    return f"{points(estimate.low)} to {points(estimate.high)}" if known else MISSING


def p_value(value: float) -> str:
    """A p-value with three decimals, or with as many as it takes to see on which side of 0.05 it lies."""
    if value < 0.001:
        return "< 0.001"
    digits = next((d for d in range(3, 9) if float(f"{value:.{d}f}") != 0.05), 9)
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING


def rounded_up(count: int) -> str:
    """A count that is only known roughly, rounded up to two significant digits: 2381 as `2,400`."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / step) * step:,}"


def number(value: float) -> str:
    """An integer as `20,000`; any other number with three significant digits, such as `0.0005`."""
    if abs(value) >= 1 and abs(value - round(value)) < 1e-9 * abs(value):
        return f"{round(value):,}"
    return f"{value:.3g}" if math.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    """Seconds as `0.25 s`, `4.2 s`, `12 min`, `3.4 h` or `2.1 days`."""
    if not math.isfinite(seconds):
        return MISSING
    size, unit = next((s, u) for s, u in ((1, "s"), (60, "min"), (3600, "h"), (86400, "days")) if seconds < _UNTIL[u])
    value = seconds / size
    if seconds < 1:
        return f"{value:.2g} {unit}"
    return f"{value:.0f} {unit}" if value == round(value) or value >= 9.95 else f"{value:.1f} {unit}"


def dollars(value: float | None) -> str:
    """An amount as `$1,234.50`."""
    if value is None or not math.isfinite(value):
        return MISSING
    return "under $0.01" if 0 < value < 0.005 else f"${value:,.2f}"


def finite(*values: float) -> bool:
    """Whether all values are finite."""
    return all(map(math.isfinite, values))
