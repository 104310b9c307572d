"""Old runs can still be evaluated, compared, used for predictions, and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lensmith
from lensmith.data import open_dataset
from tests.conftest import Run

pytestmark = pytest.mark.long

HERE = Path(__file__).parent


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with copies of all old runs."""
    return Path(shutil.copytree(HERE, tmp_path / "old", ignore=shutil.ignore_patterns("*.py", "__pycache__")))


def record(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


@pytest.mark.parametrize("name", ["train", "probe", "probe/neighbours"])
def test_a_trained_model_scores_and_predicts_as_before(old: Path, run: Run, tmp_path: Path, name: str) -> None:
    code, out, err = run("evaluate", old / name, "data.test_limit=20", "--run", "again", "--json")
    assert code == 0, err
    found, then = json.loads(out), record(old / name, "evaluation.json")
    assert found["accuracy"] == then["accuracy"]
    assert found["data"] == then["data"]
    assert found["confusion"] == then["confusion"]

    test = open_dataset("demo:fashion").test
    test.image(0).save("bag.png")
    code, out, err = run("predict", "bag.png", "--run", old / name, "--json")
    assert code == 0, err
    assert json.loads(out)["predictions"][0]["predicted"] in then["labels"]


def test_finished_runs_are_compared(old: Path, tmp_path: Path) -> None:
    found = lensmith.compare([old / "evaluate", old / "train", old / "probe"], tmp_path / "compared")
    for name in ("evaluate", "train", "probe"):
        assert found["accuracies"][name] == record(old / name, "evaluation.json")["accuracy"]
    assert all(c["n"] == 20 for c in found["comparisons"])
    assert "can't be opened" not in Path(found["report"]).read_text()


def test_a_stopped_training_ends_like_one_without_a_stop(old: Path, run: Run) -> None:
    code, out, err = run("train", "--resume", old / "train-stopped", "--json")
    assert code == 0, err
    assert json.loads(out)["training"]["finished"]

    def losses(name: str) -> list[float]:
        rows = map(json.loads, (old / name / "metrics.jsonl").read_text().splitlines())
        return [row["loss"] for row in rows if "loss" in row]

    assert losses("train-stopped") == pytest.approx(losses("train"), rel=0.01)
    assert len(losses("train")) == 12


def test_a_stopped_evaluation_keeps_its_predictions(old: Path, run: Run) -> None:
    first = (old / "evaluate-stopped" / "predictions.unfinished" / "000000000.parquet").stat().st_size
    assert first > 0
    code, out, err = run("evaluate", "--resume", old / "evaluate-stopped", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"]["n"] == 40
    assert "16 of 40" in err or "scoring" in err


def test_a_stopped_ladder_makes_only_what_is_missing(old: Path, run: Run) -> None:
    head = old / "ladder-stopped" / "neighbours" / "adapter" / "head.safetensors"
    made = head.stat().st_mtime_ns
    code, out, err = run("ladder", "--resume", old / "ladder-stopped", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [row["name"] for row in found["methods"]] == ["zero-shot", "neighbours", "probe"]
    assert all(row["dollars"] > 0 for row in found["methods"] if row["name"] != "zero-shot")
    assert head.stat().st_mtime_ns == made


def test_a_stopped_curve_keeps_its_points(old: Path, run: Run) -> None:
    kept = (old / "curve-stopped" / "points.jsonl").read_text()
    code, out, err = run("curve", "--resume", old / "curve-stopped", "--json")
    assert code == 0, err
    assert [p["size"] for p in json.loads(out)["curves"]["neighbours"]["points"]] == [15, 25, 40, 60]
    assert (old / "curve-stopped" / "points.jsonl").read_text().startswith(kept)


def test_a_stopped_sweep_keeps_its_trials(old: Path, run: Run) -> None:
    code, out, err = run("sweep", "--resume", old / "sweep-stopped", "--json")
    assert code == 0, err
    trials = json.loads(out)["trials"]
    assert [t["number"] for t in trials] == [1, 2]
    assert trials[0]["state"] == "finished"
    assert "Trial 1 " not in err, "the first was trained before the stop"


def test_former_option_names_are_still_accepted(run: Run, tmp_path: Path) -> None:
    words = ["question.spoken={bag: handbag}", "ladder.hour=2", "ladder.label=0.1", "ladder.rungs=[zero-shot]"]
    words += ["data.test_limit=4", "evaluate.calibration=none", "curve.rungs=[probe]"]
    code, _, err = run("evaluate", *words, "--run", "r", "--json")
    assert code == 0, err
    assert "handbag" in Path("r/question.json").read_text()
