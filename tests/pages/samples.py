"""Records to fill pages with, made without the code that computes them, and functions to read the pages."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from dataclasses import replace
from typing import Any

from PIL import Image

from lensmith.records import ClassResult, Comparison, CoveragePoint, Estimate, Evaluation, Rate, ReliabilityBin

NAN = math.nan
HOSTILE = "<script>alert(1)</script>"
NAMES = ["coat", HOSTILE, "Q&A \"x\" 'y'", "靴 ع"]
NO_RATE = Rate(NAN, NAN, NAN, 0)


def rate(accuracy: float, n: int = 100) -> Rate:
    """A rate with an interval of 10 points to both sides."""
    return Rate(accuracy, max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1), n)


def evaluation(name: str = "tuned", labels: list[str] = NAMES, wrong: int = 3, **changes: Any) -> Evaluation:
    """Ten images of each class, of which `wrong` are predicted as the next class. All metrics are (10 - wrong) / 10."""
    n, accuracy = len(labels), (10 - wrong) / 10
    counts = [[0] * (n + 1) for _ in labels]
    for i in range(n):
        counts[i][i] += 10 - wrong
        counts[i][(i + 1) % n] += wrong
    classes = [ClassResult(label, rate(accuracy, 10), accuracy, accuracy) for label in labels]
    sample = Evaluation(
        name=name,
        accuracy=rate(accuracy, 10 * n),
        top5=None,
        macro_f1=Estimate(accuracy, accuracy - 0.05, accuracy + 0.05),
        classes=classes,
        confusion=counts,
        labels=labels,
        data={"hash": "abc"},
        seconds=1234.5,
    )
    return replace(sample, **changes)


def confidence() -> dict[str, Any]:
    """Fields of an evaluation that is slightly too confident: mean confidence 86.6 %, accuracy 82.6 %."""
    return {
        "calibration_error": 0.032,
        "reliability": [ReliabilityBin(0.5, 0.6, 0.56, rate(0.52, 10)), ReliabilityBin(0.8, 1, 0.9, rate(0.86, 90))],
        "coverage": [
            CoveragePoint(percent / 100, 1 - percent / 200, Rate(0.94 - percent / 1000, 0.9, 0.96, percent))
            for percent in range(5, 101, 5)
        ],
    }


def comparison(verdict: str = "better", **changes: Any) -> Comparison:
    """Two of a hundred images lost, and seven gained."""
    sample = Comparison(
        first="zero-shot",
        second="tuned",
        n=100,
        accuracy_first=rate(0.7),
        accuracy_second=rate(0.75),
        difference=Estimate(0.05, -0.01, 0.11),
        lost=["1", "2"],
        gained=[f"{i}" for i in range(3, 10)],
        p=0.18,
        verdict=verdict,
        needed=2381,
        sentence=f"The verdict is {verdict}.",
    )
    return replace(sample, **changes)


def text(page: str) -> str:
    """The text that a reader sees, with single spaces between words."""
    body = re.sub(r"</?(b|i|bdi|a)\b[^>]*>", "", page.partition("</style>")[2])
    body = re.sub(r"<title>.*?</title>", "", body)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def headings(page: str) -> list[str]:
    return [text("</style>" + heading) for heading in re.findall(r"<h2>(.*?)</h2>", page)]


def pictures(page: str) -> list[Image.Image]:
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in sources]


def loads_nothing(page: str) -> bool:
    """Whether a page refers to nothing outside itself and contains no script."""
    sources = re.findall(r'\bsrc="([^"]*)"', page)
    return not re.search(r"https?://|<(script|link|iframe|object|embed|base)\b|@import|url\(", page) and all(
        source.startswith("data:image/png;base64,") for source in sources
    )


def has_numbers_only(page: str) -> bool:
    """Whether no number in the text and no position in a chart is `nan` or `inf`."""
    return not re.search(r"\b(nan|inf|infinity)\b", page.partition("</style>")[2], re.IGNORECASE)
