"""A run is used from another folder, and an evaluation goes on only with the model that it began with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lensmith
from lensmith.errors import Stopped, UserError
from lensmith.progress import Advance, Note
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long

FAST = ["model.dtype=float32", "train.epochs=1", "train.batch_size=8"]


@pytest.fixture
def trained(run: Run, shapes: Shapes, tiny_folder: Path) -> Path:
    """A run that was started with relative paths."""
    shapes(circle=12, square=12)
    shutil.copytree(tiny_folder, "models/base")
    assert run("train", "my shapes", "model.base=models/base", *FAST, "--run", "runs/t")[0] == 0
    return Path("runs/t")


def test_a_run_is_used_from_another_folder(run: Run, trained: Path, tmp_path: Path) -> None:
    here = run("predict", trained, "my shapes/circle", "--json")[1]
    (tmp_path / "elsewhere" / "models" / "base").mkdir(parents=True)  # another model by the same relative name
    os.chdir(tmp_path / "elsewhere")
    code, there, _ = run("predict", tmp_path / trained, "../my shapes/circle", "--json")
    assert code == 0
    scores = [[row["scores"] for row in json.loads(out)["predictions"]] for out in (here, there)]
    assert scores[0] == scores[1]
    code, _, err = run("evaluate", tmp_path / trained, "--run", "e")
    assert code == 0, err
    shutil.move(tmp_path / "my shapes", tmp_path / "moved")
    assert "No such file or folder" in run("evaluate", tmp_path / trained)[2]
    assert run("evaluate", tmp_path / trained, tmp_path / "moved", "--run", "f")[0] == 0
    shutil.move(tmp_path / "models", tmp_path / "gone")
    code, _, err = run("predict", tmp_path / trained, "../moved/circle")
    assert code == 2
    assert "There is no model folder" in err


def test_the_next_command_names_a_run_as_it_is_typed(run: Run, trained: Path) -> None:
    assert "Next: lensmith predict runs/t new-images" in run("evaluate", trained)[1]


def test_an_evaluation_of_another_model_is_not_continued(trained: Path) -> None:
    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task.startswith("scoring") and event.done >= 2:
            raise KeyboardInterrupt

    recipe = lensmith.load_recipe(trained / "recipe.yaml", ["evaluate.batch_size=1", f"model.adapter={trained}"])
    recipe.data.test = 0.8
    with pytest.raises(Stopped):
        lensmith.evaluate(recipe, Path("e"), stop)
    file = trained / "adapter" / "adapter_model.safetensors"
    kept = file.read_bytes()
    save_file({name: w + torch.ones_like(w) for name, w in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"were started with other weights"):
        lensmith.resume(Path("e"))
    file.write_bytes(kept)
    assert lensmith.resume(Path("e"))["accuracy"]["n"] > 10


def test_an_evaluation_without_its_report_is_resumed(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    words = ["evaluate", shapes(circle=12, square=12), f"model.base={tiny_folder}", "--run", "e"]
    assert run(*words)[0] == 0
    before = Path("e/predictions.parquet").read_bytes()
    Path("e/report.html").unlink()
    code, out, _ = run("resume", "e")
    assert code == 0
    assert "Report: e/report.html" in out
    assert Path("e/report.html").exists()
    assert Path("e/predictions.parquet").read_bytes() == before
    assert "nothing to resume" in run("resume", "e")[2]


def test_a_training_is_resumed_where_its_images_are_now(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "training" and event.done == 2:
            raise KeyboardInterrupt

    shapes(circle=12, square=12)
    recipe = lensmith.load_recipe(None, ["data.uri=my shapes", f"model.base={tiny_folder}", *FAST, "train.epochs=2"])
    with pytest.raises(Stopped):
        lensmith.train(recipe, Path("t"), stop)
    shutil.move("my shapes", "moved")
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    assert "No such file or folder" in run("resume", "../t")[2]
    code, out, err = run("resume", "../t", "data.uri=../moved", "--json")
    assert code == 0, err
    assert json.loads(out)["training"]["finished"]
