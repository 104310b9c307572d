"""Images unlike all others: damaged, blank, tiny, of another shape or kind, or far away by the model's features.

"Unlike" is measured by the data itself: the distance from the median in units of the median absolute deviation, which
odd images don't change (B. Iglewicz and D. Hoaglin, How to detect and handle outliers, 1993).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lensmith.checks.findings import Finding, Line, Picture
from lensmith.checks.survey import PIXELS, Survey
from lensmith.data.source import count

FAR = 6.0
"""Deviations from which an image is odd: of normally distributed values, two in a thousand million lie beyond."""
RARE = 0.01
"""A mode, format or orientation that fewer images than this have is odd."""
_BLANK = 2.0
"""Images whose grey levels differ by less than this are blank."""
_SHOWN = 12


def unreadable(survey: Survey) -> Finding | None:
    """Images that can't be read."""
    if not survey.errors:
        return None
    return Finding(
        "unreadable",
        "look",
        len(survey.errors),
        f"{count(len(survey.errors), 'image')} can't be read, and count{'s' * (len(survey.errors) == 1)} as wrong.",
        "Replace them, or empty their labels in the table to leave them out.",
        "Certain.",
        lines=[Line(i) for i in survey.errors],
        head=["What is wrong"],
        rows=[[error] for error in list(survey.errors.values())[:_SHOWN]],
    )


def deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each value from the median, in robust standard deviations, with its sign; NaN stays NaN.

    Where more than half of the values are equal, the mean absolute deviation takes the place of the median one.
    """
    middle = np.nanmedian(values)
    distance = np.abs(values - middle)
    scale = 1.4826 * float(np.nanmedian(distance)) or 1.2533 * float(np.nanmean(distance))
    return (values - middle) / scale if scale > 0 else np.zeros_like(values)


def odd(survey: Survey, far: NDArray[np.float64] | None) -> Finding | None:
    """Images unlike all others, each with what is odd about it.

    Args:
        far: (images,) the distance of each image's features to those of its neighbours; NaN where there are none.
    """
    reasons: dict[int, str] = {}
    known = survey.readable()
    if len(known) < 20:  # too few to say what is usual
        return None
    pixels = {name: survey.pixels[:, k].astype(np.float64) for k, name in enumerate(PIXELS)}
    for i in known:
        if pixels["contrast"][i] < _BLANK:
            reasons[i] = "one colour"
    sizes = np.array([file.width * file.height if file else np.nan for file in survey.files])
    shapes = np.array([file.width / file.height if file else np.nan for file in survey.files])
    measures: list[tuple[NDArray[np.float64], str, str]] = [
        (np.log(shapes), "tall", "wide"),
        (np.log(sizes), "tiny", "huge"),
        (np.log(pixels["sharpness"] + 1), "blurred", "noisy"),
        (pixels["brightness"], "dark", "bright"),
    ]
    if far is not None:
        measures.append((np.log(far + 1e-6), "", "far from all others"))
    for values, low, high in measures:
        found = deviations(values)
        for i in np.flatnonzero(np.abs(np.nan_to_num(found)) > FAR).tolist():
            if word := (high if found[i] > 0 else low):
                size = (
                    f" ({file.width} x {file.height})"
                    if word in ("tiny", "huge", "tall", "wide") and (file := survey.files[i])
                    else ""
                )
                reasons.setdefault(i, word + size)
    for i, word in _rare(survey, known).items():
        reasons.setdefault(i, word)
    if not reasons:
        return None
    kinds = Counter(word.partition(" (")[0] for word in reasons.values())
    listed = ", ".join(f"{word} {number:,}" for word, number in kinds.most_common())
    ordered = sorted(reasons, key=lambda i: (kinds[reasons[i].partition(" (")[0]], i))
    return Finding(
        "odd",
        "look",
        len(reasons),
        f"{count(len(reasons), 'image')} {'is' if len(reasons) == 1 else 'are'} unlike all others: {listed}.",
        "Look whether they belong here; empty the label in the table to leave one out.",
        f"Beyond {FAR:g} robust deviations of these images, or shared by fewer than {RARE:.0%} of them.".replace(
            "%", " %"
        ),
        [[Picture(i, f"{reasons[i]} ({survey.labels[i]})")] for i in ordered[:_SHOWN]],
        [Line(i) for i in ordered],
    )


def _rare(survey: Survey, known: Sequence[int]) -> dict[int, str]:
    """Images whose mode, format or orientation few others have, with the word for it."""
    found: dict[int, str] = {}
    facts = {i: file for i in known if (file := survey.files[i])}
    words = {"L": "grey", "1": "black and white", "CMYK": "CMYK", "RGBA": "transparent", "P": "with a palette"}
    shapes = ("square", "landscape", "portrait")
    for values in (
        {i: words.get(file.mode, f"mode {file.mode}") for i, file in facts.items()},
        {i: "turned by its EXIF tag" if file.orientation != 1 else "upright" for i, file in facts.items()},
        {i: shapes[(file.width > file.height) - (file.width < file.height)] for i, file in facts.items()},
    ):
        numbers = Counter(values.values())
        for i, value in values.items():
            if numbers[value] < RARE * len(facts):
                found.setdefault(i, value)
    return found
