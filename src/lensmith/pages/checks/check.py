"""The page that shows what is wrong with the images."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.pages.charts import cells
from lensmith.pages.page import fill_template, is_small
from lensmith.records import Rate
from lensmith.runs.files import write

_SIDE = 144
"""The longer side of a picture, in pixels: a page of hundreds stays small."""
HARM = {
    "spoils": "Spoils figures",
    "look": "Worth a look",
    "note": "Good to know",
}


@dataclass(frozen=True)
class Shown:
    """A picture with what is said below it; no image if it can't be read."""

    image: Image.Image | None
    caption: str
    source: str


@dataclass(frozen=True)
class Section:
    """A finding, as `check.findings.Finding` with its pictures."""

    kind: str
    harm: str
    sentence: str
    advice: str
    sure: str
    pictures: list[list[Shown]]
    more: int
    """How many further images or pairs the table lists."""
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Answer:
    """What a run's answers become when a cue is taken away; accuracies as rates."""

    about: str
    accuracy: Rate
    changed: int
    n: int
    verdict: str


@dataclass(frozen=True)
class CheckData:
    """What the page shows. Empty sections are omitted."""

    title: str
    verdict: str
    sentences: list[str]
    sections: list[Section]
    answers: list[Answer]
    """Of a run, without a cue; the first are those to the images as they are."""
    facts: list[tuple[str, str]]
    notes: list[str]


def render_check(data: CheckData) -> str:
    """The page as HTML."""
    sections = [
        (section, [[(shown, *_uri(shown)) for shown in pair] for pair in section.pictures]) for section in data.sections
    ]
    return fill_template(
        "check.html.j2", data.notes, data=data, sections=sections, harm=HARM, axis=cells.percent_axis()
    )


def write_check(path: Path, data: CheckData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_check(data))


def _uri(shown: Shown) -> tuple[str, bool]:
    """A picture as a data URI, and whether its single pixels should be shown; empty without a picture."""
    if shown.image is None:
        return "", False
    image: Any = shown.image.convert("RGB")
    if small := is_small(image):
        stream, kind = io.BytesIO(), "png"
        image.save(stream, "PNG")
    else:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        stream, kind = io.BytesIO(), "jpeg"
        image.save(stream, "JPEG", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}", small
