"""Trackers show the curves, or report once that they can't, and training continues. The packages are faked."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lensmith.config import load_recipe
from lensmith.errors import UserError
from lensmith.learn.trackers import open_tracker
from tests.clock import Clock

KEY = "0123456789abcdef0123456789abcdef01234567"
ROW: Any = {"step": 7, "loss": 0.5, "learning_rate": 1e-4, "validation": None, "note": "a word", "best": True}


class FakeRun:
    """A W&B run that records its calls."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.rows: list[tuple[dict[str, float], int]] = []
        self.fail: Exception | None = None
        self.finished = 0

    def log(self, row: dict[str, float], step: int) -> None:
        if self.fail:
            raise self.fail
        self.rows.append((row, step))

    def finish(self) -> None:
        self.finished += 1
        if self.fail:
            raise self.fail


class FakeWandb(ModuleType):
    """The part of `wandb` that is used. Online runs fail if `server` raises."""

    __version__ = "0"

    def __init__(self, server: Callable[[], Any]) -> None:
        super().__init__("wandb")
        self.server = server
        self.runs: list[FakeRun] = []
        self.calls: list[str] = []

    def Settings(self, **values: Any) -> Any:
        return SimpleNamespace(**values)

    def setup(self, settings: Any) -> None:
        self.calls.append(f"setup, silent: {settings.silent}")

    def teardown(self) -> None:
        self.calls.append("teardown")

    def init(self, **asked: Any) -> FakeRun:
        self.calls.append(f"init {asked.get('mode')}")
        if asked.get("mode") != "offline":
            self.server()
        self.runs.append(FakeRun(asked))
        return self.runs[-1]


def fails(error: Exception) -> Callable[[], Any]:
    def server() -> None:
        raise error

    return server


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    """A fake W&B that is logged in and whose server responds."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # the tracker sets it, and it must not outlive the test
    fake = FakeWandb(lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The events that a fake tensorboardX is given to write; strings stand for other calls."""
    written: list[Any] = []

    class EventsWriter:
        def __init__(self, prefix: str, suffix: str) -> None:
            assert Path(prefix).parent.is_dir()
            written.append(f"open {Path(prefix).parent.name}")

        def write_event(self, event: Any) -> None:
            written.append(event)

        def flush(self) -> None:
            written.append("flush")

        def close(self) -> None:
            written.append("close")

    parts: dict[str, dict[str, Any]] = {
        "": {"__version__": "0"},
        ".event_file_writer": {"EventsWriter": EventsWriter},
        ".proto": {},
        ".proto.event_pb2": {
            "Event": lambda **values: SimpleNamespace(**values),
            "SessionLog": type("SessionLog", (SimpleNamespace,), {"START": 1}),
        },
        ".summary": {"text": lambda tag, content: f"{tag}: {content}"},
    }
    for part, members in parts.items():
        module = ModuleType(f"tensorboardX{part}")
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return written


def open_it(name: str, folder: Path, step: int = 0) -> tuple[Any, list[str]]:
    """A tracker, and the messages it has reported."""
    messages: list[str] = []
    return open_tracker(name, folder, load_recipe(overrides=["tune.rank=3"]), messages.append, step), messages


def test_the_local_tracker_does_nothing(tmp_path: Path) -> None:
    tracker, messages = open_it("local", tmp_path)
    tracker.log(ROW, 7)
    tracker.close()
    assert messages == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("tensorboard", "tensorboardX")])
def test_a_missing_package_is_refused_and_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules: not installed. A module without a version: just a folder, such as the one W&B creates.
    for found in (None, ModuleType(package)):
        monkeypatch.setitem(sys.modules, package, found)
        with pytest.raises(UserError) as caught:
            open_it(name, tmp_path)
        assert caught.value.what == f"train.tracker={name} needs the package {package}."
        assert caught.value.hint == f"pip install 'lensmith[{name}]'"


def test_a_package_that_does_not_load_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text("raise TypeError('Descriptors cannot be created directly.')")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"can't be loaded \(Descriptors cannot be created directly\)\. pip install"):
        open_it("wandb", tmp_path)


def test_wandb_gets_numbers_with_their_steps(tmp_path: Path, wandb: FakeWandb) -> None:
    folder = tmp_path / "first-try"
    folder.mkdir()
    tracker, messages = open_it("wandb", folder)
    tracker.log(ROW, 7)
    tracker.log({"validation_accuracy": 0.75}, 7)
    tracker.log({"note": "no numbers"}, 8)
    tracker.close()
    tracker.close()
    (run,) = wandb.runs
    assert run.rows == [({"loss": 0.5, "learning_rate": 1e-4}, 7), ({"validation_accuracy": 0.75}, 7)]
    assert run.finished == 1
    assert messages == []
    asked = run.asked
    assert (asked["project"], asked["name"], asked["dir"]) == ("lensmith", "first-try", str(folder))
    assert asked["config"]["tune.rank"] == 3
    assert asked["settings"]["silent"]
    assert asked["settings"]["init_timeout"] <= 30
    assert wandb.calls == ["setup, silent: True", "init None"]  # WANDB_MODE decides the mode


def test_the_environment_names_the_project(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "leaves")
    open_it("wandb", tmp_path)
    assert wandb.runs[0].asked["project"] == "leaves"


def test_a_resumed_folder_continues_its_run(tmp_path: Path, wandb: FakeWandb) -> None:
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        open_it("wandb", tmp_path / folder, step=5)[0].close()
    first, second, other = (run.asked for run in wandb.runs)
    assert first["id"] == second["id"] != other["id"]
    assert first["resume"] == second["resume"] == "allow"
    assert json.loads((tmp_path / "a" / "tracker.json").read_text()) == {"wandb": first["id"]}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("No API key configured. Use `wandb login` to log in.", "(No API key configured)"),
        (f"Run initialization has timed out,\n key {KEY}", "(Run initialization has timed out, key ***)"),
        ("", "(OSError)"),
    ],
)
def test_without_key_or_network_the_run_is_kept_offline(
    error: str, reason: str, tmp_path: Path, wandb: FakeWandb
) -> None:
    wandb.server = fails(OSError(error))
    tracker, messages = open_it("wandb", tmp_path)
    tracker.log({"loss": 0.5}, 1)
    tracker.close()
    (run,) = wandb.runs
    assert run.asked["mode"] == "offline"
    assert run.rows == [({"loss": 0.5}, 1)]
    # The service of the first attempt keeps the run's id locked, and a new one must again be messages not to prompt.
    assert wandb.calls == ["setup, silent: True", "init None", "teardown", "setup, silent: True", "init offline"]
    (sentence,) = messages
    assert reason in sentence
    for needed in (str(tmp_path / "metrics.jsonl"), "wandb login", "WANDB_MODE=offline", "wandb sync"):
        assert needed in sentence
    assert "\n" not in sentence


def test_a_later_failure_is_reported_once_and_training_continues(tmp_path: Path, wandb: FakeWandb) -> None:
    tracker, messages = open_it("wandb", tmp_path)
    (run,) = wandb.runs
    tracker.log({"loss": 0.5}, 1)
    run.fail = ConnectionResetError("Connection lost")
    tracker.log({"loss": 0.4}, 2)
    (sentence,) = messages
    assert sentence.startswith(
        "The tracker wandb can't be written to (Connection lost): the metrics are still written to "
    )
    run.fail = None
    tracker.log({"loss": 0.3}, 3)
    assert run.rows == [({"loss": 0.5}, 1)]
    run.fail = ConnectionResetError("Connection lost")
    tracker.close()
    assert run.finished == 1
    assert len(messages) == 1


def test_a_timeout_on_closing_is_reported(tmp_path: Path, wandb: FakeWandb) -> None:
    tracker, messages = open_it("wandb", tmp_path)
    wandb.runs[0].fail = TimeoutError("Timed out finishing run.")
    tracker.close()
    assert len(messages) == 1
    assert "can't be closed (Timed out finishing run): " in messages[0]


@pytest.mark.parametrize("key", [KEY, "short-and-made-up"])
def test_the_key_is_neither_reported_nor_written(
    key: str, tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    wandb.server = fails(ValueError(f"401 for {key}"))
    tracker, messages = open_it("wandb", tmp_path)
    wandb.runs[0].fail = ValueError(f"401 for {key}")
    tracker.log({"loss": 0.5}, 1)
    tracker.close()
    assert messages
    assert key not in "".join(messages)
    assert all(key not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert key not in str([run.asked for run in wandb.runs])


def test_tensorboard_gets_numbers_with_their_steps(tmp_path: Path, events: list[Any]) -> None:
    tracker, messages = open_it("tensorboard", tmp_path)
    tracker.log(ROW, 7)
    tracker.close()
    tracker.close()
    written = [event for event in events if not isinstance(event, str)]
    recipe, row = (event for event in written if hasattr(event, "summary"))
    assert "| tune.rank | `3` |" in recipe.summary
    assert row.step == 7
    assert row.summary["value"] == [
        {"tag": "loss", "simple_value": 0.5},
        {"tag": "learning_rate", "simple_value": 1e-4},
    ]
    assert events[0] == "open tensorboard"
    assert events[-1] == "close"
    assert events.count("close") == 1
    assert "flush" in events
    assert messages == []


def test_tensorboard_shows_data_at_most_ten_seconds_old(
    tmp_path: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.now = 0.0  # as on a machine that has just booted
    monkeypatch.setattr("lensmith.learn.trackers.time", clock)
    tracker, _ = open_it("tensorboard", tmp_path)
    flushes = [events.count("flush")]
    for step in range(6):
        clock.sleep(4)
        tracker.log({"loss": 0.5}, step)
        flushes.append(events.count("flush"))
    assert flushes == [1, 1, 1, 2, 2, 2, 3]


def test_tensorboard_drops_steps_that_are_repeated(tmp_path: Path, events: list[Any]) -> None:
    for step in (0, 40):
        open_it("tensorboard", tmp_path, step)[0].close()
    starts = [event for event in events if hasattr(event, "session_log")]
    assert [event.step for event in starts] == [1, 41]
    assert all(event.session_log.status == 1 for event in starts)


def test_a_failure_to_open_tensorboard_is_reported_once(tmp_path: Path, events: list[Any]) -> None:
    (tmp_path / "tensorboard").touch()  # a file where the folder should be
    tracker, messages = open_it("tensorboard", tmp_path)
    tracker.log({"loss": 0.5}, 1)
    tracker.close()
    (sentence,) = messages
    assert sentence.startswith("The tracker tensorboard can't be opened (")
    assert sentence.endswith(f"the metrics are still written to {tmp_path / 'metrics.jsonl'}.")
    assert events == []


def test_the_real_tensorboard_writer_works(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    tracker, messages = open_it("tensorboard", tmp_path)
    tracker.log({"loss": math.inf, "grad_norm": 2.0}, 1)
    tracker.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert all(tag in file.read_bytes() for tag in (b"grad_norm", b"tune.rank", b"brain.Event:2"))
    assert messages == []


def test_the_real_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    tracker, messages = open_it("wandb", tmp_path)
    tracker.log({"a_made_up_number": 0.5}, 1)
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert all(word in file.read_bytes() for word in (b"a_made_up_number", b"tune.rank"))
    assert messages == []
    assert capfd.readouterr() == ("", "")
