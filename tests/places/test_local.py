"""Places are found by name; the local one calls the verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensmith import cli
from lensmith.config import Recipe
from lensmith.errors import UserError
from lensmith.jobs.job import Job
from lensmith.places import place, place_of, places
from lensmith.progress import silent


def test_places_are_the_modules_of_the_package() -> None:
    assert places() == ["local", "modal", "ray"]
    with pytest.raises(UserError, match=r"no place 'modla'.*Did you mean 'modal'.*local, modal"):
        place("modla")


def test_jobs_call_the_verbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for verb, group in (("train", "teach"), ("evaluate", "see")):
        function = lambda *given, verb=verb, **more: {"verb": verb, "given": given} | more  # noqa: E731
        monkeypatch.setattr(f"lensmith.verbs.{group}.{verb}.{verb}", function)
    recipe, here = Recipe(), place("local")
    assert here.run(Job("train", recipe, tmp_path), silent) == {"verb": "train", "given": (recipe, tmp_path, silent)}
    scored = here.run(Job("evaluate", recipe, tmp_path, options={"split": "train"}), silent)
    assert scored == {"verb": "evaluate", "given": (recipe, tmp_path, silent), "split": "train"}
    (tmp_path / "recipe.yaml").write_text("name: mine")
    resumed = here.run(Job("train", None, tmp_path, resume=True), silent)
    assert resumed == {"verb": "train", "given": (Recipe(name="mine"), tmp_path, silent), "resume": True}
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    with pytest.raises(UserError, match="nothing to resume"):
        here.run(Job("evaluate", None, tmp_path, resume=True), silent)


def test_remote_options_are_refused_for_local_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--detach", "--run", str(tmp_path / "r")]) == 2
    assert "can't be detached" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    with pytest.raises(UserError, match="has no remote job"):
        place_of(tmp_path)
    (tmp_path / "place.json").write_text(json.dumps({"place": "modal", "state": "running"}))
    with pytest.raises(UserError, match=r"is still running on a remote machine.*lensmith attach"):
        place("local").run(Job("train", None, tmp_path, resume=True), silent)
