"""The model card of what a run taught: README.md, as the hub shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensmith import models
from lensmith.export.original import Original
from lensmith.runs.folder import read_evaluation
from lensmith.runs.shapes import Record, read_as

LFM = ("LFM Open License v1.0", "lfm1.0")
"""The licence of LiquidAI's models, and its name on the hub."""


def licence_of(base: str) -> tuple[str, list[str]]:
    """The licence of a base model as a sentence, and the lines of a card's header that name it."""
    if base == "nano":
        return "Apache 2.0, as the base model", ["license: apache-2.0"]
    if base.lower().startswith("liquidai/") or "lfm" in Path(base).name.lower():
        sentence = (
            f"{LFM[0]}, which stays with weights derived from LiquidAI's models: keep this notice and the licence"
        )
        return sentence, ["license: other", f"license_name: {LFM[1]}"]
    return f"that of {base}, which stays with weights derived from it", ["license: other"]


def model_card(original: Original, use: str) -> str:
    """README.md: task, classes, question, figures with their intervals, how to use it, and the base's licence.

    Images, and where they lie, are not in it: only their numbers.

    Args:
        use: how to use it, as Markdown.
    """
    base = original.task["base"]
    licence, header = licence_of(original.public_base)
    on_hub = models.on_hub(base)
    lines = ["---", *header, *([f"base_model: {base}"] if on_hub else [])]
    lines += ["pipeline_tag: image-text-to-text", "library_name: transformers", "tags:", "- lensmith", "---", ""]
    lines += [f"# {original.recipe.name}", "", f"It tells {len(original.labels)} classes of images apart:"]
    lines += [", ".join(original.labels) + ".", ""]
    lines += [f"Taught with Lensmith from {original.public_base}.", ""]
    lines += ["## How good it is", "", *_figures(original), ""]
    question = original.classifier.prompt.text
    lines += ["## The question", "", "```text", question, "```", "", "## How to use it", "", use, ""]
    lines += ["## Licence", "", f"{licence[0].upper()}{licence[1:]}.", ""]
    return "\n".join(lines)


def _figures(original: Original) -> list[str]:
    """The table of accuracies, and what they were measured on."""
    evaluation = original.evaluation
    if evaluation is None:
        return ["It was not tested: there were no test images."]
    rows = ["| | accuracy | 95 % interval | test images |", "|---|---|---|---|"]
    others = sorted(original.run.glob("*/evaluation.json"))
    for found in [*(read_evaluation(path.parent) for path in others), evaluation]:
        rate = found.accuracy
        accuracy, interval = f"{rate.accuracy * 100:.1f} %", f"{rate.low * 100:.1f} to {rate.high * 100:.1f}"
        rows.append(f"| {found.name} | {accuracy} | {interval} | {rate.n:,} |")
    data: Any = read_as(original.run / "record.json", Record)["data"]
    counts = ", ".join(f"{data[name]['n']:,} {name}" for name in ("train", "validation", "test"))
    error = evaluation.calibration_error
    calibrated = f" Its probabilities are off by {100 * error:.1f} points on average." if error is not None else ""
    return [*rows, "", f"Of {counts} images; no test image was seen in training.{calibrated}"]
