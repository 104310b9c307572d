"""Scores a split by asking an outside model: predictions, evaluation, and what it cost in dollars and time.

An image that the model refused, or answered in a form or with a class that nobody asked for, counts as wrong and is
listed, as an unreadable image is. Probabilities are used, and calibrated, only where all classes have one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lensmith.apis.asking import Asked, Asking, Item
from lensmith.apis.batches import settle
from lensmith.apis.pictures import picture
from lensmith.apis.plan import Plan
from lensmith.apis.prices import shutdown_note
from lensmith.apis.provider import Picture, Usage
from lensmith.apis.recording import Answer, Recording
from lensmith.data import ImageDataset, Split
from lensmith.errors import Stopped
from lensmith.measure.calibration import ENOUGH, LEAST
from lensmith.measure.evaluation import Scored, evaluate
from lensmith.measure.metrics import quantiles
from lensmith.progress import Tell, counter
from lensmith.records import Calibration, Prediction
from lensmith.runs.files import read_json, write_json
from lensmith.runs.folder import CALIBRATION, PREDICTIONS, Run
from lensmith.runs.predictions import Unfinished, read_predictions

SUMMARY = "api.json"
"""File of a run folder: which outside model answered, what it cost, its delays, and what it didn't answer."""
LEAST_PROBABILITY = 1e-4
"""Stands for a probability of 0: APIs round, some to two decimals."""
CHUNK = 1000
"""Predictions that are written at once."""
WORDS = {
    "refused": "the model refused",
    "malformed": "no answer in the form that was asked for",
    "unlisted": "a class that isn't one",
    "rejected": "the API rejected the image",
}
"""The kinds of answers that count as wrong."""


@dataclass(frozen=True)
class Steadiness:
    """Images that were asked about twice, and how many of their answers changed."""

    n: int
    changed: int


def items(split: Split, max_pixels: int, longest: int | None) -> Iterator[Item]:
    """The images of a split, as they are sent."""

    def read(i: int) -> Picture:
        return picture(split.encoded(i), split.source(i), max_pixels, longest)

    for i, name in enumerate(split.ids):
        yield name, partial(read, i)


def to_calibrate(dataset: ImageDataset, method: str, probabilities: bool, split: str) -> Split | None:
    """The validation images that a calibration needs answers about; None if there is going to be none."""
    if method == "none" or not probabilities or len(dataset.validation) < LEAST or split == "validation":
        return None
    return dataset.validation.take(ENOUGH)


def repeated(split: Split, fraction: float, seed: int) -> Split | None:
    """The images that are asked about twice."""
    return split.take(max(1, round(fraction * len(split))), seed) if fraction and len(split) else None


def score_outside(
    run: Run, asking: Asking, split: Split, labels: Mapping[str, str], plan: Plan, wait: bool = False
) -> Scored:
    """Ask about a split's images, and those needed to calibrate, and summarise the answers. Resumes a stopped call.

    Args:
        labels: the label of each name that the model may answer.
        wait: wait for a batch that was submitted.

    Raises:
        UserError, Unanswered: see `Asking.all`. What is answered is kept.
        Stopped: Ctrl-C.
        Submitted: the requests were submitted as a batch.
    """
    data, options, recording = run.recipe.data, asking.options, asking.recording
    method = run.recipe.evaluate.calibration
    validation = to_calibrate(run.dataset, method, asking.provider.PROBABILITIES, split.name)
    again = repeated(split, options.repeat, run.recipe.seed)

    def ask(images: Split, task: str, turn: int = 0) -> Asked:
        rows = items(images, data.max_pixels, options.pixels)
        return ask_all(run.folder, asking, rows, len(images), task, run.tell, turn)

    if options.batch:
        rows = (items(images, data.max_pixels, options.pixels) for images in (validation, split) if images)
        with stopped(run.folder):
            settle(asking, chain.from_iterable(rows), run.folder, run.tell, wait)
    calibration, record = Calibration(), dict[str, Any]()
    if validation:
        said = ask(validation, "asking (validation)")
        calibration, record = _fit(validation, said, recording, labels, run)
        write_json(run.folder / CALIBRATION, {"calibration": asdict(calibration), "record": record})
    asked = ask(split, "asking")
    steady = None
    if again:
        second = ask(again, "asking again", turn=1)
        steady = _steadiness(second, recording)
    _write(run, split, lambda name, label: _prediction(name, label, asked, recording, labels, calibration))
    predictions = read_predictions(run.folder / PREDICTIONS)
    summary = summarise(run.folder, asking, asked, steady, plan)
    evaluation = evaluate(
        plan.provider.model, predictions, run.dataset, split, summary["seconds"], record, None, run.recipe.seed
    )
    evaluation.unreadable = list(asked.unreadable.values())
    evaluation.unanswered = [p.error for p in predictions if p.error and p.id not in asked.unreadable]
    evaluation.notes += sentences(summary)
    write_json(run.folder / "evaluation.json", evaluation.to_dict())
    return Scored(evaluation, predictions)


def _write(run: Run, split: Split, predicted: Callable[[str, str], Prediction]) -> None:
    """Write the predictions in chunks, so that the scores of one only are in memory."""
    path = run.folder / PREDICTIONS
    if path.exists():
        return
    unfinished = Unfinished(path, run.dataset.labels, {"images": split.order}, split.groups)
    rows = islice(zip(split.ids, split.labels, strict=True), unfinished.done, None)
    while chunk := list(islice(rows, CHUNK)):
        unfinished.add([predicted(name, label) for name, label in chunk], 0.0)
    unfinished.join()


def ask_all(
    folder: Path, asking: Asking, rows: Iterable[Item], total: int, task: str, tell: Tell, turn: int = 0
) -> Asked:
    """Ask about images, and keep how long it took. Raises as `Asking.all`, and Stopped."""
    start, path = time.perf_counter(), folder / SUMMARY
    before = _seconds(folder)
    try:
        with stopped(folder):
            return asyncio.run(asking.all(rows, counter(task, total, tell), turn))
    finally:
        write_json(path, {"seconds": before + time.perf_counter() - start})


@contextmanager
def stopped(folder: Path) -> Iterator[None]:
    """Turns Ctrl-C into `Stopped`: what is answered is in the run folder."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(folder) from None


def _seconds(folder: Path) -> float:
    return float(summary_of(folder).get("seconds", 0.0))


def _prediction(
    name: str,
    label: str | None,
    asked: Asked,
    recording: Recording,
    labels: Mapping[str, str],
    calibration: Calibration,
) -> Prediction:
    if name in asked.unreadable:
        return Prediction(name, label, error=asked.unreadable[name])
    answer = recording.get(asked.digests[name])
    assert answer, "every image is answered, or asking raises an error"
    if answer.name is None:
        said = f": {answer.detail}" if answer.detail else ""
        return Prediction(name, label, error=f"Image {name}: {WORDS[answer.kind]}{said}")
    predicted = labels[answer.name]
    if not answer.probabilities:
        return Prediction(name, label, predicted)
    scores = _scores(answer, labels)
    weights = {other: math.exp(score / calibration.temperature) for other, score in scores.items()}
    probability = weights[predicted] / sum(weights.values())
    # Of classes with the same rounded probability, the one that was chosen is the best.
    order = sorted(scores, key=lambda other: (-scores[other], other != predicted))
    rank = order.index(label) + 1 if label in scores else None
    return Prediction(name, label, predicted, probability, rank, None, probability, probability, tuple(scores.values()))


def _scores(answer: Answer, labels: Mapping[str, str]) -> dict[str, float]:
    """By label, the log-probability that the API gave."""
    given = {label: max(LEAST_PROBABILITY, answer.probabilities.get(name, 0.0)) for name, label in labels.items()}
    total = sum(given.values())
    return {label: math.log(value / total) for label, value in given.items()}


def _fit(
    split: Split, asked: Asked, recording: Recording, labels: Mapping[str, str], run: Run
) -> tuple[Calibration, dict[str, Any]]:
    """A temperature for the API's probabilities, from its answers about validation images; see `calibrate`."""
    import torch

    from lensmith.measure.calibration import temperature

    index, rows, targets = {label: i for i, label in enumerate(run.dataset.labels)}, [], []
    for name, label in zip(split.ids, split.labels, strict=True):
        answer = recording.get(asked.digests.get(name, ""))
        if answer and answer.probabilities:
            rows.append(list(_scores(answer, labels).values()))
            targets.append(index[label])
    if len(rows) < LEAST:
        return Calibration(), {"note": "Probabilities are not calibrated: too few validation images have any."}
    value = temperature(torch.tensor(rows), torch.tensor(targets))
    return Calibration(temperature=value), {
        "prior": "none",
        "temperature": value,
        "n": len(rows),
        "split": "validation",
        "tried": [],
    }


def _steadiness(second: Asked, recording: Recording) -> Steadiness:
    """Compare the two answers of images that were asked about twice."""
    pairs = [(recording.get(key), recording.get(key, 1)) for key in dict.fromkeys(second.digests.values())]
    both = [(a, b) for a, b in pairs if a and b]
    return Steadiness(len(both), sum((a.kind, a.name) != (b.kind, b.name) for a, b in both))


def summarise(folder: Path, asking: Asking, asked: Asked, steady: Steadiness | None, plan: Plan) -> dict[str, Any]:
    """Write api.json: what was asked and answered, what it cost, and how long it took."""
    provider, tariff = asking.provider, asking.tariff
    wanted, fresh, replayed, usage, spent = set(asked.digests.values()), 0, 0, Usage(), 0.0
    names, kinds, retried, delays, cost = Counter[str](), Counter[str](), Counter[str](), list[float](), list[float]()
    for answer in asking.recording:
        names[answer.model or provider.model] += 1
        dollars = tariff.cost(answer.usage, answer.batch)
        if answer.digest in wanted and not answer.turn:
            kinds[answer.kind] += 1
            cost.append(dollars)  # by usage, so that a replay costs what its first answer did
        if answer.seconds is not None:
            delays.append(answer.seconds)
        if answer.replayed:
            replayed += 1
            continue
        fresh, spent, usage = fresh + 1, spent + dollars, usage + answer.usage
        retried.update(str(attempt["status"]) for attempt in answer.attempts[:-1])
    summary = {
        "provider": provider.word,
        "model": provider.model,
        "answered_as": dict(names),
        "host": provider.host,
        "local": provider.local,
        "images": plan.pixels,
        "detail": asking.options.detail,
        "kinds": dict(kinds),
        "requests": fresh,
        "replayed": replayed,
        "usage": asdict(usage),
        "price": asdict(tariff.price),
        "price_source": tariff.source,
        "dollars": spent,
        "dollars_per_image": sum(cost) / len(cost) if cost else 0.0,
        "delay": {"n": len(delays)} | (quantiles(delays) if delays else {}),
        "in_flight": asking.most_flying,
        "retried": dict(retried),
        "repeated": asdict(steady) if steady else None,
        "shutdown": plan.shutdown,
        "seconds": _seconds(folder),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def summary_of(folder: Path) -> dict[str, Any]:
    """api.json of an outside model's run, which has only `seconds` until it is finished; empty if it isn't one's."""
    path = folder / SUMMARY
    return read_json(path) if path.exists() else {}


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """What api.json says, for a report."""
    names = ", ".join(summary["answered_as"]) or summary["model"]
    lines = [f"Asked: {summary['model']} at {summary['host']}, which answered as {names}; images {summary['images']}."]
    if summary["dollars"] or not summary["local"]:
        per = summary["dollars_per_image"] * 1000
        lines.append(
            f"Cost: ${summary['dollars']:.4f} for {summary['requests']:,} requests, ${per:.4f} per 1,000 images "
            f"({summary['price_source']})."
        )
    delay = summary["delay"]
    if delay["n"]:
        p50, p95, p99 = (f"{delay[key] * 1000:,.0f}" for key in ("p50", "p95", "p99"))
        lines.append(
            f"Delay: median {p50} ms, 95 % within {p95} ms, 99 % within {p99} ms, of {delay['n']:,} answers, without "
            f"retries, with up to {summary['in_flight']} requests in flight."
        )
    if summary["replayed"]:
        lines.append(f"Replayed from an earlier run, and not asked again: {summary['replayed']:,} answers.")
    wrong = [f"{number:,} {WORDS[kind]}" for kind, number in summary["kinds"].items() if kind in WORDS]
    if wrong:
        lines.append(f"Counted as wrong, and listed: {'; '.join(wrong)}.")
    if steady := summary["repeated"]:
        lines.append(f"Asked twice: {steady['n']:,} images, of which {steady['changed']:,} got another answer.")
    if note := shutdown_note(summary["model"], summary["shutdown"]):
        lines.append(note)
    return lines
