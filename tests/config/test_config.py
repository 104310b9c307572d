"""Recipes: unknown keys and wrong types are errors that name the key; shipped recipes can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmith.config import SHIPPED, Recipe, help_text, known_keys, load_recipe, recipe_from
from lensmith.errors import UserError


def test_the_file_changes_the_defaults_and_the_command_line_changes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my recipe.yaml"
    path.write_text("tune: {rank: 4, alpha: 8}\ndata: {uri: 'folder:x'}\n")
    recipe = load_recipe(path, ["tune.rank=32", "data.class_names=[a, b]", "question.system="])
    assert (recipe.tune.rank, recipe.tune.alpha, recipe.data.uri) == (32, 8, "folder:x")
    assert recipe.data.class_names == ["a", "b"]
    assert recipe.train == Recipe().train


def test_a_resolved_recipe_reads_back_the_same() -> None:
    recipe = load_recipe(None, ["train.epochs=2.5", "data.train_limit=0.1"])
    assert recipe_from(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tune": {"ranks": 3}}, r"'tune\.ranks'.*'tune\.rank'"),
        ({"tunes": {"rank": 3}}, "'tunes'"),
        ({"tune": {"rank": "many"}}, r"tune\.rank.*'many'.*integer"),
        ({"tune": {"rank": 0}}, r"tune\.rank.*greater than 0"),
        ({"tune": 3}, "Option tune "),
        ({"data": {"unreadable": "ignore"}}, "'skip' or 'stop'"),
        ({"augment": {"flip": "perhaps"}}, r"augment\.flip"),
        ({"seed": -3}, "greater than or equal to 0"),
        ({"tune": {"targets": []}}, r"tune\.targets.*at least 1 item"),
        ({"tune": {"rates": {"eye": 0.1}}}, "'language_model'"),
        ({"train": {"epochs": float("inf")}}, r"train\.epochs.*finite"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        recipe_from(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [("tune.rnk=3", r"Did you mean 'tune\.rank'"), ("rank", "section.key=value"), ("tune=3", "no option 'tune'")],
)
def test_mistaken_overrides_are_named(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe(None, [override])


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe .*demo-digits, demo-fashion"):
        load_recipe(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match="must contain sections"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("tune: {rank: [")
    with pytest.raises(UserError, match="isn't valid YAML"):
        load_recipe(tmp_path / "broken.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="isn't text in UTF-8"):
        load_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_read_and_states_its_command(path: Path) -> None:
    load_recipe(path)
    assert "lensmith " in path.read_text().partition("name:")[0]


def test_every_option_is_explained() -> None:
    text = help_text()
    for key in known_keys():
        assert f"  {key} = " in text, f"{key} has no docstring beneath it"
