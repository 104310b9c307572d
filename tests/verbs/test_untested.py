"""With one image a class, nothing is left to test on: a model is taught all the same, and no figure is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


@pytest.mark.parametrize("verb", ["train", "probe"])
def test_one_image_a_class_is_taught_and_not_tested(shapes: Shapes, tiny_folder: Path, run: Run, verb: str) -> None:
    folder = shapes(circle=1, square=1, moss=1)
    words = [folder, f"model.base={tiny_folder}", "model.dtype=float32", "train.epochs=1"]
    code, out, err = run(verb, *words, "--run", "it")
    assert code == 0, err
    assert "There are no test images, so this can't show how good the model is." in err
    assert "The model is taught, but not tested" in out
    assert "Next: lensmith evaluate it other-labelled-images" in out
    record = json.loads(Path("it/result.json").read_text())
    assert [record[key] for key in ("accuracy", "evaluation", "report")] == [None] * 3
    assert not Path("it/report.html").exists()
    code, _, err = run("resume", "it")
    assert code == 2
    assert "is finished" in err
    code, _, err = run("report", "it")
    assert code == 2
    assert "has no page, since there were no test images" in err
    code, out, err = run("predict", "it", folder)
    assert code == 0, err
    assert len(out.splitlines()) == 3
    shapes("more/test", circle=3, square=3, moss=3)
    code, out, err = run("evaluate", "it", "more", "--run", "scored", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"]["n"] == 9
