"""`lensmith resume RUN` knows what began a run, and resumes it, as `lensmith.resume` does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import lensmith
from lensmith.errors import UserError
from tests.conftest import Run

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
FINISHED = {
    "train-stopped": "result.json",
    "evaluate-stopped": "evaluation.json",
    "curve-stopped": "curve.json",
    "ladder-stopped": "ladder.json",
}


@pytest.mark.parametrize("name", FINISHED)
def test_any_run_is_resumed_by_its_folder_alone(name: str, run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE / name, tmp_path / "a run"))
    code, out, err = run("resume", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == str(folder)
    assert (folder / FINISHED[name]).exists()
    with pytest.raises(UserError, match="is finished: there is nothing to resume"):
        lensmith.resume(folder)


def test_what_may_not_change_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE / "train-stopped", tmp_path / "run"))
    recipe = lensmith.load_recipe(folder / "recipe.yaml", ["tune.rank=3", "train.micro_batch=5"])
    with pytest.raises(UserError, match=r"another recipe: tune.rank was 2 and is now 3\. Change it back"):
        lensmith.resume(folder, recipe=recipe)
    folder = Path(shutil.copytree(HERE / "evaluate-stopped", tmp_path / "other"))
    recipe = lensmith.load_recipe(folder / "recipe.yaml", ["evaluate.batch_size=5"])
    with pytest.raises(UserError, match=r"evaluate\.batch_size was 4 and is now 5"):
        lensmith.resume(folder, recipe=recipe)


def test_a_run_within_another_is_not_resumed_by_itself(run: Run) -> None:
    code, _, err = run("resume", HERE / "ladder-stopped" / "neighbours")
    assert code == 2
    assert "can't be resumed by itself" in err
    assert "not a run folder" in run("resume", HERE)[2]
