"""A taught model is scored as people use it: among all classes that it was taught."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long

FAST = ["model.dtype=float32", "train.epochs=1", "train.batch_size=8", "train.objective=labels"]


@pytest.fixture
def taught(run: Run, shapes: Shapes, tiny_folder: Path) -> Path:
    """A run that was taught three classes, not well."""
    words = ["train", shapes(circle=15, moss=15, grey=15), f"model.base={tiny_folder}", *FAST, "--run", "taught"]
    assert run(*words)[0] == 0
    return Path("taught")


def test_a_taught_model_answers_among_the_classes_it_was_taught(run: Run, shapes: Shapes, taught: Path) -> None:
    _, out, _ = run("predict", taught, "my shapes", "--json")
    usual = Counter(row["predicted"] for row in json.loads(out)["predictions"]).most_common(1)[0][0]
    shapes("new/test", **{label: 6 for label in ("circle", "grey", "moss") if label != usual})
    code, out, _ = run("evaluate", taught, "new", "--run", "all", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["labels"] == ["circle", "grey", "moss"]
    assert record["accuracy"]["n"] == 12
    answers = Counter(pq.read_table("all/predictions.parquet")["predicted"].to_pylist())
    assert usual in answers, "the class that these images lack"
    code, out, _ = run("predict", taught, "new/test", "--json")
    assert code == 0
    assert Counter(row["predicted"] for row in json.loads(out)["predictions"]) == answers, "as people use it"

    code, out, _ = run("evaluate", taught, "new", "evaluate.labels=data", "--run", "narrowed", "--json")
    assert code == 0
    assert usual not in json.loads(out)["labels"]
    assert json.loads(out)["accuracy"]["accuracy"] > record["accuracy"]["accuracy"], "an easier question"


def test_images_of_a_class_that_it_never_learned_are_counted_apart(run: Run, shapes: Shapes, taught: Path) -> None:
    shapes("new/test", circle=4, moss=4, owl=3, fox=2)
    code, out, err = run("evaluate", taught, "new", "--run", "apart", "--json")
    assert code == 0
    note = "Left out: 5 test images of classes that the model never learned (fox, owl)."
    assert note in err
    assert note in json.loads(out)["notes"]
    assert json.loads(out)["accuracy"]["n"] == 8
    assert note in Path("apart/report.html").read_text()
    shapes("others/test", owl=3, fox=2)
    code, _, err = run("evaluate", taught, "others")
    assert code == 2
    assert "None of the images of others is of a class that the model was taught." in err
