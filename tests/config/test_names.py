"""Names of options, wherever they are written down, are names of options; old ones are read, with one note."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lensmith.config import RENAMED, OldName, help_text, known_keys, load_recipe, recipe_from
from lensmith.errors import UserError
from lensmith.runs.folder import ANYWHERE, SAME_TRAINING
from lensmith.search.trials import FIXED, SECTIONS
from tests.conftest import Run


def test_lists_of_options_name_options() -> None:
    assert {*ANYWHERE, *SAME_TRAINING, *FIXED, *RENAMED.values()} <= set(known_keys())
    assert {key.partition(".")[0] for key in known_keys()} >= set(SECTIONS)
    assert not RENAMED.keys() & set(known_keys())


def test_an_old_name_is_read_with_one_note(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("question: {spoken: {bag: handbag}}\nladder: {hour: 2, rungs: [probe]}\n")
    with pytest.warns(OldName) as noted:
        recipe = load_recipe(file, ["question.spoken={bag: purse}", "curve.rungs=[neighbours]"])
    assert sorted(str(note.message) for note in noted) == [
        "curve.rungs is now called curve.methods.",
        "ladder.hour is now called ladder.hourly_cost.",
        "ladder.rungs is now called ladder.methods.",
        "question.spoken is now called question.names.",
    ]
    assert recipe.question.names == {"bag": "purse"}
    assert (recipe.ladder.hourly_cost, recipe.ladder.methods, recipe.curve.methods) == (2, ["probe"], ["neighbours"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_recipe(file, quiet=True).ladder.hourly_cost == 2
    swept = recipe_from({"sweep": {"over": {"question.spoken": [{}, {"bag": "purse"}]}}})
    assert list(swept.sweep.over) == ["question.names"]

    words = ["demo-digits", "data.test_limit=2", "evaluate.calibration=none", "ladder.hour=2"]
    code, out, err = run("evaluate", *words, "--run", "r")
    assert code == 0
    assert err.count("Note: ladder.hour is now called ladder.hourly_cost.") == 1
    assert "is now called" not in out
    assert "is now called" not in run("evaluate", "r", "--run", "again")[2], "a run's own recipe is nobody's typing"


def test_every_option_is_explained() -> None:
    text = help_text()
    for key in known_keys():
        explained = text.partition(f"\n  {key} = ")[2].splitlines()
        assert len(explained) > 1, key
        assert explained[1].strip(), key


def test_options_that_moved_to_another_section_keep_their_former_names() -> None:
    with pytest.warns(OldName, match=r"place\.gpu is now called modal\.gpu"):
        assert load_recipe(None, ["place.gpu=T4"]).modal.gpu == "T4"
    old = {"place": {"gpu": "T4", "hours": 2.0, "retries": 1, "secrets": ["x"]}, "modal": {}}
    recipe = recipe_from(old)
    assert (recipe.modal.gpu, recipe.modal.hours, recipe.modal.retries, recipe.modal.secrets) == ("T4", 2.0, 1, ["x"])
    assert old["place"], "what was given isn't changed"
    with pytest.raises(UserError, match="place"):
        recipe_from({"place": {"gpus": 2}})
