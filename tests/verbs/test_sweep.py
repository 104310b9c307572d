"""A sweep ends in a recipe, survives stops, kills and lost databases, and is shared by workers without races."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sqlalchemy import event
from sqlalchemy.engine import Engine

import lensmith
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.errors import Diverged, Stopped, UserError
from lensmith.progress import Advance, Note, silent
from lensmith.records import Rate, Training
from lensmith.runs.folder import Run
from lensmith.search.board import HEARTBEAT, SILENCE, Board
from lensmith.search.database import Database, Gone, Lost, is_alive, sqlite_url, this_process
from lensmith.search.trials import STAGES, search_space
from lensmith.search.worker import trial_recipe
from lensmith.verbs.compare.sweep import sweep
from lensmith.verbs.teach.resume import resume as resume_sweep
from tests.clock import Clock
from tests.conftest import Shapes

pytestmark = pytest.mark.long

OVER = "{train.learning_rate: {low: 1e-5, high: 1, log: true}, tune.rank: [4, 16]}"


def recipe_for(data: Path, tiny_folder: Path, *more: str) -> Recipe:
    options = [f"data.uri={data}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    options += ["data.validation=0.3", "train.batch_size=8", f"sweep.over={OVER}"]
    return load_recipe(None, [*options, *more])


class Trainer:
    """Stands in for a training: the accuracy depends on the learning rate, and each training is recorded."""

    def __init__(self) -> None:
        self.done: list[tuple[Recipe, Path]] = []
        self.meanwhile: Callable[[Recipe, Path, int], Any] = lambda *_: None

    def accuracy(self, recipe: Recipe) -> float:
        rate = recipe.train.learning_rate
        return 0.9 - abs(rate - 0.01) / (rate + 0.01) / 3 + 0.001 * recipe.seed

    def __call__(self, run: Run, checked: Any) -> Training:
        recipe, folder = run.recipe, run.folder
        self.done.append((recipe, folder))
        for stage in range(1, STAGES + 1):
            self.meanwhile(recipe, folder, stage)
            rate = Rate(self.accuracy(recipe) - 0.1 / stage + 0.1 / STAGES, 0, 1, 10)
            checked(stage, STAGES, rate)
        return Training(steps=STAGES, validation=rate, finished=True)

    def times(self, part: str) -> Counter[str]:
        """How often each folder was used for a training."""
        return Counter(folder.name for _, folder in self.done if folder.parent.name == part)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Sweeps train with the stand-in, and workers poll the board often."""
    stand_in = Trainer()
    monkeypatch.setattr("lensmith.search.worker.train_once", stand_in)
    monkeypatch.setattr("lensmith.learn.learner.prepare", lambda *_: SimpleNamespace(classifier=lambda _: None))
    monkeypatch.setattr("lensmith.measure.pace.measure", lambda *_: None)
    monkeypatch.setattr("lensmith.search.board.POLL", 0.02)
    return stand_in


@pytest.fixture(autouse=True)
def _quick_files() -> Iterator[None]:
    """SQLite need not wait for the disk: no test here cuts the power."""

    def quick(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", quick)
    yield
    event.remove(Engine, "connect", quick)


@pytest.fixture
def recipe(shapes: Shapes, tiny_folder: Path) -> Recipe:
    return recipe_for(shapes(circle=9, square=9), tiny_folder, "sweep.trials=5", "sweep.finalists=2")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(sqlite_url(tmp_path / "a {file}?.db"), 300, silent) as found:
        yield found


# With real training


def test_a_sweep_ends_in_a_recipe_and_a_stopped_sweep_in_the_same(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(
        shapes(circle=18, square=18), tiny_folder, "train.epochs=2", "tune.projector=true", "sweep.trials=3",
        "sweep.finalists=1", "sweep.repeats=2", "train.checkpoint_minutes=60",
    )  # fmt: skip
    split = type(open_data(recipe.data).test)
    plain = split.image

    def image(self: Any, i: int, *args: Any) -> Any:
        assert self.name != "test", "a sweep must not read the test images"
        return plain(self, i, *args)

    monkeypatch.setattr(split, "image", image)
    whole = sweep(recipe, tmp_path / "whole")

    def stop(event: Note | Advance) -> None:
        """Ctrl-C in the middle of the first trial."""
        if isinstance(event, Advance) and event.task == "training" and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        sweep(recipe, tmp_path / "parts", stop)
    assert stopped.value.folder == tmp_path / "parts"
    assert (tmp_path / "parts" / "trials" / "001" / "checkpoint").is_dir()
    told: list[Note | Advance] = []
    parts = resume_sweep(tmp_path / "parts", told.append)
    assert parts["trials"] == whole["trials"]
    assert parts["finalists"] == whole["finalists"]
    first = next(e for e in told if isinstance(e, Advance) and e.task == "training")
    assert first.done == 4, "it resumes after the last completed step"

    for trial in (tmp_path / "parts" / "trials").iterdir():
        steps = [row["step"] for row in map(json.loads, (trial / "metrics.jsonl").open()) if "loss" in row]
        assert steps == list(range(1, len(steps) + 1)), "no step twice"
        assert {f.name for f in trial.iterdir()} <= {"recipe.yaml", "metrics.jsonl", "training.json"}
    assert len(whole["trials"]) == 3
    assert whole["trials"][0]["state"] == "finished"
    assert whole["cost"]["trials"] < 3
    assert len(whole["finalists"][0]["accuracies"]) == 2

    monkeypatch.setattr(split, "image", plain)
    best = load_recipe(Path(whole["recipe"]))
    assert all(best.to_dict()[k.split(".")[0]][k.split(".")[1]] == v for k, v in whole["best"].items())
    assert (best.train.validate_every, best.sweep) == (recipe.train.validate_every, Recipe().sweep)
    assert "accuracy" in lensmith.train(best, tmp_path / "trained")
    assert whole["verdict"] in (page := Path(whole["report"]).read_text()).replace("&nbsp;", " ").replace("\xa0", " ")
    assert "tune.rank" in page
    assert json.loads((tmp_path / "whole" / "sweep.json").read_text()) == json.loads(json.dumps(whole))
    with pytest.raises(UserError, match="nothing to resume"):
        resume_sweep(tmp_path / "whole")


# With a stand-in for training


def test_pruning_saves_and_the_best_is_found(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    recipe.sweep.trials = 20
    told: list[Note | Advance] = []
    record = sweep(recipe, tmp_path / "pruned", told.append)
    assert len(record["trials"]) == 20
    assert sum(t["share"] for t in record["trials"]) == pytest.approx(record["cost"]["trials"], abs=0.01)
    assert record["cost"]["trials"] <= 8
    assert {t["state"] for t in record["trials"]} == {"finished", "pruned"}
    assert 1e-3 < record["best"]["train.learning_rate"] < 1e-1
    assert {name for name, _ in record["importance"]} == {"train.learning_rate", "tune.rank"}
    assert record["importance"][0][0] == "train.learning_rate"
    texts = [e.text for e in told if isinstance(e, Note)]
    assert any("20 trials over train.learning_rate (1e-05 to 1, on a logarithmic scale)" in t for t in texts)
    assert any("at most 8.0 full trainings. Then 4 to 6 trainings of the best" in t for t in texts)
    assert any(t.startswith("Trial 7 of 20: ") and "stopped after 11 % of its training" in t for t in texts)
    assert trainer.times("trials") == {f"{i:03d}": 1 for i in range(1, 21)}
    first = trainer.done[0][0]
    assert (first.train.learning_rate, first.tune.rank) == (2e-4, 16), "the unchanged recipe comes first"
    assert first.train.validate_every == pytest.approx(first.train.epochs / 9)

    recipe.sweep.prune, recipe.sweep.trials = False, 5
    assert sweep(recipe, tmp_path / "whole")["cost"]["trials"] == 5


def test_finalists_are_trained_with_other_seeds(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    record = sweep(recipe, tmp_path / "run")
    again = [recipe for recipe, folder in trainer.done if folder.parent.name == "finalists"]
    assert sorted(r.seed for r in again) == [1, 1, 2, 2]
    assert {r.seed for r, folder in trainer.done if folder.parent.name == "trials"} == {0}
    assert [len(f["accuracies"]) for f in record["finalists"]] == [3, 3]
    assert record["cost"]["finalists"] == 4
    assert record["chosen"] == record["finalists"][0]["number"]
    assert record["best"] == record["finalists"][0]["values"]

    recipe.sweep.repeats, recipe.sweep.trials = 1, 2
    record = sweep(recipe, tmp_path / "once")
    assert record["cost"]["finalists"] == 0
    assert "from one training" in record["verdict"]


def test_a_few_settings_are_tried_once_each(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    recipe.sweep.over = {"tune.targets": [None, ["q_proj"]], "augment.flip": [False, True]}
    record = sweep(recipe, tmp_path / "run")
    tried = [(t["values"]["tune.targets"], t["values"]["augment.flip"]) for t in record["trials"]]
    assert sorted(tried, key=str) == sorted([(a, b) for a in (None, ["q_proj"]) for b in (False, True)], key=str)
    assert yaml.safe_load(Path(record["recipe"]).read_text())["tune"]["targets"] == record["best"]["tune.targets"]


def test_patience_keeps_its_number_of_epochs(recipe: Recipe) -> None:
    recipe.train.epochs, recipe.train.patience, recipe.train.validate_every = 18.0, 3, 2.0  # three times two epochs
    trial = trial_recipe(recipe, {"tune.rank": 4})
    assert trial.train.patience == 3
    recipe.train.validate_every = 4.0
    assert trial_recipe(recipe, {"train.epochs": 9.0}).train.patience == 12
    assert recipe.train.patience == 3
    recipe.model.adapter = "a run"
    assert trial_recipe(recipe, {}).model.adapter is None, "trials start from the base model"


# Stops, kills, other workers


def killed() -> dict[str, Any]:
    """A worker on this machine whose process is gone."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return this_process() | {"pid": process.pid, "token": "killed"}


def stopped_sweep(trainer: Trainer, recipe: Recipe, folder: Path, at: int) -> None:
    """A sweep that is stopped in its first trial."""

    def stop(_: Recipe, where: Path, stage: int) -> None:
        if stage == at and where.parent.name == "trials":
            raise KeyboardInterrupt

    trainer.meanwhile = stop
    with pytest.raises(Stopped):
        sweep(recipe, folder)
    trainer.meanwhile = lambda *_: None


def board_of(recipe: Recipe, database: Database) -> Board:
    return Board(database, recipe.name, search_space(recipe))


def test_the_trial_of_a_killed_worker_is_resumed(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_sweep(trainer, recipe, run, at=1)
    with Database(sqlite_url(run / "sweep.db"), 300, silent) as database:
        board = board_of(recipe, database)
        database.worker = killed()
        left = board.entries()[0]
        mine = board.claim("after 0", left.values, None, left)
        assert mine
        board.report(mine, 3, 0.77, 0.4)
    (run / "trials" / "001" / "checkpoint").mkdir()
    seen: list[bool] = []
    trainer.meanwhile = lambda _, where, stage: seen.append((where / "checkpoint").exists())
    record = resume_sweep(run)
    assert seen[0], "its folder is kept"
    assert not any(seen[9:])
    assert record["trials"][0]["values"] == left.values
    assert [t["number"] for t in record["trials"]] == list(range(1, 6))
    assert trainer.times("trials") == {f"{i:03d}": 1 + (i == 1) for i in range(1, 6)}, "one had been started before"
    with Database(sqlite_url(run / "sweep.db"), 300, silent) as database:
        last = [e for e in board_of(recipe, database).entries() if e.origin == 0][-1]
        assert last.reports[3] >= 0.77, "its accuracy so far is kept"


def test_a_trial_that_kills_its_workers_fails(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_sweep(trainer, recipe, run, at=1)
    for _ in range(3):
        with Database(sqlite_url(run / "sweep.db"), 300, silent) as database:
            board, token = board_of(recipe, database), database.worker["token"]
            database.worker = killed()
            next(board.work(lambda _: None))
            database.worker["token"] = token
    record = resume_sweep(run)
    assert record["trials"][0]["state"] == "failed"
    assert "was killed 3 times at the same stage" in record["trials"][0]["sentence"]
    assert len(record["trials"]) == 5
    assert "was killed 3 times" in Path(record["report"]).read_text()


class Beats:
    """Stands in for the event that a worker waits on between heartbeats, so that the test triggers them."""

    def __init__(self) -> None:
        self.due, self.waits, self.ended = threading.Semaphore(0), threading.Semaphore(0), False

    def wait(self, _: float) -> bool:
        self.waits.release()
        self.due.acquire()
        return self.ended

    def set(self) -> None:
        self.ended = True
        self.due.release()

    def beat(self) -> None:
        """A heartbeat, which is on the board on return."""
        self.due.release()
        assert self.waits.acquire(timeout=300)


def test_a_worker_elsewhere_is_dead_only_when_it_is_silent(
    database: Database, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, beats = Clock(), Beats()
    monkeypatch.setattr("lensmith.search.board.time", clock)
    monkeypatch.setattr("lensmith.search.board.Event", lambda: beats)
    board = board_of(recipe, database)
    here, database.worker = database.worker, database.worker | {"host": "elsewhere", "token": "other"}
    values = {"train.learning_rate": 0.1, "tune.rank": 4}
    theirs = board.claim("k", values)
    assert theirs
    database.worker, board.current = here, None
    last, silent_from = clock.now, clock.now + 5 * SILENCE

    def speak() -> None:
        nonlocal last
        assert clock.now < silent_from + 2 * SILENCE, "nobody has noticed that it is dead"
        if clock.now >= silent_from:
            speaking.close()
        elif clock.now >= last + HEARTBEAT:
            last = clock.now
            beats.beat()

    with ExitStack() as speaking:
        speaking.enter_context(board.alive(theirs))
        assert beats.waits.acquire(timeout=300)
        clock.meanwhile = speak
        mine = next(board.work(lambda _: None))
    assert last > silent_from - 2 * HEARTBEAT
    assert last + SILENCE <= clock.now < last + SILENCE + HEARTBEAT, "it is dead after the silence, not before"
    assert (mine.origin, mine.values) == (theirs.number, values)
    with pytest.raises(Lost):  # should it wake up again
        board.report(theirs, 1, 0.5, 0.1)


def test_a_worker_that_lost_its_trial_continues_with_another(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    run, told = tmp_path / "run", list[Note | Advance]()

    def take(_: Recipe, where: Path, stage: int) -> None:
        if (where.name, stage) == ("002", 1) and trainer.times("trials")["002"] == 1:
            with Database(sqlite_url(run / "sweep.db"), 300, silent) as other:
                board = board_of(recipe, other)
                board.end(next(e for e in board.entries() if e.state == "running"), "left")

    trainer.meanwhile = take
    record = sweep(recipe, run, told.append)
    assert any(isinstance(e, Note) and "Trial 2 of 5 was given to another" in e.text for e in told)
    assert [t["number"] for t in record["trials"]] == list(range(1, 6))
    assert trainer.times("trials")["002"] == 2


def test_which_workers_are_alive() -> None:
    mine = this_process()
    assert is_alive(mine | {"token": "nobody"}) is False, "this process, but none of its workers"
    assert is_alive(killed()) is False
    assert is_alive(mine | {"pid": 1, "since": 0.0}) is False, "another process of the same number"
    assert is_alive(mine | {"host": "elsewhere", "token": ""}) is None
    assert is_alive({}) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    import psutil

    assert is_alive(mine | {"pid": child.pid, "since": psutil.Process(child.pid).create_time(), "token": ""}) is True
    child.communicate(b"\n")


def test_of_two_claims_one_is_valid(database: Database, recipe: Recipe) -> None:
    values = {"train.learning_rate": 0.1, "tune.rank": 4}
    first, second = board_of(recipe, database), board_of(recipe, database)
    entry = first.claim("k", values, 2)
    assert entry
    assert second.claim("k", values, 2) is None
    other = second.claim("l", values | {"tune.rank": 16}, 2)
    assert other
    assert first.claim("m", values, 2) is None, "there are two already"
    first.end(entry, "left")
    on = second.claim(f"after {entry.number}", values, 2, entry)
    assert on, "work that was given up can be resumed"
    assert first.claim(f"after {entry.number}", values, 2, entry) is None
    assert on.origin == entry.number
    first.end(on, "finished", 0.5)
    with pytest.raises(Lost):
        first.end(on, "finished", 0.6)


def test_two_workers_share_the_trials(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    run, records, workers = tmp_path / "run", list[dict[str, Any]](), Counter[int]()
    begun, abreast = threading.Event(), threading.Barrier(2)

    def meanwhile(*_: Any) -> None:
        begun.set()
        if workers[threading.get_ident()] < STAGES:  # for the length of a full training, neither is faster
            abreast.wait(300)
        workers[threading.get_ident()] += 1

    trainer.meanwhile, recipe.sweep.trials = meanwhile, 10
    first = threading.Thread(target=lambda: records.append(sweep(recipe, run)))
    first.start()
    assert begun.wait(300)
    second = threading.Thread(target=lambda: records.append(resume_sweep(run)))
    second.start()
    for thread in (first, second):
        thread.join(600)
    assert len(records) == 2
    assert trainer.times("trials") == {f"{i:03d}": 1 for i in range(1, 11)}
    assert sum(trainer.times("finalists").values()) == 4
    assert set(trainer.times("finalists").values()) == {1}
    assert len(workers) == 2
    assert min(workers.values()) >= STAGES, "both have worked"
    for key in ("trials", "finalists", "best", "importance", "verdict"):
        assert records[0][key] == records[1][key]
    assert records[0]["cost"]["trials"] <= 0.4 * 10
    assert not list(run.glob(".page-*"))


def test_a_second_machine_joins_through_the_database(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    recipe.sweep.storage, recipe.sweep.repeats = sqlite_url(tmp_path / "shared.db"), 1
    first = sweep(recipe, tmp_path / "one")
    trained = len(trainer.done)
    second = sweep(recipe, tmp_path / "two")
    assert len(trainer.done) == trained, "nothing was left to do"
    assert second["trials"] == first["trials"]
    assert (tmp_path / "two" / "best.yaml").exists()

    other = load_recipe(None, ["tune.alpha=8"], base=recipe)
    with pytest.raises(UserError, match=r"another sweep named 'run': tune.alpha was 32.0 and is now 8.0"):
        sweep(other, tmp_path / "three")
    assert not (tmp_path / "three").exists()
    extra = next(Path(recipe.data.uri).rglob("*.jpg"))
    for i in range(9):  # some of which go to validation
        (extra.parent / f"more {i}.jpg").write_bytes(extra.read_bytes() + bytes([i]))
    with pytest.raises(UserError, match=r"another sweep named 'run': the train images have changed"):
        sweep(recipe, tmp_path / "three")
    other.name = "another"
    assert len(sweep(other, tmp_path / "three")["trials"]) == 5


# Failures


def test_an_unreachable_database_is_waited_for(
    trainer: Trainer, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import OperationalError

    clock, told = Clock(), list[Note | Advance]()
    monkeypatch.setattr("lensmith.search.database.time", clock)
    plain, until = RDBStorage.set_trial_intermediate_value, clock.now + 60

    def away(self: Any, *args: Any) -> Any:
        if clock.now < until:
            raise OperationalError("SELECT secrets", {}, Exception("server closed the connection\nunexpectedly"))
        return plain(self, *args)

    monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", away)
    recipe.sweep.wait, recipe.sweep.trials, recipe.sweep.repeats = 90.0, 3, 1
    assert len(sweep(recipe, tmp_path / "short", told.append)["trials"]) == 3
    assert until <= clock.now < until + 15, "it is polled from time to time"
    texts = [e.text for e in told if isinstance(e, Note)]
    said = [t for t in texts if "doesn't respond" in t]
    assert len(said) == 1, "it is reported once"
    assert said[0].endswith("sweep.db doesn't respond: server closed the connection. Waiting up to 90 s.")
    assert "The database responds again." in texts

    began, until = clock.now, clock.now + 1000
    with pytest.raises(Gone, match=r"sweep.db doesn't respond: server closed.*lensmith resume .*long"):
        sweep(recipe, tmp_path / "long")
    assert clock.now - began == pytest.approx(90)
    until = clock.now
    assert len(resume_sweep(tmp_path / "long")["trials"]) == 3
    assert trainer.times("trials")["001"] == 3, "it was being trained"


def test_a_locked_file_is_waited_for(
    trainer: Trainer, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the file, as a backup or a slow disk would."""
    run, clock, told = tmp_path / "run", Clock(), list[Note | Advance]()
    monkeypatch.setattr("lensmith.search.database.time", clock)
    patience: set[int] = set()

    def impatient(connection: Any, _: Any) -> None:
        """SQLite's own waiting uses the machine's clock, so it is disabled."""
        patience.add(connection.execute("PRAGMA busy_timeout").fetchone()[0])
        connection.execute("PRAGMA busy_timeout=0")

    def lock(_: Recipe, where: Path, stage: int) -> None:
        if (where.name, stage) == ("001", 2):
            other = sqlite3.connect(run / "sweep.db")
            other.execute("BEGIN EXCLUSIVE")
            free = clock.now + 30
            clock.meanwhile = lambda: other.close() if clock.now >= free else None

    trainer.meanwhile, recipe.sweep.trials, recipe.sweep.repeats = lock, 2, 1
    event.listen(Engine, "connect", impatient)
    try:
        assert len(sweep(recipe, run, told.append)["trials"]) == 2
    finally:
        event.remove(Engine, "connect", impatient)
    texts = [e.text for e in told if isinstance(e, Note)]
    assert any("sweep.db doesn't respond: database is locked" in t for t in texts)
    assert "The database responds again." in texts
    assert patience == {20_000}, "milliseconds, after which it counts as not responding"


def test_an_unusable_database_is_reported_before_anything_is_written(
    trainer: Trainer, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith.search.database.time", Clock())
    for url, says in (
        ("my database", r"sweep.storage is not the URL of a database.*postgresql://user@host/name"),
        ("nosuch://host/name", r"nosuch://host/name can't be used.*Install its driver"),
        (f"sqlite:///{tmp_path}/no/such/folder.db", r"folder.db doesn't respond: unable to open database file"),
        ("postgresql+psycopg2://me:secret@host/name?password=secret", r"me:\*\*\*@host/name can't be used: No module"),
    ):
        recipe.sweep.storage = url
        with pytest.raises(UserError, match=says) as caught:
            sweep(recipe, tmp_path / "run")
        assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert not trainer.done


def test_a_lost_database_file_is_reported(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    stopped_sweep(trainer, recipe, tmp_path / "run", at=2)
    (tmp_path / "run" / "sweep.db").unlink()
    with pytest.raises(UserError, match=r"sweep.db no longer exists"):
        resume_sweep(tmp_path / "run")
    with pytest.raises(UserError, match=r"not a run folder"):
        resume_sweep(tmp_path)


def test_divergence_is_a_result_but_repeated_failures_end_the_sweep(
    trainer: Trainer, recipe: Recipe, tmp_path: Path
) -> None:
    def diverge(trial: Recipe, where: Path, stage: int) -> None:
        if trial.train.learning_rate > 0.01 and stage == 2:
            raise Diverged("The loss is nan at step 2.", "Lower it.")

    trainer.meanwhile = diverge
    recipe.sweep.prune, recipe.sweep.repeats = False, 1
    record = sweep(recipe, tmp_path / "some")
    failed = [t for t in record["trials"] if t["state"] == "failed"]
    assert failed
    assert all(t["values"]["train.learning_rate"] > 0.01 and "loss is nan" in t["sentence"] for t in failed)
    assert all(t["state"] == "finished" for t in record["trials"] if t not in failed)
    assert record["best"]["train.learning_rate"] <= 0.01
    assert "loss is nan" in Path(record["report"]).read_text()

    def full(trial: Recipe, where: Path, stage: int) -> None:
        raise UserError(f"The disk is full: {where}/metrics.jsonl was not written.", "Free some space.")

    trainer.meanwhile, trainer.done = full, []
    with pytest.raises(UserError, match=r"3 trainings in a row have failed: The disk is full.*Free some space"):
        sweep(recipe, tmp_path / "none")
    assert len(trainer.done) == 3

    def always(trial: Recipe, where: Path, stage: int) -> None:
        raise Diverged("The loss is nan.", "Lower it.")

    trainer.meanwhile = always
    with pytest.raises(UserError, match=r"None of the 5 trials could be trained in full: The loss is nan"):
        sweep(recipe, tmp_path / "nan")
    assert not (tmp_path / "nan" / "best.yaml").exists()


def test_occasional_failures_do_not_end_the_sweep(trainer: Trainer, recipe: Recipe, tmp_path: Path) -> None:
    def sometimes(trial: Recipe, where: Path, stage: int) -> None:
        if where.parent.name == "trials" and where.name in ("002", "003", "005", "006"):
            raise UserError("There is too little memory.", "")

    trainer.meanwhile, recipe.sweep.repeats, recipe.sweep.trials = sometimes, 1, 7
    record = sweep(recipe, tmp_path / "run")
    assert [t["number"] for t in record["trials"] if t["state"] == "failed"] == [2, 3, 5, 6]
    assert "Trial 3 failed: There is too little memory." in record["notes"]


def test_what_can_not_work_is_refused_before_a_folder_is_created(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = shapes(circle=9, square=9), tmp_path / "run"

    def refused(says: str, *more: str) -> None:
        with pytest.raises(UserError, match=says):
            sweep(recipe_for(data, tiny_folder, *more), run)
        assert not run.exists()

    refused("has no validation images to choose by", "data.validation=0")
    refused("list of tune.rank in sweep.over is empty", "sweep.over={tune.rank: []}")
    refused("nowhere", "model.base=./nowhere")
    refused("Nothing is tuned", "tune.language_model=false")
    with monkeypatch.context() as context:
        context.setenv("WORLD_SIZE", "2")
        refused("sweep. runs in one process")
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "optuna", None)
        refused(r"needs the package optuna. pip install 'lensmith\[sweep\]'")
