"""Training learns, survives being stopped, keeps its best weights, and leaves an adapter that PEFT itself can load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Lfm2VlForConditionalGeneration

import lensmith
from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.engine.classifier import Classifier
from lensmith.engine.objective import Objective
from lensmith.engine.question import make_question
from lensmith.errors import UserError
from lensmith.learn.batches import batches, class_weights
from lensmith.learn.learner import Learner, prepare
from lensmith.learn.loop import schedule, train
from lensmith.learn.trackers import Tracker
from lensmith.models.attention import ATTENTION
from lensmith.models.views import stack
from lensmith.progress import Advance, Note, Tell, silent
from lensmith.records import Rate, Training
from lensmith.runs.folder import Run
from lensmith.runs.folder import recipe_for as recipe_for_run
from tests.conftest import Shapes

pytestmark = pytest.mark.long


def recipe_for(folder: Path, tiny_folder: Path, *more: str) -> Recipe:
    options = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    options += [
        "train.epochs=3",
        "train.batch_size=8",
        "train.learning_rate=0.01",
        "tune.rank=4",
        "data.validation=0.2",
    ]
    return load_recipe(None, [*options, *more])


def prepared(recipe: Recipe) -> Learner:
    return prepare(recipe, open_data(recipe.data))


def trained(recipe: Recipe, folder: Path, tell: Tell = silent, resume: bool = False) -> Training:
    return train(prepared(recipe), Run(folder, recipe, open_data(recipe.data), tell), resume)


def stop_at(step: int) -> Callable[[Note | Advance], None]:
    """Ctrl-C after a step."""

    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "training" and event.done == step:
            raise KeyboardInterrupt

    return stop


def test_training_learns_and_the_run_folder_suffices_to_predict(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shapes(circle=30, square=30)
    recipe = recipe_for(folder, tiny_folder, "train.epochs=10")
    before = lensmith.evaluate(recipe, tmp_path / "zero")
    record = lensmith.train(recipe, tmp_path / "a run")
    assert record["accuracy"]["accuracy"] > max(0.9, before["accuracy"]["accuracy"])
    assert record["accuracy"]["n"] == before["accuracy"]["n"] == len(open_data(recipe.data).test)

    image = next((folder / "square").glob("*.jpg"))
    found = lensmith.predict([str(image), str(folder / "circle")], tmp_path / "a run")
    assert [p.predicted for p in found] == ["square"] + ["circle"] * 30
    again = lensmith.evaluate(recipe_for_run(str(tmp_path / "a run"), []), tmp_path / "again")
    assert again["accuracy"] == record["accuracy"], "a reloaded adapter must give the same scores"

    steps = [json.loads(line) for line in (tmp_path / "a run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == list(range(1, record["training"]["steps"] + 1))
    for name in ("recipe.yaml", "record.json", "evaluation.json", "predictions.parquet", "report.html", "result.json"):
        assert (tmp_path / "a run" / name).stat().st_size > 0


def test_peft_itself_loads_the_adapter_and_gives_the_same_scores(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(shapes(circle=16, square=16), tiny_folder, "tune.projector=true", "tune.vision_tower=true")
    dataset = open_data(recipe.data)
    learner = prepared(recipe)
    model = learner.tuned.model
    train(learner, Run(tmp_path, recipe, dataset))
    pixels = stack([model.prepare(dataset.test.image(i)) for i in range(len(dataset.test))])
    model.network.eval()
    mine = Classifier(model, make_question(model, recipe.question, dataset.labels)).score(pixels).bound

    other = models.load_base(recipe.model)
    bare = Classifier(other, make_question(other, recipe.question, dataset.labels)).score(pixels).bound
    network = Lfm2VlForConditionalGeneration.from_pretrained(tiny_folder).float()
    network.model.language_model.set_attn_implementation(ATTENTION)
    other.network = PeftModel.from_pretrained(network, str(tmp_path / "adapter")).base_model.model.eval()
    theirs = Classifier(other, make_question(other, recipe.question, dataset.labels)).score(pixels).bound
    torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    assert (bare - mine).abs().max() > 0.1, "the adapter changes nothing, so loading it proves nothing"


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_stopped_training_resumes_to_the_same_weights(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, step: int
) -> None:
    recipe = recipe_for(
        shapes(circle=20, square=20), tiny_folder, "tune.dropout=0.1", "augment.shift=0.1", "augment.flip=true"
    )
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trained(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path / "parts", stop_at(step))
    assert (tmp_path / "parts" / "checkpoint").is_dir()
    torch.manual_seed(99)  # resuming must not depend on the process's own random state
    parts = trained(recipe, tmp_path / "parts", resume=True)

    assert (parts.steps, parts.best_step, parts.validation) == (whole.steps, whole.best_step, whole.validation)
    first, second = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (tmp_path / "parts" / "checkpoint").exists()


@pytest.mark.parametrize("part", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_reported(shapes: Shapes, tiny_folder: Path, tmp_path: Path, part: str) -> None:
    recipe = recipe_for(shapes(circle=8, square=8), tiny_folder)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path, stop_at(1))
    damaged = next((tmp_path / "checkpoint").iterdir()) / part
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(UserError, match="can't be read"):
        trained(recipe, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_with_advice(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(shapes(circle=16, square=16), tiny_folder, "train.warmup=0")
    recipe.train.learning_rate = 1e30  # more than a recipe may say
    with pytest.raises(UserError, match=r"learning_rate"):
        trained(recipe, tmp_path)


def test_unreadable_training_images_are_left_out_and_listed(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shapes(circle=20, square=20)
    for i in range(8):
        (folder / "circle" / f"text {i}.jpg").write_text(f"not an image {i}")
    recipe = recipe_for(folder, tiny_folder, "train.epochs=1")
    record = lensmith.train(recipe, tmp_path / "run")
    listed = record["training"]["unreadable"] + record["evaluation"]["unreadable"]
    dataset = open_data(recipe.data)
    assert sorted(listed) == sorted(set(listed))
    assert len(listed) == 8, "in training, validation and test together"
    assert record["accuracy"]["n"] == len(dataset.test), "unreadable images stay in the denominator"
    for path in (tmp_path / "run").glob("*"):
        assert not path.name.startswith(".") or path.name == ".lock", "a half-written file was left"
    with pytest.raises(UserError, match=r"text \d"):
        lensmith.train(recipe_for(folder, tiny_folder, "data.unreadable=stop"), tmp_path / "strict")


def test_images_that_do_not_fit_into_memory_are_read_again_in_each_epoch(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(shapes(circle=12, square=12), tiny_folder, "train.epochs=2")
    found = []
    for name, room in (("all", 1 << 30), ("some", 5 * 3 * 64 * 64)):
        monkeypatch.setattr("lensmith.learn.batches.CACHE_BYTES", room)
        (tmp_path / name).mkdir()
        trained(recipe, tmp_path / name)
        found.append(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_training_does_not_change_the_base_model(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(shapes(circle=16, square=16), tiny_folder, "train.epochs=1")
    learner = prepared(recipe)
    model = learner.tuned.model
    before = {n: p.clone() for n, p in model.network.named_parameters() if "lora_" not in n}
    train(learner, Run(tmp_path, recipe, open_data(recipe.data)))
    assert all(torch.equal(p, before[n]) for n, p in model.network.named_parameters() if "lora_" not in n)


def test_lora_is_attached_to_every_linear_layer_of_the_chosen_components_only(tiny_folder: Path) -> None:
    recipe = load_recipe(None, [f"model.base={tiny_folder}"])
    rows = prepared(recipe).coverage
    assert {row.component for row in rows} == {"language_model"}
    layers = {row.layer: row.count for row in rows}
    attention = {f"self_attn.{n}": 2 for n in ("q_proj", "k_proj", "v_proj", "out_proj")}
    conv = {"conv.in_proj": 2, "conv.out_proj": 2}
    assert layers == attention | conv | {f"feed_forward.w{i}": 4 for i in (1, 2, 3)}
    with pytest.raises(UserError, match="Nothing is tuned"):
        prepared(load_recipe(None, [f"model.base={tiny_folder}", "tune.language_model=false"]))


def test_every_epoch_sees_every_sample_once() -> None:
    stream = [i for batch in batches(10, 4, seed=0, first=0, last=10) for i in batch]
    assert all(sorted(stream[e * 10 : e * 10 + 10]) == list(range(10)) for e in range(4))
    assert stream[:10] != stream[10:20]
    later = [i for batch in batches(10, 4, seed=0, first=6, last=10) for i in batch]
    assert later == stream[24:], "a resumed training must see the same images as an uninterrupted one"


def test_nothing_goes_over_the_network(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: Any) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    asked: list[Any] = []
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    # Uses the shipped model, because its bare name looks like a name on the hub.
    recipe = recipe_for(shapes(circle=8, square=8), tiny_folder, "train.epochs=1", "model.base=nano")
    lensmith.train(recipe, tmp_path / "run")
    lensmith.predict([str(tmp_path / "my shapes")], tmp_path / "run")
    assert asked == []


def test_fewer_images_than_a_batch_still_give_one_step_per_epoch(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(shapes(circle=8, square=8), tiny_folder, "train.batch_size=500", "train.epochs=3")
    assert trained(recipe, tmp_path).steps == 3


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[9] == max(rates) == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_training_ends_early_when_validation_stops_improving(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        shapes(circle=20, square=20), tiny_folder, "train.epochs=40", "train.patience=2", "train.validate_every=0.5"
    )
    events: list[Note | Advance] = []
    done = trained(recipe, tmp_path, events.append)
    planned = next(e.total for e in events if isinstance(e, Advance) and e.task == "training")
    assert done.finished
    assert done.worse == 2
    assert done.best_step < done.checked_step <= done.steps < planned
    assert any(isinstance(e, Note) and "2 validations without improvement" in e.text for e in events)
    assert (tmp_path / "adapter" / "lensmith.json").exists()


def test_the_images_that_cause_a_nan_loss_are_named(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)
    dataset = open_data(recipe.data)
    original, calls = Objective.losses, [0]

    def losses(self: Objective, prefix: Any, images: Any, parts: Any, noise: Any) -> torch.Tensor:
        calls[0] += 1
        result = original(self, prefix, images, parts, noise)
        return result * torch.tensor([1.0, float("nan"), *[1.0] * (len(result) - 2)]) if calls[0] == 2 else result

    monkeypatch.setattr(Objective, "losses", losses)
    order = next(batches(len(dataset.train), 8, recipe.seed, 1, 2))
    with pytest.raises(UserError) as caught:
        trained(recipe, tmp_path)
    message = str(caught.value)
    assert "at step 2" in message
    assert dataset.train.ids[order[1]] in message
    assert not any(dataset.train.ids[i] in message for i in order if i != order[1])


def test_balanced_weights_give_a_rare_class_the_same_total_weight(shapes: Shapes, tiny_folder: Path) -> None:
    recipe = recipe_for(shapes(circle=50, square=10), tiny_folder, "data.test=0.1", "data.validation=0")
    split, labels = open_data(recipe.data).train, open_data(recipe.data).labels
    weights = dict(zip(labels, class_weights(split, labels, "balanced"), strict=True))
    counts = {label: list(split.labels).count(label) for label in labels}
    assert counts["circle"] * weights["circle"] == pytest.approx(counts["square"] * weights["square"])
    assert sum(weights[label] for label in split.labels) == pytest.approx(len(split))
    assert class_weights(split, labels, "none") == [1, 1]


def test_the_weighted_mean_does_not_depend_on_the_micro_batch_size(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ["train.class_weights=balanced", "train.epochs=1", "train.validate_every=9", "augment.mix=cutmix"]
    folder, found = shapes(circle=30, square=10), []
    for size in ("8", "3"):
        recipe = recipe_for(folder, tiny_folder, *options, f"train.micro_batch={size}")
        (tmp_path / size).mkdir()
        trained(recipe, tmp_path / size)
        found.append([json.loads(line).get("loss") for line in (tmp_path / size / "metrics.jsonl").open()])
    assert found[0][:3] == pytest.approx(found[1][:3], rel=1e-4)


def test_a_run_folder_that_cannot_be_written_is_reported_in_one_sentence(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)

    def read_only(_: Path, *args: Any, **kwargs: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(UserError, match=r"can't be created: Read-only file system"):
        lensmith.train(recipe, tmp_path / "run")


def test_a_tracker_gets_the_same_rows_as_the_log(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[int, dict[str, float]]] = []

    class Fake(Tracker):
        def log(self, row: dict[str, float], step: int) -> None:
            rows.append((step, row))

    monkeypatch.setattr("lensmith.learn.run_log.open_tracker", lambda *_: Fake())
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder, "train.epochs=2")
    done = trained(recipe, tmp_path)
    assert [step for step, row in rows if "loss" in row] == list(range(1, done.steps + 1))
    assert any("validation_accuracy" in row for _, row in rows)


def test_a_validation_that_could_not_be_told_is_told_when_the_training_is_resumed(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(shapes(circle=12, square=12), tiny_folder, "data.validation=0.3", "train.epochs=2")
    told: list[tuple[int, float]] = []

    def fail(step: int, steps: int, rate: Rate | None) -> None:
        assert rate
        told.append((step, rate.accuracy))
        raise UserError("the database doesn't respond")

    learner = prepared(recipe)
    run = Run(tmp_path / "run", recipe, open_data(recipe.data))
    run.folder.mkdir()
    run.start()
    with pytest.raises(UserError, match="doesn't respond"):
        train(learner, run, on_validation=fail)
    again: list[tuple[int, float]] = []

    def keep(step: int, steps: int, rate: Rate | None) -> None:
        assert rate
        again.append((step, rate.accuracy))

    train(prepared(recipe), run, resume=True, on_validation=keep)
    assert again[0] == told[0]
    assert len(again) > 1
