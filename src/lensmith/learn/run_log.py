"""What a training writes into its run folder: the log, checkpoints and the best weights."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch

from lensmith.learn import checkpoint
from lensmith.learn.processes import Processes
from lensmith.learn.trackers import open_tracker
from lensmith.models.tuned_files import keep_tuned
from lensmith.models.tuning import Tuned, trainable
from lensmith.progress import Note
from lensmith.records import Rate, Training, percent
from lensmith.runs.files import append_line, write_lines
from lensmith.runs.folder import Run
from lensmith.runs.shapes import LogRow, rows_as


class RunLog:
    """Writes steps, validations, checkpoints and the best weights. Only the main process writes."""

    def __init__(
        self, run: Run, tuned: Tuned, optimizer: torch.optim.Optimizer, state: Training, processes: Processes
    ) -> None:
        self.run, self.tuned, self.optimizer, self.state = run, tuned, optimizer, state
        self.writes, self.log = processes.main, run.folder / "metrics.jsonl"
        if self.writes and self.log.exists():
            # Drop the rows after the checkpoint that is being resumed from: these steps are about to be repeated.
            rows = rows_as(self.log, LogRow)
            kept = (row for row in rows if row["step"] <= (state.steps if "loss" in row else state.checked_step))
            write_lines(self.log, kept)
        tracker = run.recipe.train.tracker if self.writes else "local"
        self.tracker = open_tracker(tracker, run.folder, run.recipe, lambda text: run.tell(Note(text)), state.steps)
        self._saved = time.perf_counter()

    def log_step(self, row: dict[str, float]) -> None:
        """Log a step, and write a checkpoint if one is due."""
        self._record(row, row)
        if time.perf_counter() - self._saved >= 60 * self.run.recipe.train.checkpoint_minutes:
            self.save()

    def log_validation(self, accuracy: Rate | None) -> None:
        """Log a validation, and keep the weights if they are the best so far.

        Without validation images (None), the last weights are kept.
        """
        state = self.state
        best = accuracy is None or state.validation is None or accuracy.accuracy > state.validation.accuracy
        state.checked_step = state.steps
        state.worse = 0 if best else state.worse + 1
        if accuracy:
            self._record({"validation": asdict(accuracy)}, {"validation_accuracy": accuracy.accuracy})
            self.run.tell(Note(f"Step {state.steps}: {percent(accuracy)} of the validation images correct."))
        if best:
            state.validation, state.best_step = accuracy, state.steps
            if self.writes:
                keep_tuned(self.run, self.tuned)
            self.save()

    def validation_at(self, step: int) -> Rate | None:
        """The accuracy that was logged after a step."""
        rows = [row["validation"] for row in rows_as(self.log, LogRow) if row["step"] == step and row.get("validation")]
        return Rate(**rows[-1]) if rows else None

    def save(self) -> None:
        """Write a checkpoint."""
        if self.writes:
            weights = trainable(self.tuned.model, self.tuned.head)
            checkpoint.save(self.run.folder / "checkpoint", weights, self.optimizer, self.state, self.run.recipe)
            self._saved = time.perf_counter()

    def close(self) -> None:
        """Close the tracker."""
        self.tracker.close()

    def _record(self, row: dict[str, Any], tracked: dict[str, float]) -> None:
        if self.writes:
            append_line(self.log, {"step": self.state.steps} | row)
            self.tracker.log(tracked, self.state.steps)
