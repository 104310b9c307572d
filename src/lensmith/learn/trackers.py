"""Trackers that show a training's curves: TensorBoard or Weights & Biases. metrics.jsonl always contains them as well.

A tracker that isn't installed is an error right away. If a tracker fails later, training continues: one sentence says
what failed and where the record is, and further failures are not reported.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from lensmith.config import Recipe, flat
from lensmith.errors import optional, reason
from lensmith.runs.files import write_json

WANDB = {"silent": True, "console": "off", "init_timeout": 20, "finish_timeout": 30, "finish_timeout_raises": True}
"""W&B's settings: no console output, and if the network is down, wait for seconds rather than minutes."""

Tell = Callable[[str], Any]


class Sink(NamedTuple):
    """An open tracker."""

    log: Callable[[dict[str, float], int], Any]
    """Takes a row of numbers and its step."""
    close: Callable[[], Any]


class Tracker:
    """Shows a training's numbers; this base class does nothing, since metrics.jsonl contains them anyway."""

    def log(self, row: dict[str, float], step: int) -> None:
        """Show the numbers in a row; other values are ignored."""

    def close(self) -> None:
        """Finish; may be called twice."""


def open_tracker(name: str, folder: Path, recipe: Recipe, tell: Tell, step: int = 0) -> Tracker:
    """The tracker that `train.tracker` names.

    Args:
        folder: the run folder. If it was tracked before, the curves continue after `step`.
        tell: gets one sentence about the first failure, if any.

    Raises:
        UserError: its package isn't installed.
    """
    if name == "local":
        return Tracker()
    require_tracker(name)
    start = _wandb if name == "wandb" else _tensorboard
    advice = f"the metrics are still written to {folder / 'metrics.jsonl'}"
    if name == "wandb":
        advice += "; log in with `wandb login` or set WANDB_MODE=offline, and"
        advice += f" upload the run later with `wandb sync --include-online {folder}/wandb/*run-*`"
    return _SafeTracker(name, advice, tell, partial(start, folder, flat(recipe), step))


def require_tracker(name: str) -> None:
    """Raises UserError if the tracker's package isn't installed or can't be loaded."""
    if name == "local":
        return
    optional("wandb" if name == "wandb" else "tensorboardX", name, f"train.tracker={name}")


class _SafeTracker(Tracker):
    """A tracker that reports its first failure in one sentence and never raises an exception."""

    def __init__(self, name: str, advice: str, tell: Tell, start: Callable[[Tell], Sink]) -> None:
        self._name, self._advice, self._tell, self._reported, self._broken = name, advice, tell, False, False
        self._sink: Sink | None = self._try("opened", partial(start, self._report))

    def log(self, row: dict[str, float], step: int) -> None:
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, Real) and not isinstance(v, bool)}
        numbers.pop("step", None)
        if self._sink and numbers and not self._broken:
            self._try("written to", partial(self._sink.log, numbers, step))

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink:
            self._try("closed", sink.close)

    def _report(self, problem: str) -> None:
        if not self._reported:
            self._tell(f"The tracker {self._name} {problem}: {self._advice}.")
        self._reported = True

    def _try(self, participle: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            self._report(f"can't be {participle} ({_reason(error)})")
            self._broken = True


def _tensorboard(folder: Path, options: dict[str, Any], step: int, report: Tell) -> Sink:
    """An event file. SummaryWriter isn't used: if the disk is full its thread dies, and later calls block forever."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import text

    (folder / "tensorboard").mkdir(exist_ok=True)
    file = EventsWriter(str(folder / "tensorboard" / "events"), f".{time.time_ns()}")
    flushed = -math.inf

    def write(step: int, **content: Any) -> None:
        nonlocal flushed
        file.write_event(Event(step=step, wall_time=time.time(), **content))
        if time.monotonic() > flushed + 10:  # what TensorBoard shows is at most ten seconds old
            file.flush()
            flushed = time.monotonic()

    def log(row: dict[str, float], step: int) -> None:
        write(step, summary={"value": [{"tag": k, "simple_value": v} for k, v in row.items()]})

    write(step + 1, session_log=SessionLog(status=SessionLog.START))  # TensorBoard then drops earlier rows from here on
    table = "\n".join(["| option | value |", "|---|---|", *(f"| {k} | `{v!r}` |" for k, v in options.items())])
    write(step, summary=text("recipe", table))
    return Sink(log, file.close)


def _wandb(folder: Path, options: dict[str, Any], step: int, report: Tell) -> Sink:
    """A W&B run. Without an API key or a network it is an offline run, which `wandb sync` uploads later."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # otherwise W&B blocks on it when the network is down
    import wandb

    id_file = folder / "tracker.json"
    if not id_file.exists():
        write_json(id_file, {"wandb": uuid.uuid4().hex[:12]})
    settings: dict[str, Any] = {"id": json.loads(id_file.read_text(encoding="utf-8"))["wandb"], "resume": "allow"}
    settings |= {"project": os.environ.get("WANDB_PROJECT") or "lensmith", "name": folder.resolve().name}
    settings |= {"dir": str(folder), "config": options, "settings": WANDB, "reinit": "create_new"}
    try:
        wandb.setup(wandb.Settings(silent=True))  # so that W&B never prompts for a key
        run = wandb.init(**settings)
    except Exception as error:
        report(f"can't upload now ({_reason(error)})")
        wandb.teardown()  # otherwise its service would keep the run's id locked
        wandb.setup(wandb.Settings(silent=True))
        run = wandb.init(**settings, mode="offline")
    return Sink(lambda row, step: run.log(row, step=step), run.finish)


def _reason(error: Exception) -> str:
    """An exception's message in a few words, with the API key masked."""
    key, text = os.environ.get("WANDB_API_KEY"), str(error) or type(error).__name__
    return reason(Exception(text.replace(key, "***") if key else text))
