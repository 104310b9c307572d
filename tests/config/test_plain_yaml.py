"""Text stays text, whatever YAML would make of it; and what a recipe can't contain is refused in a sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmith.config import Recipe, flat, load_recipe, written
from lensmith.errors import UserError

ODD = [
    *("photos #2", "2024", "no", "null", "~", "1e5", "2024-01-01", "0x1F", "012", "12:30", "true", ".5", "-", "1_000"),
    *(
        "Lot #7: which animal?",
        "a: b",
        "[x",
        "{y",
        "'",
        '"',
        "*x",
        "&x",
        "!x",
        "%",
        "@x",
        "`",
        "> x",
        "| x",
        " x ",
        "\t",
    ),
    *("x" * 300, "zwei\nZeilen", "猫", "\\d", "$HOME", "=", "a=b"),
]


@pytest.mark.parametrize("text", ODD)
def test_text_on_the_command_line_is_taken_as_typed(text: str) -> None:
    recipe = load_recipe(None, [f"data.uri={text}", f"question.text={text} {{labels}}", f"name={text}"])
    assert (recipe.data.uri, recipe.question.text, recipe.name) == (text, f"{text} {{labels}}", text)


@pytest.mark.parametrize(
    "text", ["photos #2", "2024", "2024-01-01", "no", "1e5", "12:30", "012", "1_000", "yes", "0x1F"]
)
def test_text_without_quotes_in_a_recipe_is_taken_as_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    word = text.partition(" #")[0]
    path.write_text(f"data:\n  uri: {word}\n  corrections: {word}\n  class_names: [{word}, 'b', {word}x]\n")
    recipe = load_recipe(path)
    assert (recipe.data.uri, recipe.data.corrections) == (word, word)
    assert recipe.data.class_names == [word, "b", f"{word}x"]


def test_class_names_may_look_like_anything() -> None:
    assert load_recipe(None, ["data.class_names=[yes, no, 0, null, 1.0, on]"]).data.class_names == [
        *("yes", "no", "0", "null", "1.0", "on")
    ]
    names = load_recipe(None, ["question.names={n01: [goldfish, 007], 2: no}"]).question.names
    assert names == {"n01": ["goldfish", "007"], "2": "no"}
    assert load_recipe(None, ["data.splits={train: 0, test: [1, yes]}"]).data.splits == {
        "train": "0",
        "test": ["1", "yes"],
    }


@pytest.mark.parametrize(("text", "value"), [("null", None), ("", ""), ("./null", "./null"), ("None", "None")])
def test_nothing_is_written_as_null(text: str, value: str | None) -> None:
    assert load_recipe(None, [f"data.corrections={text}"]).data.corrections == value


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("train.learning_rate=1e-4", 1e-4),
        ("train.learning_rate=2.", 2.0),
        ("train.batch_size=1e2", 100),
        ("train.batch_size=0x10", 16),
        ("train.batch_size=0o20", 16),
        ("train.batch_size=020", 20),
        ("train.micro_batch=null", None),
        ("train.cache_features=True", True),
        ("train.epochs=0.5", 0.5),
        ("data.train_limit=1000", 1000),
    ],
)
def test_numbers_switches_and_nothing_follow_yaml_1_2(option: str, value: Any) -> None:
    key = option.partition("=")[0]
    assert flat(load_recipe(None, [option]))[key] == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {uri: a}\ndata: {uri: b}\n", "gives 'data' twice, again in line 2"),
        ("data:\n  uri: a\n  test: 0.1\n  uri: b\n", "gives 'uri' twice, again in line 4"),
        ("train:\n  learning_rate: 0,002\n", r"train\.learning_rate is 0,002, with a decimal comma\. Write 0\.002"),
        ("train:\n  learning_rate: .nan\n", "learning_rate"),
        ("train:\n  learning_rate: .inf\n", "learning_rate"),
        ("data: !!python/object/apply:os.system [echo]\n", "has the tag .*line 1. Remove it"),
        ("data:\n  uri: !!binary aGk=\n", "has the tag"),
        ("a: &x [1]\nb: *x\n", "refers to another part of itself in line 1"),
        ("data: {uri: 'a'\n", "isn't valid YAML"),
        ("- a\n- b\n", "must contain sections"),
        ("data: {uri: a}\n---\ndata: {uri: b}\n", "several documents"),
        ("[a, b]: c\n", "a key that isn't text in line 1"),
        ('data:\n  uri: "\\UFFFFFFFF"\n', "isn't valid YAML"),
        ("[" * 100_000, "nested too deeply in line 1|isn't valid YAML"),
        ("\0", "isn't valid YAML"),
        ("data:\n" * 200_000, "too large"),
    ],
)
def test_what_a_recipe_cannot_contain_is_refused_quickly(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    clock = time.perf_counter()
    with pytest.raises(UserError, match=says):
        load_recipe(path)
    assert time.perf_counter() - clock < 20


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="refers to another part"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfed\0a\0t\0a\0", b"\x89PNG\r\n\x1a\n\xff"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(UserError, match="isn't text in UTF-8"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        load_recipe(tmp_path)
    with pytest.raises(UserError, match="can't be read: File name too long"):
        load_recipe(f"{'x' * 300}.yaml")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts, st.none() | texts, st.lists(texts, min_size=2, max_size=3, unique=True), st.floats(1e-9, 1000))
def test_any_recipe_is_read_as_it_was_written(
    tmp_path: Path, uri: str, text: str, system: str | None, names: list[str], rate: float
) -> None:
    recipe = Recipe()
    recipe.data.uri, recipe.question.text, recipe.question.system = uri, text, system
    recipe.data.class_names, recipe.question.names = names, {names[0]: names[1], names[1]: names}
    recipe.train.learning_rate = rate
    path = tmp_path / "recipe.yaml"
    path.write_text(written(recipe.to_dict()), encoding="utf-8", newline="")
    assert load_recipe(path) == recipe
