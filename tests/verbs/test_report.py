"""A page that was lost is made anew from the run's folder, the same to the byte; nothing else of the run changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def options(folder: Path, tiny_folder: Path) -> list[str]:
    words = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    return [*words, "train.epochs=1", "train.batch_size=8", "tune.rank=2", "train.objective=labels"]


MORE = {
    "evaluate": [],
    "train": [],
    "probe": [],
    "ladder": ["ladder.methods=[zero-shot, neighbours]", "data.validation=0.3"],
    "curve": ["curve.methods=[neighbours]", "curve.seeds=2"],
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("verb", MORE)
def test_a_lost_page_is_made_anew(shapes: Shapes, tiny_folder: Path, run: Run, verb: str) -> None:
    folder = shapes(circle=40, square=40)
    (folder / "circle" / "bad.jpg").write_bytes(b"bad")
    code, _, err = run(verb, *options(folder, tiny_folder), *MORE[verb], "--run", "it")
    assert code == 0, err
    before = contents(Path("it"))
    Path("it/report.html").unlink()
    code, out, err = run("report", "it")
    assert code == 0, err
    assert out == "Report: it/report.html\n"
    assert contents(Path("it")) == before


def test_a_page_of_other_images_is_refused(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=20, square=20)
    assert run("evaluate", *options(folder, tiny_folder), "--run", "it")[0] == 0
    page = Path("it/report.html").read_bytes()
    shapes(circle=30, square=20)
    code, _, err = run("report", "it")
    assert code == 2
    assert "images of" in err
    assert "have changed since the run it was started" in err
    assert Path("it/report.html").read_bytes() == page


def test_what_has_no_page_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run("report", "empty")
    assert code == 2
    assert "empty is not a run folder" in err
    (tmp_path / "empty" / "recipe.yaml").write_text("")
    (tmp_path / "empty" / "record.json").write_text('{"verb": "curve"}')
    code, _, err = run("report", "empty")
    assert code == 2
    assert "isn't finished" in err
