"""What a classifier costs, and how long it takes to answer.

An outside model costs its usage by its price; a local one the machine's hourly cost by the rate that was measured. Its
labels and its training are paid once, so it is cheaper from some number of images on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from lensmith.config import LadderOptions
from lensmith.data import Split
from lensmith.measure.metrics import quantiles
from lensmith.measure.outside import WORDS, summary_of
from lensmith.records import Evaluation
from lensmith.runs.files import read_json

ALONE, WARM = 100, 5
"""Images that a local model answers one at a time to measure its delay, and the first of them, which aren't counted."""


@dataclass(frozen=True)
class Expense:
    """What a classifier costs, in US dollars, and its delays."""

    name: str
    outside: bool
    per_image: float | None
    """None if the rate of a local model isn't known."""
    fixed: float = 0.0
    """Labels and training of a local model."""
    how: str = ""
    """Where the cost is from."""
    delay: dict[str, float] = field(default_factory=dict)
    """`p50`, `p95` and `p99` in seconds, and `n`; empty if not measured."""
    flying: int = 1
    """Requests in flight while delays were measured."""
    repeated: dict[str, int] = field(default_factory=dict)
    """`n` images that were asked about twice, and how many answers `changed`."""
    unanswered: dict[str, int] = field(default_factory=dict)
    """Images without an answer that counts, by kind."""


def expense(run: Path, name: str, evaluation: Evaluation, labels: int, costs: LadderOptions) -> Expense:
    """What the classifier of a finished run costs.

    Args:
        labels: the number of images that it was taught with.
        costs: `hourly_cost` of the machine, and `label_cost`.
    """
    if summary := summary_of(run):
        kinds = {WORDS[kind]: number for kind, number in summary["kinds"].items() if kind in WORDS}
        return Expense(
            name,
            True,
            summary["dollars_per_image"],
            how=summary["price_source"],
            delay={key: value for key, value in summary["delay"].items() if summary["delay"]["n"]},
            flying=summary["in_flight"],
            repeated=summary["repeated"] or {},
            unanswered=kinds,
        )
    training = run / "training.json"
    learnt = float(read_json(training).get("seconds", 0.0)) if training.exists() else 0.0
    second = costs.hourly_cost / 3600
    rate = evaluation.accuracy.n / evaluation.seconds if evaluation.seconds else 0.0
    machine = f"at ${costs.hourly_cost:g} an hour" if costs.hourly_cost else "of your own (ladder.hourly_cost=0)"
    how = f"{rate:,.0f} images/s on a machine {machine}" if rate else ""
    per_image = second / rate if rate else 0.0 if not second else None
    return Expense(name, False, per_image, learnt * second + labels * costs.label_cost, how)


def alone(run: Path, split: Split, max_pixels: int) -> dict[str, float]:
    """Delays of a taught model that is asked about one image at a time, from the file to the answer.

    Raises:
        UserError: the run's model can't be loaded.
    """
    from lensmith.engine.classifier import predict
    from lensmith.engine.taught import load_taught

    classifier = load_taught(run).classifier
    delays = []
    for item in list(split.items(max_pixels, classifier.model.sufficient_size))[: WARM + ALONE]:
        start = time.perf_counter()
        if not next(predict(classifier, [item])).error:
            delays.append(time.perf_counter() - start)
    delays = delays[WARM:]
    return {"n": float(len(delays))} | quantiles(delays) if delays else {}


def break_even(api: Expense, local: Expense) -> int | None:
    """The number of images from which on a local model is cheaper in all; None if it never is, or isn't known."""
    if api.per_image is None or local.per_image is None or local.per_image >= api.per_image:
        return None
    # Exact: as floats, prices that differ by almost nothing would give infinity.
    return math.ceil(Fraction(local.fixed) / (Fraction(api.per_image) - Fraction(local.per_image)))


def verdict(api: Expense, local: Expense) -> str:
    """One sentence on which of the two is cheaper, and from when on."""
    if api.per_image is None or local.per_image is None:
        return ""
    mine, theirs = dollars(local.per_image * 1000), dollars(api.per_image * 1000)
    begin = f"1,000 images cost {theirs} with {api.name} and {mine} with {local.name}"
    images = break_even(api, local)
    if images is None:
        more = " the two cost the same." if api.per_image == local.per_image else f" {local.name} is never cheaper."
        return f"{begin}: at these prices,{more}"
    if not local.fixed:
        return f"{begin}, which is cheaper from the first image on."
    return (
        f"{begin}; with {dollars(local.fixed)} for its labels and training, {local.name} is cheaper from "
        f"{images:,} images on."
    )


def dollars(value: float) -> str:
    """`"$12.30"`, `"$0.0042"`."""
    if value >= 1 or value < 1e-9:
        return f"${value:,.2f}"
    # Two significant figures.
    return f"${value:.{1 - math.floor(math.log10(value))}f}"


def milliseconds(delay: dict[str, float]) -> list[str]:
    """The cells of a table: p50, p95, p99, and of how many images."""
    if not delay:
        return ["–"] * 4
    return [f"{delay[key] * 1000:,.0f}" for key in ("p50", "p95", "p99")] + [f"{delay['n']:,.0f}"]


def rows(expenses: Sequence[Expense]) -> list[list[str]]:
    """The rows of a table under `HEAD`."""
    out = []
    for e in expenses:
        cost = "–" if e.per_image is None else dollars(e.per_image * 1000)
        repeated = f"{e.repeated['changed']:,} of {e.repeated['n']:,}" if e.repeated else "–" if e.outside else "none"
        out.append([e.name, cost, *milliseconds(e.delay), repeated, f"{sum(e.unanswered.values()):,}"])
    return out


HEAD = ["", "1,000 images", "p50 ms", "p95 ms", "p99 ms", "of", "changed", "no answer"]


def notes(expenses: Sequence[Expense]) -> list[str]:
    """How the figures of a table were measured."""
    lines = []
    for e in expenses:
        if e.outside:
            said = f"{e.name}: {e.how}; delays without retries, with up to {e.flying} requests in flight"
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in e.unanswered.items())
            lines.append(f"{said}; without an answer that counts: {kinds}." if kinds else f"{said}.")
        else:
            lines.append(f"{e.name}: {e.how or 'rate not measured'}; delays one image at a time on this machine.")
    return lines


def measured(
    runs: Sequence[Path],
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    labels: Sequence[int],
    costs: LadderOptions,
) -> list[Expense]:
    """What each of several runs costs; none if no outside model is among them."""
    if not any(summary_of(run) for run in runs):
        return []
    return [
        expense(run, name, evaluation, number, costs)
        for run, name, evaluation, number in zip(runs, names, evaluations, labels, strict=True)
    ]
