"""A blend scores images as its parts do, each under its looks, and leaves the base model as it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensmith import models
from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.engine.blend import Blend
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.engine.taught import load_taught
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.blends import StoredPart, keep_blend
from lensmith.models.heads import ClassHead
from lensmith.models.tuned_files import keep_tuned, task_for
from lensmith.models.tuning import attach, trainable
from lensmith.models.views import AS_IT_IS, Look, changed, stack
from lensmith.runs.folder import Run

pytestmark = pytest.mark.long

LOOKS = (AS_IT_IS, Look(mirrored=True), Look(right=0.1, down=-0.1))


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """A blend of a head under three looks, a LoRA of decoder and tower, and the model itself."""
    from PIL import Image

    where = tmp_path_factory.mktemp("blend")
    for k, label in enumerate(("circle", "square")):
        (where / "images" / label).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (40, 30), (100 * k, 20 * i, 90)).save(where / "images" / label / f"{i}.png")
    words = [f"data.uri={where / 'images'}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    words += ["tune.vision_tower=true", "tune.rank=2"]
    recipe = load_recipe(None, words)
    dataset = open_data(recipe.data)
    run = Run(where / "run", recipe, dataset, lambda _: None)
    run.ensure_started()
    lora = run.inner("lora", recipe)
    lora.ensure_started()
    model = models.load_base(recipe.model)
    tuned = attach(model, recipe.tune, dataset.labels)
    generator = torch.Generator().manual_seed(0)
    for weight in trainable(model).values():
        weight.data = torch.randn(weight.shape, generator=generator) / 10
    keep_tuned(lora, tuned)

    base = models.load_base(recipe.model)
    size = int(base.network.config.vision_config.hidden_size)
    head = ClassHead(size, dataset.labels, "tower mean")
    head.weight.data = torch.randn(head.weight.shape, generator=generator)
    parts = {
        "probe": StoredPart(0.5, None, _task(run, base, 1.5), head, LOOKS),
        "lora": StoredPart(0.3, lora.folder / "adapter", _task(run, base, 2.0)),
        "zero-shot": StoredPart(0.4, None, _task(run, base, 1.0)),
    }
    keep_blend(run, base, parts)
    return run


def _task(run: Run, model: Model, temperature: float) -> dict[str, Any]:
    return task_for(run, model, "part") | {"calibration": {"temperature": temperature}}


def test_a_blend_is_the_weighted_mean_of_its_parts(blended: Run) -> None:
    blend = load_taught(blended.folder).classifier
    assert isinstance(blend, Blend)
    before = {name: weight.clone() for name, weight in blend.model.network.named_parameters()}
    views = stack([blend.model.prepare(blended.dataset.train.image(i)) for i in range(6)])
    scores = blend.score(views).bound

    parts, options = blended.folder / "adapter" / "parts", blended.recipe.model
    head = models.load(replace(options, adapter=str(parts / "probe")))
    lora = models.load(replace(options, adapter=str(parts / "lora")))
    bare = models.load(options)
    question = make_question(bare.model, blended.recipe.question, blended.dataset.labels)
    asked = [Classifier(tuned.model, question, tuned.head) for tuned in (head, lora, bare)]
    assert not torch.allclose(
        asked[1].score(views).bound, asked[2].score(views).bound, atol=1e-3
    )  # LoRA does something
    by_head = [(asked[0].score(changed(views, look)).bound / 1.5).log_softmax(1) for look in LOOKS]
    expected = 0.5 * torch.stack(by_head).mean(0)
    expected += 0.3 * (asked[1].score(views).bound / 2).log_softmax(1)
    expected += 0.4 * asked[2].score(views).bound.log_softmax(1)
    assert torch.allclose(scores, expected.log_softmax(1), atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in blend.model.network.named_parameters())


def test_the_parts_share_the_base_models_memory(blended: Run) -> None:
    blend = load_taught(blended.folder).classifier
    assert isinstance(blend, Blend)
    own = next(part.classifier.model for part in blend.parts if part.name == "lora")
    assert own is not blend.model
    theirs = {weight.data_ptr() for weight in blend.model.network.parameters()}
    frozen = [weight for name, weight in own.network.named_parameters() if ".lora_" not in name]
    assert frozen
    assert all(weight.data_ptr() in theirs for weight in frozen)
    assert [part.same_tower for part in blend.parts] == [True, False, True]


def test_an_incomplete_blend_is_refused(blended: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(blended.folder, tmp_path / "copy")
    head = folder / "adapter" / "parts" / "probe" / "head.safetensors"
    kept = head.read_bytes()
    head.unlink()
    with pytest.raises(UserError, match=r"incomplete: it has no parts/probe/head\.safetensors"):
        load_taught(folder)
    head.write_bytes(kept)
    path = folder / "adapter" / "blend.json"
    values = json.loads(path.read_text())
    values["parts"][0]["weight"] = -1.0
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"blend\.json is damaged"):
        load_taught(folder)


def test_a_part_of_another_base_is_refused(blended: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(blended.folder, tmp_path / "copy")
    other = tmp_path / "base"
    shutil.copytree(blended.recipe.model.base, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: weight + 0.01 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    recipe = (folder / "recipe.yaml").read_text().replace(blended.recipe.model.base, str(other))
    (folder / "recipe.yaml").write_text(recipe)
    for path in (folder / "adapter").rglob("lensmith.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base": str(other)}))
    with pytest.raises(UserError, match="other weights"):
        load_taught(folder)


def test_other_classes_are_refused(blended: Run) -> None:
    with pytest.raises(UserError, match="only knows the classes it was trained on"):
        load_taught(blended.folder, ["circle", "triangle"])


def test_a_look_changes_what_it_says() -> None:
    view = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert changed((view,), AS_IT_IS)[0] is view
    assert torch.equal(changed((view,), Look(mirrored=True))[0], view.flip(-1))
    (moved,) = changed((view,), Look(right=0.2, down=0.25))
    assert torch.equal(moved[..., 1:, 1:], view[..., :-1, :-1])
    assert torch.equal(moved[..., 0, 1:], view[..., 0, :-1])  # the edge is repeated
