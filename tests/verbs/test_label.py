"""`lensmith label`: labels by a taught model, an outside one, or both; learned from, and never tested on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensmith.config import DataOptions
from lensmith.data import open_data
from lensmith.learn.batches import soft_labels
from tests.apis.fake_api import FakeApi, running
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running(FakeApi()) as api:
        yield api


def rows_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_an_outside_model_labels_and_another_learns_from_it(
    shapes: Shapes, api: FakeApi, run: Run, tiny_folder: Path
) -> None:
    mine = shapes(circle=40, square=40)
    new = shapes("new ones", (44, 44), circle=30, square=30)
    api.faults = {"refuse": 0.1}
    base = f"model.base=systemone:m@{api.url}"
    code, out, err = run("label", new, base, "--labels", "circle,square", "--run", "labels")
    assert code == 0, err
    rows = rows_of("labels/labels.jsonl")
    assert "read them" in out
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)
    assert {row["labelled_by"] for row in rows} == {base.removeprefix("model.base=")}
    asked = len(api.bodies)
    options = ["train.epochs=1", "train.batch_size=8", f"model.base={tiny_folder}", "model.dtype=float32"]
    code, out, err = run("train", mine, *options, "data.more=labels/labels.jsonl", "--run", "student")
    assert code == 0, err
    record = json.loads(Path("student/record.json").read_text())["data"]
    before = open_data(DataOptions(uri=str(mine)))
    assert record["train"]["n"] == len(before.train) + len(rows)
    assert record["test"]["hash"] == before.test.hash, "only what people labelled is a test"
    assert record["validation"]["hash"] == before.validation.hash
    assert len(api.bodies) == asked
    # A class head learns from the same.
    code, _, err = run("probe", mine, *options[2:], "data.more=labels/labels.jsonl", "--run", "probe")
    assert code == 0, err


def test_probabilities_are_what_is_learned(tmp_path: Path, shapes: Shapes) -> None:
    mine, new = shapes(circle=20, square=20), shapes("new", (44, 44), circle=3)
    path = tmp_path / "labels.jsonl"
    files = sorted(new.rglob("*.jpg"))
    given = [{"circle": 0.9, "square": 0.1}, {"circle": 0.995, "square": 0.005}, None]
    lines = [
        {"image": str(f), "label": "circle" if p else "square", "labelled_by": "m"}
        | ({"probabilities": p} if p else {})
        for f, p in zip(files, given, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train = open_data(DataOptions(uri=str(mine), more=str(path))).train
    of = soft_labels(train, {"circle": 0, "square": 1}, [2.0, 1.0])
    n = len(train)
    assert [(label, round(weight, 9)) for label, weight in of(n - 3)] == [(0, 1.8), (1, 0.2)]
    assert of(n - 2) == [(0, 2.0)]
    assert of(n - 1) == [(1, 1.0)]
    assert {sum(w for _, w in of(i)) for i in range(n - 3)} == {1.0, 2.0}
    alone = open_data(DataOptions(uri=str(path)))
    assert len(alone.test) == 0
    assert "for training only: 3 by m" in " ".join(alone.notes)


def test_an_image_that_a_person_labelled_keeps_its_label_and_its_split(tmp_path: Path, shapes: Shapes) -> None:
    mine = shapes(circle=20, square=20)
    before = open_data(DataOptions(uri=str(mine)))
    path = tmp_path / "labels.jsonl"
    rows = [{"image": str(f), "label": "circle", "labelled_by": "m"} for f in sorted(mine.rglob("*.jpg"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    after = open_data(DataOptions(uri=str(mine), more=[str(path)]))
    assert [s.hash for s in after.splits] == [s.hash for s in before.splits]
    assert "40 images of it that people labelled keep that label" in after.notes[-1]


def test_the_outside_model_is_asked_where_the_taught_one_is_not_sure(
    shapes: Shapes, api: FakeApi, run: Run, tiny_folder: Path
) -> None:
    options = [f"model.base={tiny_folder}", "model.dtype=float32", "data.validation=0.3"]
    assert run("probe", shapes(circle=40, square=40), *options, "--run", "probe")[0] == 0
    new = shapes("new", (44, 44), circle=10, square=10, other=10)
    base = f"model.base=openai:m@{api.url}/v1"
    numbers = {}
    for sure in ("0", "0.999999", "1"):
        code, out, err = run("label", new, "probe", base, "--sure", sure, "--run", f"sure {sure}")
        assert code == 0, err
        rows = rows_of(f"sure {sure}/labels.jsonl")
        numbers[sure] = Counter(row["labelled_by"].partition(":")[0] for row in rows)
        assert len(rows) == 30
    assert numbers["0"]["openai"] == 0
    assert numbers["1"]["openai"] >= numbers["0.999999"]["openai"]
    assert len(api.bodies) == sum(number["openai"] for number in numbers.values())
    code, out, err = run("label", new, "probe", "--run", "local")
    assert (code, "30" in out) == (0, True), err


def test_a_stopped_labelling_goes_on(shapes: Shapes, api: FakeApi, run: Run) -> None:
    api.usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    new = shapes(circle=10, square=10)
    command = ["label", new, f"model.base=openai:m@{api.url}/v1", "api.price={input: 1}", "--labels", "circle,square"]
    code, _, err = run(*command, "api.budget=3", "--run", "labels")
    assert (code, "The budget of $3" in err) == (2, True)
    assert not Path("labels/labels.jsonl").exists()
    code, _, err = run("resume", "labels", "api.budget=1000")
    assert code == 0, err
    assert len(rows_of("labels/labels.jsonl")) == len(api.bodies) == 20
    code, _, err = run("resume", "labels")
    assert (code, "is finished" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new"], "Which model?"),
        (["new", "model.base=openai:m@http://127.0.0.1:9/v1"], "Which classes?"),
        (["new", "model.base=openai:m@http://127.0.0.1:9/v1", "--labels", "cat"], "Which classes?"),
        (["new", "model.base=openai:m@http://127.0.0.1:9/v1", "--labels", "a,b", "--sure", "2"], "from 0 to 1"),
        (["nowhere", "model.base=openai:m@http://127.0.0.1:9/v1", "--labels", "a,b"], "nowhere"),
        (["new", "model.base=openai:gpt-6-luna", "--labels", "a,b"], "OPENAI_API_KEY"),
    ],
)
def test_bad_input(
    words: list[str], sentence: str, shapes: Shapes, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    shapes("new", circle=2)
    code, _, err = run("label", *words, "--run", "labels")
    assert code == 2
    assert sentence in err
    assert not Path("labels").exists()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"label": "", "labelled_by": "m"}, "has no label"),
        ({"label": "dog", "labelled_by": "m"}, "has the label 'dog'"),
        ({"label": "circle", "labelled_by": "m", "probabilities": {"circle": 2}}, "probabilities that are none"),
        ({"label": "circle", "labelled_by": "m", "probabilities": {"square": 1}}, "probabilities that are none"),
    ],
)
def test_a_damaged_file_of_labels(row: dict[str, Any], sentence: str, shapes: Shapes, run: Run, tmp_path: Path) -> None:
    mine, new = shapes(circle=20, square=20), shapes("new", circle=2)
    file = next(new.rglob("*.jpg"))
    (tmp_path / "labels.jsonl").write_text(json.dumps({"image": str(file)} | row) + "\n")
    code, _, err = run("evaluate", mine, "data.more=labels.jsonl")
    assert code == 2
    assert sentence in err
    shutil.rmtree(new)
