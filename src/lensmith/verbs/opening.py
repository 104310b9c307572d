"""What a verb says before its work: what a person needs to decide whether to let it run."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith.data import Split
from lensmith.measure.paired import class_hint, power_hint
from lensmith.progress import Note, duration, size
from lensmith.runs.folder import Run

UNTESTED = "There are no test images, so this can't show how good the model is. Score it on other images then."


def opening(
    run: Run,
    seconds: float | None = None,
    test: Split | None = None,
    details: Sequence[str] = (),
    memory: int | None = None,
    shorter: Sequence[str] = (),
) -> None:
    """Say which images there are, about how long the work will take, and what its result can show.

    Args:
        seconds: about how long it will take, if that can be told.
        test: the images whose accuracy is going to be measured.
        details: sentences about the model and the run, which are kept in the record and shown with `--verbose`.
        memory: about how many bytes the process will take at most, if that can be told.
        shorter: sentences on what would make the work shorter.
    """
    run.tell(Note(run.dataset.describe()))
    if seconds is not None:
        needed = f" and up to {size(memory)} of memory" if memory else ""
        run.tell(Note(f"It will take about {duration(max(1.0, seconds))}{needed} on this machine."))
    for way in shorter:
        run.tell(Note(way))
    if test is not None:
        run.tell(Note(power_hint(len(test)) if len(test) else UNTESTED))
        if hint := class_hint(test.labels):
            run.tell(Note(hint))
    for text in details:
        run.detail(text)
