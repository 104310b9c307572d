"""Training on cached features equals training on images; features are extracted once and can't go stale."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lensmith
from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.data import open_data
from lensmith.errors import UserError
from lensmith.learn.features import store
from lensmith.learn.features.store import FeatureStore, cache_folder, fill, fingerprint
from lensmith.learn.learner import prepare
from lensmith.learn.loop import train
from lensmith.learn.processes import Processes
from lensmith.models.base import Model
from lensmith.models.tuning import trainable
from lensmith.models.views import Views
from lensmith.progress import Advance, Note
from lensmith.runs.folder import Run
from tests.conftest import Shapes

pytestmark = pytest.mark.long

EXTRACTING = "extracting features"


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path / "cache"))


def recipe_for(folder: Path, tiny_folder: Path, *more: str) -> Recipe:
    options = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    return load_recipe(None, [*options, "train.epochs=2", "train.batch_size=8", "tune.rank=4", *more])


def trained(recipe: Recipe, folder: Path) -> tuple[dict[str, torch.Tensor], list[Any], Model]:
    """The weights, the progress events, and the model."""
    folder.mkdir()
    events: list[Any] = []
    dataset = open_data(recipe.data)
    learner = prepare(recipe, dataset)
    model = learner.tuned.model
    train(learner, Run(folder, recipe, dataset, events.append))
    return {name: w.detach().clone() for name, w in trainable(model).items()}, events, model


def extracted(events: list[Any]) -> int:
    """The number of images whose features were extracted for the cache."""
    return max((e.done for e in events if isinstance(e, Advance) and e.task == EXTRACTING), default=0)


@pytest.mark.parametrize("projector", ["false", "true"])
def test_cached_features_train_as_images_do(shapes: Shapes, tiny_folder: Path, tmp_path: Path, projector: str) -> None:
    folder = shapes(circle=20, square=20)
    Image.new("RGB", (90, 30), "red").save(folder / "circle" / "wide.png")  # another number of tokens
    options = [f"tune.projector={projector}", "train.learning_rate=0.01"]
    cached, events, _ = trained(recipe_for(folder, tiny_folder, *options), tmp_path / "cached")
    uncached = [*options, "train.cache_features=false"]
    plain, silent, _ = trained(recipe_for(folder, tiny_folder, *uncached), tmp_path / "plain")
    assert extracted(events) == len(open_data(recipe_for(folder, tiny_folder).data).train)
    assert extracted(silent) == 0
    for name, weight in cached.items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-3, atol=1e-4)


def test_features_are_extracted_once_and_then_only_for_new_images(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shapes(circle=20, square=20)
    _, first, _ = trained(recipe_for(folder, tiny_folder), tmp_path / "first")
    _, second, _ = trained(recipe_for(folder, tiny_folder, "seed=1"), tmp_path / "second")
    assert extracted(first) > 0
    assert extracted(second) == 0
    for i in range(10):
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(folder / "circle" / f"new {i}.png")
    before = len(open_data(recipe_for(folder, tiny_folder).data).train)
    _, third, _ = trained(recipe_for(folder, tiny_folder), tmp_path / "third")
    assert 0 < extracted(third) <= 10
    assert extracted(third) == before - extracted(first)


@pytest.mark.parametrize("option", ["tune.vision_tower=true", "augment.flip=true", "augment.mix=mixup"])
def test_nothing_is_cached_if_the_towers_output_changes_between_epochs(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, option: str
) -> None:
    _, events, _ = trained(recipe_for(shapes(circle=9, square=9), tiny_folder, option), tmp_path / "run")
    assert extracted(events) == 0
    assert not cache_folder().exists()


def test_another_tower_or_other_settings_use_another_store(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(None, [f"model.base={tiny_folder}", "model.dtype=float32"])
    model = models.load_base(recipe.model)
    original = fingerprint(model, ["vision_tower"])
    assert fingerprint(models.load_base(recipe.model), ["vision_tower"]) == original
    assert fingerprint(model, ["vision_tower", "projector"]) != original
    weight = model.network.model.vision_tower.post_layernorm.weight
    with torch.no_grad():
        weight[0] += 1e-3
    assert fingerprint(model, ["vision_tower"]) != original

    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    settings = other / "preprocessor_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps(values | {"image_std": [0.4, 0.5, 0.5]}))
    changed = models.load_base(load_recipe(None, [f"model.base={other}", "model.dtype=float32"]).model)
    assert fingerprint(changed, ["vision_tower"]) != original
    budget = load_recipe(None, [f"model.base={tiny_folder}", "model.dtype=float32", "model.image_tokens=2"])
    assert fingerprint(models.load_base(budget.model), ["vision_tower"]) != fingerprint(
        models.load_base(recipe.model), ["vision_tower"]
    )


def test_the_features_of_a_damaged_file_are_extracted_again(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)
    first, events, _ = trained(recipe, tmp_path / "first")
    for file in cache_folder().rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:200])
    second, again, _ = trained(recipe, tmp_path / "second")
    assert extracted(again) == extracted(events)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_extraction_resumes(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith.learn.features.store.WINDOW", 8)
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)
    total = len(open_data(recipe.data).train)
    uninterrupted, _, _ = trained(recipe, tmp_path / "whole")
    shutil.rmtree(cache_folder())

    def stop(event: Any) -> None:
        if isinstance(event, Advance) and event.task == EXTRACTING and event.done >= 16:
            raise KeyboardInterrupt

    dataset = open_data(recipe.data)
    (tmp_path / "stopped").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(prepare(recipe, dataset), Run(tmp_path / "stopped", recipe, dataset, stop))
    assert not list(cache_folder().rglob("*.part"))
    resumed, events, _ = trained(recipe, tmp_path / "resumed")
    assert extracted(events) == total - 16
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


def test_without_disk_space_training_continues_without_a_cache(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith.learn.features.store.SPARE_BYTES", 1 << 60)
    recipe = recipe_for(shapes(circle=20, square=20), tiny_folder)
    _, events, _ = trained(recipe, tmp_path / "run")
    assert any(isinstance(e, Note) and "extracted again when needed" in e.text for e in events)
    assert not list(cache_folder().rglob("*.safetensors"))


def test_unreadable_images_have_no_features_and_are_listed(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shapes(circle=20, square=20)
    for i in range(6):
        (folder / "circle" / f"text {i}.jpg").write_text(f"no image {i}")
    recipe = recipe_for(folder, tiny_folder, "data.test=0.2")
    record = lensmith.train(recipe, tmp_path / "run")
    again = lensmith.train(recipe, tmp_path / "again")  # all features are cached, so no image is read
    assert record["training"]["unreadable"]
    assert sorted(again["training"]["unreadable"]) == sorted(record["training"]["unreadable"])


def test_a_store_returns_what_was_added(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    images = {f"{i:016x}": tuple(torch.randn(i + 1, k, 3).bfloat16() for k in range(1, i + 2)) for i in range(12)}
    store.add(images)
    assert store.get(next(iter(images))) is None, "visible only after reopening"
    store.reopen()
    for name, views in images.items():
        stored = store.get(name)
        assert stored is not None
        assert all(torch.equal(a, b) for a, b in zip(stored, views, strict=True))


def test_a_class_without_a_training_image_is_named(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(shapes(circle=20, square=20, star=20), tiny_folder, "data.train_limit=2")
    with pytest.raises(UserError, match=r"no training image of the class (circle|square|star)"):
        trained(recipe, tmp_path / "run")


def test_features_are_extracted_in_batches_that_fit_into_memory(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [(torch.zeros(3, 64, 64, dtype=torch.uint8),)] * 40
    sizes: list[int] = []
    encode_images = type(tiny).encode_images

    def counted(self: Any, views: Any) -> Any:
        sizes.append(len(views[0]))
        return encode_images(self, views)

    monkeypatch.setattr(type(tiny), "encode_images", counted)
    for fits, expected in [(0, [1] * 40), (5, [5] * 8), (1000, [32, 8])]:
        sizes.clear()
        needed = tiny.memory(((3, 64, 64),), 0)
        monkeypatch.setattr(type(tiny), "free_memory", lambda _, fits=fits, needed=needed: 4 * needed * fits)
        features = dict(store.extract_features(images, range(40), tiny, tiny.encode_images))
        assert sizes == expected
        assert len(features) == 40


class Meeting:
    """What two threads exchange that stand for processes on two machines."""

    def __init__(self) -> None:
        self.barrier, self.said = threading.Barrier(2), dict[int, list[Any]]()


class Machine(Processes):
    """One of two processes, each with a disk of its own."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.count, self.rank, self.main, self._meeting = 2, rank, rank == 0, meeting

    def gather(self, items: Iterable[Any]) -> list[Any]:
        self._meeting.said[self.rank] = list(items)
        self._meeting.barrier.wait(60)
        found = self._meeting.said[0] + self._meeting.said[1]
        self._meeting.barrier.wait(60)
        return found

    def broadcast(self, value: Any) -> Any:
        return self.gather([value])[0]


@pytest.mark.parametrize("shared", [True, False])
def test_each_machine_ends_with_all_features_on_its_own_disk(shared: bool, tiny: Model, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 40), (i, 0, 0)) for i in range(11)]
    images, ids = [tiny.prepare(picture) for picture in pictures], [f"image {i}" for i in range(11)]
    meeting, made = Meeting(), list[int]()

    def extract(views: Views) -> Views:
        made.append(len(views[0]))
        return tiny.encode_images(views)

    def machine(rank: int) -> FeatureStore:
        store = FeatureStore(tmp_path / ("disk" if shared else f"disk {rank}"))
        fill(store, images, ids, tiny, extract, Machine(rank, meeting), lambda event: None)
        return store

    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(machine, range(2)))
    assert all(name in store for store in stores for name in ids)
    assert sum(made) == (11 if shared else 22), "once on a shared disk, and otherwise once for each"
