"""A training killed at any moment ends in the same weights; damaged checkpoints and changed recipes are detected."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lensmith
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.errors import UserError
from lensmith.learn import checkpoint
from lensmith.learn.checkpoint import STATE, TENSORS
from lensmith.learn.learner import prepare
from lensmith.learn.loop import train
from lensmith.progress import Advance, Note
from lensmith.records import Training
from lensmith.runs.files import recover, replacing
from lensmith.runs.folder import Run, same_recipe
from tests.conftest import Shapes

pytestmark = pytest.mark.long

KILLS = 12
SOURCE = str(Path(lensmith.__file__).parent)
MOMENTS = {"call": 6000, "file": 60}
"""The approximate number of calls in Lensmith's code, and of file operations, in a step with its checkpoint."""
FILES = {"open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir"}


def recipe_for(folder: Path, tiny_folder: Path, *more: str) -> Recipe:
    options = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    options += ["train.epochs=4", "train.batch_size=8", "train.learning_rate=0.01", "data.validation=0.2"]
    options += ["tune.rank=4", "tune.dropout=0.1", "augment.flip=true", "augment.mix=both"]
    return load_recipe(None, [*options, "train.checkpoint_minutes=0", *more])


def run(recipe: Recipe, folder: Path, resume: bool, tell: Callable[[Any], Any] = lambda _: None) -> Training:
    folder.mkdir(exist_ok=True)
    dataset = open_data(recipe.data)
    return train(prepare(recipe, dataset), Run(folder, recipe, dataset, tell), resume)


def stopped_after(step: int) -> Callable[[Note | Advance], None]:
    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "training" and event.done == step:
            raise KeyboardInterrupt

    return stop


def tuned_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def killable(recipe: Recipe, folder: Path, steps: int, kind: str, moment: int) -> None:
    """Runs in a separate process, which kills itself `moment` calls after `steps` steps; never if `moment` is 0."""
    torch.set_num_threads(1)

    def count(frame: FrameType, _: str, what: Any) -> None:
        nonlocal moment
        if getattr(what, "__name__", "") in FILES if kind == "file" else frame.f_code.co_filename.startswith(SOURCE):
            moment -= 1
            if moment == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def tell(event: Note | Advance) -> None:
        nonlocal steps
        steps -= isinstance(event, Advance)
        if steps == 0:
            sys.setprofile(count)  # called at every call and return, also of C functions

    if steps == 0:
        sys.setprofile(count)
    run(recipe, folder, True, tell)


def test_killed_at_any_moment_it_ends_in_the_same_weights(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder, "train.epochs=8")
    uninterrupted = run(recipe, tmp_path / "uninterrupted", resume=False)

    # Forked from a process that has imported everything and computed nothing.
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["lensmith.learn.loop", "lensmith.models.families.lfm2_vl", "peft", "datasets", __name__]
    )
    dice, folder, kills = random.Random(0), tmp_path / "killed", 0
    log = folder / "metrics.jsonl"

    reached: set[str] = set()
    for _ in range(10 * KILLS):
        # At any moment from now on, mostly within the next steps: reading images, computing a step, or writing it.
        steps, kind = dice.choice([0, 1, 1, 2, 3]), dice.choice(list(MOMENTS))
        moment = dice.randint(1, MOMENTS[kind]) if kills < KILLS else 0
        child = forks.Process(target=killable, args=(recipe, folder, steps, kind, moment))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode != 0
        reached |= {path.name for path in folder.glob("checkpoint/0*")}
        if child.exitcode == 0:
            if kills >= KILLS:
                break
            shutil.rmtree(folder)  # it finished before all kills were done: start over
    assert kills == KILLS
    assert child.exitcode == 0
    assert len(reached) > 5, "the kills came before anything was done, or after all was"
    found = json.loads((folder / "training.json").read_text())
    assert (found["steps"], found["best_step"]) == (uninterrupted.steps, uninterrupted.best_step)
    first, second = tuned_weights(tmp_path / "uninterrupted"), tuned_weights(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, uninterrupted.steps + 1))
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("part", [TENSORS, STATE])
def test_a_half_written_checkpoint_is_detected_and_the_previous_one_used(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, part: str
) -> None:
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)
    uninterrupted = run(recipe, tmp_path / "uninterrupted", resume=False)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", False, stopped_after(6))
    before, last = sorted((tmp_path / "cut" / "checkpoint").iterdir())
    damaged = last / part
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    events: list[Any] = []
    again = run(recipe, tmp_path / "cut", True, events.append)
    assert any(isinstance(e, Note) and f"{last} is damaged; the previous one is used" in e.text for e in events)
    steps = [e.done for e in events if isinstance(e, Advance) and e.task == "training"]
    assert steps[0] == int(before.name) + 1
    assert (again.steps, again.validation) == (uninterrupted.steps, uninterrupted.validation)
    first, second = tuned_weights(tmp_path / "uninterrupted"), tuned_weights(tmp_path / "cut")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_changed_recipe_is_refused_and_the_changes_named(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shapes(circle=20, square=20)
    begun = recipe_for(folder, tiny_folder, "tune.dropout=0")
    with pytest.raises(KeyboardInterrupt):
        run(begun, tmp_path / "run", False, stopped_after(2))
    changed = ["train.learning_rate=0.02", "augment.mix=none", "train.micro_batch=2"]
    with pytest.raises(UserError) as caught:
        run(recipe_for(folder, tiny_folder, "tune.dropout=0", *changed), tmp_path / "run", resume=True)
    message = str(caught.value)
    assert "train.learning_rate was 0.01 and is now 0.02" in message
    assert "augment.mix was 'both' and is now 'none'" in message
    assert "micro_batch" not in message, "it does not change the result"
    smaller = recipe_for(folder, tiny_folder, "tune.dropout=0", "train.micro_batch=2")
    assert run(smaller, tmp_path / "run", resume=True).finished
    with pytest.raises(UserError, match="micro_batch"):  # dropout masks depend on the micro-batch size
        same_recipe(tmp_path, recipe_for(folder, tiny_folder), recipe_for(folder, tiny_folder, "train.micro_batch=2"))


def test_a_full_disk_stops_training_cleanly_and_it_can_be_resumed(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)
    run(recipe, tmp_path / "uninterrupted", resume=False)
    saves: list[Path] = []

    def save(tensors: Any, path: Path, *rest: Any) -> None:
        saves.append(path)
        if len(saves) > 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        plain(tensors, path, *rest)

    plain = save_file
    monkeypatch.setattr(checkpoint, "save_file", save)
    with pytest.raises(UserError, match="disk is full"):
        run(recipe, tmp_path / "run", resume=False)
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == 2, (
        "the complete ones are kept, the half-written one is not"
    )
    monkeypatch.setattr(checkpoint, "save_file", plain)
    run(recipe, tmp_path / "run", resume=True)
    first, second = tuned_weights(tmp_path / "uninterrupted"), tuned_weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_replacement_interrupted_between_its_renames_is_undone(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with replacing(folder) as new:
        (new / "weights").write_text("old")
    folder.rename(tmp_path / ".adapter.old")  # the state after a kill between the two renames
    recover(folder)
    assert (folder / "weights").read_text() == "old"

    def fail() -> None:
        with replacing(folder) as new:
            (new / "weights").write_text("new")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert (folder / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
