"""What Modal's GPUs cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from lensmith.config import PlaceOptions

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
"""US dollars an hour; None where no dated price was found. Modal takes a wrong name until a machine is to start."""
LISTED = "2026-05-07"


def gpu(name: str) -> str:
    """Modal's name of a GPU, whatever its case.

    Raises:
        UserError: it has no such GPU, or several are asked for.
    """
    known = name.upper()
    if ":" in name:
        raise UserError(
            f"place.gpu={name} asks for several GPUs, but a job at Modal is one process.",
            f"Ask for one: place.gpu={name.partition(':')[0]}.",
        )
    if known not in PRICES:
        raise UserError(
            f"place.gpu={name} isn't a GPU that Modal has.",
            f"{nearest(known, PRICES)} Known: {', '.join(PRICES)}.".strip(),
        )
    return known


def price_before(options: PlaceOptions) -> str:
    """What a job will cost at most, as a sentence."""
    price, attempts = PRICES[options.gpu], 1 + options.retries
    limit = f"{options.hours:g} h and {attempts} attempt{'s' if attempts > 1 else ''} at most"
    if price is None:
        return f"{options.gpu} at Modal: price unknown; {limit}."
    most = options.hours * price * attempts
    return (
        f"{options.gpu} at Modal: ${price:.2f} an hour by the list of {LISTED}, so ${most:.2f} at most ({limit}); "
        "processor and memory come on top."
    )


def price_after(name: str, seconds: float, price: float | None) -> str:
    """What a job has cost, as a sentence; `seconds` over all attempts, `price` in dollars an hour."""
    took = f"{seconds / 60:.1f} min on {name}"
    if price is None:
        return f"{took}: price unknown."
    return f"{took}: about ${seconds / 3600 * price:.2f} by the list of {LISTED}, processor and memory on top."
