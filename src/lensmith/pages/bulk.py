"""The page of a bulk prediction: what was answered, how surely, what failed, and how fast each machine was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lensmith.pages.charts import cells
from lensmith.pages.page import fill_template

_CLASSES = 200


@dataclass(frozen=True)
class BulkData:
    """What the page shows."""

    title: str
    verdict: str
    sentences: list[str]
    classes: list[tuple[str, int]]
    """The most frequent first; 200 are shown."""
    confidence: list[tuple[str, int]]
    """Number of images by range of probability."""
    errors: list[tuple[str, int]]
    nodes: list[tuple[str, int, int, float]]
    """Machine, images, shards, and images per second of one worker."""
    set_aside: list[tuple[str, str]]
    images: int
    facts: list[tuple[str, str]]
    notes: list[str]

    @classmethod
    def of(cls, summary: dict[str, Any], out: str, manifest: dict[str, Any]) -> BulkData:
        """The page of a summary, as `Totals.summary` gives it, and the manifest of its parts."""
        images, unreadable, step = summary["images"], summary["unreadable"], 100 // len(summary["confidence"])
        given_up = len(summary["set_aside"])
        verdict = f"{images - unreadable:,} images have an answer"
        verdict += f", and {unreadable:,} can't be read." if unreadable else ", and all can be read."
        sentences = []
        if given_up:
            verdict = f"Incomplete: no answers from {given_up:,} of {summary['shards']:,} shards. {verdict}"
            sentences.append("Run the same command again to try the shards that were set aside once more.")
        rate = summary["images_per_second"]
        facts = [
            ("Source", str(summary["source"])),
            ("Answers", out),
            ("Model", f"{summary['run']['name']} ({summary['run']['weights']})"),
            ("Shards", f"{summary['done']:,} of {summary['shards']:,}"),
            ("Speed", f"{rate:,.1f} images/s, in the last attempt" if rate else "nothing was left to do"),
            ("Begun", str(manifest["created"])),
            ("Lensmith", str(manifest["lensmith"])),
        ]
        if summary["dollars"]:
            facts.append(("Cost of the last attempt", f"${summary['dollars']:.2f}"))
        return cls(
            title="Bulk prediction",
            verdict=verdict,
            sentences=sentences,
            classes=list(summary["classes"].items()),
            confidence=[(f"{k * step} to {(k + 1) * step} %", n) for k, n in enumerate(summary["confidence"])],
            errors=list(summary["errors"].items()),
            nodes=[
                (name, int(node["images"]), int(node["shards"]), node["images_per_second_and_worker"])
                for name, node in summary["nodes"].items()
            ],
            set_aside=list(summary["set_aside"].items()),
            images=images,
            facts=facts,
            notes=[],
        )


def render_bulk(data: BulkData) -> str:
    """The page as HTML."""

    def bars(rows: list[tuple[str, int]]) -> list[tuple[str, int, str]]:
        most = max((n for _, n in rows), default=0) or 1
        return [(name, n, cells.bar(n / most, f"{n:,} images")) for name, n in rows]

    first = next((k for k, (_, n) in enumerate(data.confidence) if n), 0)
    return fill_template(
        "bulk.html.j2",
        data.notes,
        data=data,
        classes=bars(data.classes[:_CLASSES]),
        confidence=bars(data.confidence[first:]),
    )
