"""Prices of Modal's GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from lensmith.config import ModalOptions

PRICES: dict[str, float | None] = {
    "T4": 0.5904,
    "L4": 0.7992,
    "A10": None,
    "L40S": 1.9512,
    "A100-40GB": None,
    "A100-80GB": 2.4984,
    "RTX-PRO-6000": None,
    "H100": 3.9492,
    "H200": None,
    "B200": None,
}
"""US dollars per hour; None if no dated price is known. Modal reports a wrong name only when a machine starts."""
LISTED = "2026-05-07"
"""Date of these prices."""


def gpu(name: str) -> str:
    """Modal's name of a GPU, for a name in any case.

    Raises:
        UserError: Modal has no such GPU, or the name asks for several.
    """
    known = name.upper()
    if ":" in name:
        raise UserError(
            f"modal.gpu={name} asks for several GPUs, but a job at Modal is one process.",
            f"Use one: modal.gpu={name.partition(':')[0]}.",
        )
    if known not in PRICES:
        raise UserError(
            f"modal.gpu={name} isn't a GPU that Modal has.",
            f"{nearest(known, PRICES)} Known GPUs: {', '.join(PRICES)}.".strip(),
        )
    return known


def price_before(options: ModalOptions) -> str:
    """A sentence on the maximum cost of a job."""
    price, attempts = PRICES[options.gpu], 1 + options.retries
    limit = f"up to {attempts} attempt{'s' if attempts > 1 else ''} of {options.hours:g} h"
    if price is None:
        return f"{options.gpu} at Modal: price unknown; {limit}."
    most = options.hours * price * attempts
    return (
        f"{options.gpu} at Modal: ${price:.2f} per hour (prices of {LISTED}), so at most ${most:.2f} for {limit}; "
        "CPU and memory cost extra."
    )


def price_after(name: str, seconds: float, price: float | None) -> str:
    """A sentence on the cost of a job; `seconds` is the sum over all attempts, `price` is in dollars per hour."""
    took = f"{seconds / 60:.1f} min on {name}"
    if price is None:
        return f"{took}: price unknown."
    return f"{took}: about ${seconds / 3600 * price:.2f} (prices of {LISTED}); CPU and memory cost extra."
