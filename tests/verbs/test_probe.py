"""A probe is an ordinary run: it is scored, compared, used for predictions, and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lensmith
from lensmith.config import load_recipe
from lensmith.errors import Stopped, UserError
from lensmith.progress import Advance, Note
from lensmith.runs.predictions import read_predictions
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def options(folder: Path, tiny_folder: Path) -> list[str]:
    return [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]


def test_a_probe_is_a_classifier_like_any_other(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=60, square=60)
    words = options(folder, tiny_folder)
    code, out, err = run("probe", *words, "--run", "a probe", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["accuracy"]["accuracy"] >= 0.9
    assert record["neighbours"]["accuracy"]["accuracy"] >= 0.9
    assert len({row["feature"] for row in record["probe"]["tried"]}) == 8
    chosen = record["probe"]["feature"]
    assert chosen in Path(record["report"]).read_text()

    code, out, err = run("evaluate", "a probe", "--run", "again", "--json")
    assert code == 0, err
    assert json.loads(out)["name"] == "probe"
    assert json.loads(out)["accuracy"] == record["accuracy"]
    assert Path("again/predictions.parquet").read_bytes() == Path("a probe/predictions.parquet").read_bytes()

    code, out, err = run("compare", "a probe", "a probe/neighbours", "--run", "compared")
    assert code == 0, err
    (folder / "circle" / "a circle.jpg").write_bytes((folder / "circle" / "circle 0.jpg").read_bytes())
    for folder_name in ("a probe", "a probe/neighbours"):
        code, out, err = run("predict", "--run", folder_name, folder / "circle" / "a circle.jpg")
        assert code == 0, err
        assert out.split("\t")[1] == "circle"


def test_only_the_named_features_are_tried(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = options(shapes(circle=30, square=30), tiny_folder)
    code, out, err = run("probe", *words, "probe.features=[tower mean]", "--run", "p", "--json")
    assert code == 0, err
    assert {row["feature"] for row in json.loads(out)["probe"]["tried"]} == {"tower mean"}
    code, _, err = run("probe", *words, "probe.features=[tower men]", "--run", "q")
    assert code == 2
    assert "There is no feature 'tower men' (probe.features). There are: tower mean, tower grid, decoder" in err
    assert not Path("q").exists()


def test_a_stopped_probe_resumes(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(None, options(shapes(circle=30, square=30), tiny_folder))
    whole = lensmith.probe(recipe, tmp_path / "whole")

    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "scoring (probe)":
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        lensmith.probe(recipe, tmp_path / "part", stop)
    assert stopped.value.folder == tmp_path / "part"
    found = lensmith.resume(tmp_path / "part")
    assert found["accuracy"] == whole["accuracy"]
    answers = [read_predictions(tmp_path / name / "predictions.parquet") for name in ("whole", "part")]
    assert answers[0] == answers[1]
    with pytest.raises(UserError, match="nothing to resume"):
        lensmith.resume(tmp_path / "part")


def test_unreadable_images_are_left_out_and_counted_as_wrong(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=40, square=40)
    for file in sorted((folder / "circle").iterdir())[:20]:
        file.write_bytes(file.read_bytes()[:-400])
    code, out, err = run("probe", *options(folder, tiny_folder), "--run", "p", "--json")
    assert code == 0, err
    record = json.loads(out)
    unreadable = len(record["evaluation"]["unreadable"])
    assert unreadable > 0
    assert record["accuracy"]["accuracy"] == pytest.approx(1 - unreadable / record["accuracy"]["n"])


def test_one_verb_does_not_resume_the_run_of_another(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = options(shapes(circle=30, square=30), tiny_folder)
    code, _, err = run("evaluate", *words, "--run", "scored")
    assert code == 0, err
    before = {path: path.read_bytes() for path in Path("scored").iterdir() if path.is_file()}
    for verb in ("probe", "ladder", "curve", "sweep", "train"):
        code, _, err = run(verb, "--resume", "scored")
        assert code == 2
        assert "The run scored was started by `lensmith evaluate`" in err
    assert {path: path.read_bytes() for path in Path("scored").iterdir() if path.is_file()} == before


def test_a_class_without_training_images_is_refused(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    words = options(shapes(circle=30, square=30, star=30), tiny_folder)
    for verb in ("probe", "ladder"):
        code, _, err = run(verb, *words, "data.train_limit=2", "--run", "x")
        assert code == 2
        assert "There is no training image of the class" in err
        assert not Path("x").exists()


@pytest.mark.parametrize("verb", ["probe", "ladder", "curve", "suspects"])
def test_several_processes_are_refused(
    shapes: Shapes, tiny_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(verb, *options(shapes(circle=9, square=9), tiny_folder), "--run", "x")
    assert code == 2
    assert f"`lensmith {verb}` runs in one process" in err
    assert not Path("x").exists()
