"""A curve measures nested subsets, resumes after a stop, and reports when there are too few images."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lensmith
from lensmith.config import Recipe, load_recipe
from lensmith.data import ImageDataset, open_data
from lensmith.errors import Stopped, UserError
from lensmith.measure import pace
from lensmith.progress import Advance, Note
from lensmith.verbs.compare.curve import sizes_of
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def options(folder: Path, tiny_folder: Path) -> list[str]:
    words = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    return [*words, "train.epochs=1", "train.batch_size=8", "tune.rank=2"]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "points.jsonl").read_text().splitlines()]


def test_a_curve_is_measured_on_the_test_images(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=80, square=80)
    words = [*options(folder, tiny_folder), "curve.methods=[neighbours, probe]", "curve.seeds=2", "curve.ahead=3"]
    code, out, err = run("curve", *words, "--run", "a curve", "--json")
    assert code == 0, err
    record = json.loads(out)
    data = json.loads(Path("a curve/record.json").read_text())["data"]
    n = data["train"]["n"]
    for method in ("neighbours", "probe"):
        found = record["curves"][method]
        sizes = [point["size"] for point in found["points"]]
        assert (sizes[0], sizes[-1]) == (4, n)
        assert [len(point["accuracies"]) for point in found["points"]] == [2] * (len(sizes) - 1) + [1]
        assert found["forecast"]["images"] == pytest.approx(3 * n)
        assert found["check"]["measured"] == pytest.approx(found["points"][-1]["mean"])
        assert found["points"][-1]["mean"] >= 0.9
    assert {row["n"] for row in rows(Path("a curve"))} == {data["test"]["n"]}
    page = Path(record["report"]).read_text()
    assert "neighbours" in page
    assert f"{n:,}" in page


def test_a_curve_of_trainings_resumes_after_a_stop(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*options(shapes(circle=50, square=50), tiny_folder), "curve.methods=[lora]", "curve.seeds=1"]
    recipe = load_recipe(None, [*words, "curve.sizes=[8, 16, 32, 48]"])

    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "training" and event.total == 4 and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        lensmith.curve(recipe, tmp_path / "part", stop)
    assert stopped.value.folder == tmp_path / "part"
    assert [row["size"] for row in rows(tmp_path / "part")] == [8, 16]
    told: list[Any] = []
    with monkeypatch.context() as patch:  # the machine is measured for what a first start says
        patch.setattr(pace, "measure", None)
        lensmith.resume(tmp_path / "part", told.append)
    again = [(e.done, e.total) for e in told if isinstance(e, Advance) and e.task == "training"]
    assert again[0] == (3, 4)  # in the middle of the third
    whole = lensmith.curve(recipe, tmp_path / "whole")
    kept = [[{**row, "seconds": 0} for row in rows(tmp_path / name)] for name in ("part", "whole")]
    assert kept[0] == kept[1]
    assert not list((tmp_path / "whole").glob("lora-*"))  # models of a curve are not kept
    assert len(whole["curves"]["lora"]["points"]) == 4
    with pytest.raises(UserError, match="nothing to resume"):
        lensmith.resume(tmp_path / "part")


def test_subsets_of_the_same_seed_are_nested(dataset: ImageDataset) -> None:
    for seed in (0, 1, 7):
        small, large = (set(dataset.train.take(size, seed).ids) for size in (8, 20))
        assert small < large
    assert set(dataset.train.take(8, 1).ids) != set(dataset.train.take(8, 2).ids)
    for size in (2, 8):
        assert set(dataset.train.take(size, 5).labels) == {"circle", "square"}


@pytest.fixture
def dataset(shapes: Shapes) -> ImageDataset:
    return open_data(load_recipe(None, [f"data.uri={shapes(circle=40, square=40)}"]).data)


def test_sizes_grow_geometrically_up_to_all_images(dataset: ImageDataset) -> None:
    sizes, n = sizes_of(Recipe(), dataset), len(dataset.train)
    assert sizes[0] == 4
    assert sizes[-1] == n
    ratios = [b / a for a, b in pairwise(sizes)]
    assert max(ratios) / min(ratios) < 1.3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("[8, 16, 32, 999]", "curve.sizes has 999, but there are only"),
        ("[1, 8, 16, 32]", "curve.sizes has 1, but there are 2 classes"),
        ("[30, 31, 32, 33]", "curve.sizes has 30, 31, 32, 33. Use others."),
        ("[8, 8, 16, 16]", "needs 4 sizes"),
    ],
)
def test_unsuitable_sizes_are_refused(shapes: Shapes, tiny_folder: Path, run: Run, sizes: str, message: str) -> None:
    words = options(shapes(circle=40, square=40), tiny_folder)
    code, _, err = run("curve", *words, f"curve.sizes={sizes}", "--run", "x")
    assert code == 2
    assert message in err
    assert not Path("x").exists()


def test_too_few_images_are_reported_with_the_number_needed(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    code, _, err = run("curve", *options(shapes(circle=4, square=4), tiny_folder), "--run", "x")
    assert code == 2
    assert "A learning curve needs 4 sizes" in err
    assert "Add images, up to at least 8." in err
    assert not Path("x").exists()
