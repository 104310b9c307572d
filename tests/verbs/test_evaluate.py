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
    assert json.loads(out)["data"]["left_out"] == 5
    more = "5 more images are of a class that the model never learned, so that no answer could be right: with them, "
    assert more in Path("apart/report.html").read_text()
    code, out, _ = run("evaluate", taught, "new", "--run", "again")
    assert more in " ".join(out.split())
    assert run("evaluate", "new", "--run", "before")[0] == 0
    code, _, err = run("compare", "before", "apart")
    assert code == 2
    assert "apart left out 5 images of classes that it never learned, and before scored them." in err
    assert "evaluate.labels=data" in err
    assert run("compare", "apart", "again")[0] == 0

    shapes("others/test", owl=3, fox=2)
    code, _, err = run("evaluate", taught, "others")
    assert code == 2
    assert "None of the images of others is of a class that the model was taught." in err
    shapes("others/validation", moss=3)
    code, _, err = run("evaluate", taught, "others")
    assert code == 2
    assert "others has no test images of a class that the model was taught." in err


def test_a_model_asked_otherwise_than_it_was_taught_is_said_so(run: Run, shapes: Shapes, taught: Path) -> None:
    folder = shapes("new/test", circle=3, grey=3)
    said = "The model was taught with another question than it is asked here: question.text differs."
    assert said not in run("evaluate", taught, folder)[2]
    code, out, _ = run("evaluate", taught, folder, "question.text=Which? {labels}", "--json")
    assert code == 0
    assert said in json.loads(out)["notes"]


def test_names_of_classes_that_are_not_asked_for_are_ignored(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    names = "question.names={circle: [disc], moss: [green]}"
    words = ["train", shapes(circle=9, moss=9, grey=9), f"model.base={tiny_folder}", *FAST, names, "--run", "named"]
    assert run(*words)[0] == 0
    shapes("new/test", circle=3, grey=3)
    code, out, _ = run("evaluate", "named", "new", "evaluate.labels=data", "--json")
    assert code == 0
    assert json.loads(out)["labels"] == ["circle", "grey"]


def test_one_image_and_only_unreadable_images_have_a_result(run: Run, shapes: Shapes, taught: Path) -> None:
    shapes("one/test", moss=1)
    code, out, err = run("evaluate", taught, "one", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"]["n"] == 1
    assert "can't be tested" not in err
    code, _, err = run("evaluate", taught, "one", "evaluate.labels=data")
    assert code == 2
    assert "are of the class 'moss': with nothing else to choose from, every answer would be right." in err
    shapes("damaged/test", moss=2, grey=1)
    for path in Path("damaged").rglob("*.jpg"):
        path.write_bytes(b"not an image")
    code, out, _ = run("evaluate", taught, "damaged", "--run", "unread", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["accuracy"] == {"accuracy": 0.0, "low": 0.0, "high": pytest.approx(0.5615, abs=1e-4), "n": 3}
    assert len(record["unreadable"]) == 3
    assert "could not be read" in Path("unread/report.html").read_text()
    code, _, err = run("evaluate", taught, "damaged", "data.unreadable=stop")
    assert code == 2
