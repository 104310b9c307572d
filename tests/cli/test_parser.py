"""Help, completion, and the schema for editors."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from lensmith import cli, verbs
from lensmith.config import Recipe, known_keys, sections
from tests.conftest import Run, Shapes

LENSMITH = Path(sys.executable).with_name("lensmith")


def completions(line: str, folder: Path) -> list[str]:
    """What a shell would offer at the end of a line."""
    answer = folder / ".answer"
    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    variables |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    subprocess.run([LENSMITH], cwd=folder, env=os.environ | variables, capture_output=True, check=False)
    return [word.strip() for word in answer.read_text().split("\x0b")] if answer.exists() else []


def test_a_shell_completes_verbs_images_recipes_and_options(shapes: Shapes, tmp_path: Path) -> None:
    shapes("my-images", circle=1)
    assert completions("lensmith tr", tmp_path) == ["train"]
    assert "my-images/" in completions("lensmith train my", tmp_path)
    assert "demo-fashion" in completions("lensmith train demo", tmp_path)
    assert completions("lensmith train train.ep", tmp_path) == ["train.epochs="]
    assert "tune." in completions("lensmith train tu", tmp_path)
    assert completions("lensmith recipe tu", tmp_path) == ["tune"]
    assert completions("lensmith train --ver", tmp_path) == ["--verbose"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_is_printed(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--completion", shell])
    assert "lensmith" in capsys.readouterr().out


def test_bash_accepts_the_code_for_completion() -> None:
    code = f'eval "$({shlex.quote(str(LENSMITH))} --completion bash)" && complete -p lensmith'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert "-F" in done.stdout


def test_without_words_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([])
    assert "Teach:" in capsys.readouterr().out


def test_every_verb_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in verbs.VERBS:
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        assert f"examples:\n  lensmith {name}" in capsys.readouterr().out


def test_a_section_of_the_options(run: Run) -> None:
    code, out, _ = run("recipe", "tune")
    assert code == 0
    assert "tune.rank = 16" in out
    assert "train.epochs" not in out
    code, out, _ = run("recipe", "tune", "--json")
    assert json.loads(out)["rank"] == Recipe().tune.rank
    code, out, err = run("recipe", "tunes")
    assert (code, out) == (2, "")
    assert "Did you mean 'tune'?" in err


def test_the_schema_knows_every_option_and_refuses_others(run: Run) -> None:
    code, out, _ = run("recipe", "--schema")
    assert code == 0
    schema = json.loads(out)
    described = {
        f"{section}.{name}"
        for section in sections()
        for name in schema["$defs"][schema["properties"][section]["$ref"].rpartition("/")[2]]["properties"]
    }
    assert described == {key for key in known_keys() if "." in key}
    jsonschema.validate(Recipe().to_dict(), schema)
    jsonschema.validate({"tune": {"rank": 8}}, schema)
    for wrong in ({"tune": {"rnk": 8}}, {"tune": {"rank": "eight"}}, {"train": {"epochs": -1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
