"""`lensmith blend`: finished runs become one classifier; runs that don't fit together are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import lensmith
from lensmith.config import load_recipe
from lensmith.runs.predictions import read_scores
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long
LABELS = ["circle", "square"]


@pytest.fixture
def runs(shapes: Shapes, tiny_folder: Path, run: Run) -> list[str]:
    """Options, after a probe and a training on the same images have been made in `my probe` and `lora`."""
    words = [f"data.uri={shapes(circle=60, square=60)}", f"model.base={tiny_folder}", "model.dtype=float32"]
    words += ["model.device=cpu", "data.validation=0.3"]
    assert run("probe", *words, "--run", "my probe")[0] == 0
    assert run("train", *words, "train.epochs=1", "tune.rank=2", "--run", "lora")[0] == 0
    return words


def test_a_blend_of_runs_is_the_weighted_mean_of_their_answers(runs: list[str], run: Run) -> None:
    code, out, err = run("blend", "my probe", "lora", "--run", "both", "--json")
    assert code == 0, err
    record = json.loads(out)
    parts = {p["name"]: p["weight"] for p in json.loads(Path("both/adapter/blend.json").read_text())["parts"]}
    assert set(parts) <= {"my probe", "lora"}
    assert sum(parts.values()) == pytest.approx(1)
    assert "validation images: " in record["weights"]
    total = 0
    for name, weight in parts.items():
        scores = read_scores(Path(name) / "predictions.parquet", LABELS)
        known = json.loads((Path(name) / "calibration.json").read_text())["calibration"]
        scores = (scores - np.array(known["offsets"] or [0, 0])) / known["temperature"]
        total = total + weight * (scores - np.log(np.exp(scores).sum(1, keepdims=True)))
    found = read_scores(Path("both/predictions.parquet"), LABELS)
    expected = total - np.log(np.exp(total).sum(1, keepdims=True))
    assert np.abs(found - expected).max() < 1e-3
    assert record["accuracy"]["n"] == len(found)
    assert Path(record["report"]).exists()
    code, out, err = run("evaluate", "both", "--run", "again", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == record["accuracy"]
    shutil.rmtree("lora")  # a blend has all that it needs
    assert run("predict", "both", runs[0].removeprefix("data.uri="))[0] == 0


def test_a_stopped_blend_is_resumed(runs: list[str], run: Run) -> None:
    whole = lensmith.blend(load_recipe(None, [*runs, "blend.of=[my probe, lora]"]), Path("both"))
    for name in ("result.json", "evaluation.json", "predictions.parquet"):
        (Path("both") / name).unlink()
    again = lensmith.resume(Path("both"))
    assert again["accuracy"] == whole["accuracy"]
    assert again["weights"] == whole["weights"]


def test_runs_that_do_not_fit_together_are_refused(runs: list[str], run: Run, shapes: Shapes) -> None:
    for words, expected in [
        (["my probe"], "A blend is made of two or more runs"),
        (["my probe", "my probe"], "is named twice"),
        (["my probe", "nowhere"], "nowhere"),
    ]:
        code, _, err = run("blend", *words, "--run", "x")
        assert code == 2, words
        assert expected in err
        assert not Path("x").exists()
    task = Path("lora/adapter/lensmith.json")
    known = json.loads(task.read_text())
    for change, expected in [
        ({"labels": ["square", "circle"]}, "has other labels than"),
        ({"question": known["question"] | {"answers": "codes"}}, "has another question than"),
        ({"base_weights": "0" * 16}, "has a base model with other weights than"),
    ]:
        task.write_text(json.dumps(known | change))
        code, _, err = run("blend", "my probe", "lora", "--run", "x")
        assert code == 2
        assert expected in err
        assert not Path("x").exists()
    task.write_text(json.dumps(known))
    other = shapes("others", circle=70, square=70)
    base = [word for word in runs if not word.startswith("data.uri")]
    assert run("probe", f"data.uri={other}", *base, "--run", "elsewhere")[0] == 0
    code, _, err = run("blend", "my probe", "elsewhere", "--run", "x")
    assert code == 2
    assert "was taught beside other validation images" in err
    assert run("evaluate", *runs, "--run", "asked")[0] == 0
    code, _, err = run("blend", "my probe", "asked", "--run", "x")
    assert code == 2
    assert "has no taught model to blend" in err
    assert run("blend", "my probe", "lora", "--run", "both")[0] == 0
    code, _, err = run("blend", "my probe", "both", "--run", "x")
    assert code == 2
    assert "is a blend itself" in err
    code, _, err = run("ladder", *runs, "blend.of=[lora]", "ladder.methods=[blend]", "--run", "x")
    assert code == 2
    assert "Use `lensmith blend`" in err
