"""Where a training's curves are shown besides metrics.jsonl, which always has them: TensorBoard or Weights & Biases.

A tracker that isn't installed is refused at once. Any later trouble of its own never stops a training: one sentence
says what failed and where the record is, and no other follows.
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
from typing import Any

from lensmith.config import Recipe, flat
from lensmith.errors import optional, reason
from lensmith.runs.files import write_json

WANDB = {"silent": True, "console": "off", "init_timeout": 20, "finish_timeout": 30, "finish_timeout_raises": True}
"""W&B's settings: nothing on the console, and a network that is down costs seconds, not minutes."""

Tell = Callable[[str], Any]
Ways = tuple[Callable[[dict[str, float], int], Any], Callable[[], Any]]  # to log a row at a step, and to close


class Tracker:
    """Shows a training's numbers; this one nowhere else than in metrics.jsonl."""

    def log(self, row: dict[str, float], step: int) -> None:
        """Show the numbers of a row; whatever else is in it is left out."""

    def close(self) -> None:
        """Nothing more comes; may be called twice."""


def open_tracker(name: str, folder: Path, recipe: Recipe, tell: Tell, step: int = 0) -> Tracker:
    """The tracker that `train.tracker` names; what was tracked in the run folder before goes on after `step`.

    Raises:
        UserError: its package isn't installed. Other trouble goes to `tell`, in one sentence.
    """
    if name == "local":
        return Tracker()
    require_tracker(name)
    start = _wandb if name == "wandb" else _tensorboard
    kept = f"the record is kept in {folder / 'metrics.jsonl'}"
    if name == "wandb":
        kept += "; `wandb login` logs in, WANDB_MODE=offline does without, and"
        kept += f" `wandb sync --include-online {folder}/wandb/*run-*` uploads it later"
    return _Careful(name, kept, tell, partial(start, folder, flat(recipe), step))


def require_tracker(name: str) -> None:
    """Raises UserError if the tracker's package isn't installed, or not in working order."""
    if name == "local":
        return
    optional("wandb" if name == "wandb" else "tensorboardX", name, f"train.tracker={name}")


class _Careful(Tracker):
    """A tracker whose first trouble is told and goes no further."""

    def __init__(self, name: str, kept: str, tell: Tell, start: Callable[[Tell], Ways]) -> None:
        self._name, self._kept, self._tell, self._told, self._broken = name, kept, tell, False, False
        self._ways: Ways | None = self._try("opened", partial(start, self._say))

    def log(self, row: dict[str, float], step: int) -> None:
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, Real) and not isinstance(v, bool)}
        numbers.pop("step", None)
        if self._ways and numbers and not self._broken:
            self._try("written to", partial(self._ways[0], numbers, step))

    def close(self) -> None:
        ways, self._ways = self._ways, None
        if ways:
            self._try("closed", ways[1])

    def _say(self, what: str) -> None:
        if not self._told:
            self._tell(f"The tracker {self._name} {what}: {self._kept}.")
        self._told = True

    def _try(self, done: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            self._say(f"can't be {done} ({_reason(error)})")
            self._broken = True


def _tensorboard(folder: Path, options: dict[str, Any], step: int, say: Tell) -> Ways:
    """An event file. Not by SummaryWriter: its thread dies of a full disk, and the next calls wait for it for ever."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import text

    (folder / "tensorboard").mkdir(exist_ok=True)
    file = EventsWriter(str(folder / "tensorboard" / "events"), f".{time.time_ns()}")
    flushed = -math.inf

    def write(step: int, **content: Any) -> None:
        nonlocal flushed
        file.write_event(Event(step=step, wall_time=time.time(), **content))
        if time.monotonic() > flushed + 10:  # so old is what TensorBoard shows, at most
            file.flush()
            flushed = time.monotonic()

    def log(row: dict[str, float], step: int) -> None:
        write(step, summary={"value": [{"tag": k, "simple_value": v} for k, v in row.items()]})

    write(step + 1, session_log=SessionLog(status=SessionLog.START))  # what was written beyond this step is void
    table = "\n".join(["| option | value |", "|---|---|", *(f"| {k} | `{v!r}` |" for k, v in options.items())])
    write(step, summary=text("recipe", table))
    return log, file.close


def _wandb(folder: Path, options: dict[str, Any], step: int, say: Tell) -> Ways:
    """A W&B run; without a key or a network an offline one, which `wandb sync` uploads later."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it waits for it when the network is down
    import wandb

    note = folder / "tracker.json"
    if not note.exists():
        write_json(note, {"wandb": uuid.uuid4().hex[:12]})
    run: dict[str, Any] = {"id": json.loads(note.read_text(encoding="utf-8"))["wandb"], "resume": "allow"}
    run |= {"project": os.environ.get("WANDB_PROJECT") or "lensmith", "name": folder.resolve().name}
    run |= {"dir": str(folder), "config": options, "settings": WANDB, "reinit": "create_new"}
    try:
        wandb.setup(wandb.Settings(silent=True))  # so it never asks for a key
        begun = wandb.init(**run)
    except Exception as error:
        say(f"can't upload now ({_reason(error)})")
        wandb.teardown()  # its service would keep the run's id for itself
        wandb.setup(wandb.Settings(silent=True))
        begun = wandb.init(**run, mode="offline")
    return lambda row, step: begun.log(row, step=step), begun.finish


def _reason(error: Exception) -> str:
    """What an exception says, in a few words, without the key."""
    key, text = os.environ.get("WANDB_API_KEY"), str(error) or type(error).__name__
    return reason(Exception(text.replace(key, "***") if key else text))
