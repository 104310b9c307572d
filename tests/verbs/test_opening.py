"""A verb begins with what a person needs to decide, and ends with a command that can be copied."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long

FAST = ["model.dtype=float32", "train.epochs=1", "train.batch_size=8"]


def test_the_start_is_short_and_the_rest_is_in_the_record(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=12, square=12)
    # In its own process, where the libraries are imported after the command has silenced them.
    words = ["evaluate", str(data), f"model.base={tiny_folder}", "--run", "quiet"]
    err = subprocess.run([sys.executable, "-m", "lensmith", *words], capture_output=True, text=True, check=True).stderr
    said = [line for line in err.splitlines() if not re.match(r"reading|scoring|calibrating|writing", line)]
    assert len(said) == 4, said
    assert said[0].startswith(f"{data}: 2 classes; ")
    assert re.fullmatch(r"It will take about \d+ s and up to [\d.]+ [MG]B of memory on this machine\.", said[1])
    assert "can show an accuracy to within" in said[2]
    assert "2 of 2 classes have fewer than 20 test images" in said[3]
    details = json.loads(Path("quiet/record.json").read_text())["details"]
    assert any(text.startswith("Split: ") for text in details)
    assert any("billion operations" in text for text in details)

    code, _, err = run("evaluate", data, f"model.base={tiny_folder}", "--run", "verbose", "--verbose")
    assert code == 0
    assert all(text in err for text in details if not text.startswith("This machine scores"))
    assert "This machine scores" in err


def test_what_is_odd_about_the_images_is_always_said(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=12, square=12)
    (data / "outside.jpg").write_bytes(next((data / "circle").iterdir()).read_bytes())
    code, _, err = run("evaluate", data, f"model.base={tiny_folder}")
    assert code == 0
    assert "Outside any class folder, ignored: 1 image." in err


def last_command(out: str) -> list[str]:
    """The words of the command that a verb ends with."""
    line = out.splitlines()[-1]
    assert line.startswith("Next: lensmith "), line
    return shlex.split(line)[2:]


def test_the_commands_at_the_end_lead_from_images_to_predictions(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    """A folder with a space in its name, so that quoting matters."""
    shapes(data := "my images", circle=16, square=16)
    shapes("new-images", unknown=2)
    code, out, err = run("evaluate", data, f"model.base={tiny_folder}", *FAST)
    assert code == 0, err
    train = last_command(out)
    assert train == [
        "train",
        data,
        f"model.base={tiny_folder}",
        *FAST[:1],
        "train.epochs=1.0",
        "train.batch_size=8",
    ]
    code, out, err = run(*train, "--run", "a run")
    assert code == 0, err
    predict = last_command(out)
    assert predict == ["predict", "a run", "new-images"]
    code, out, err = run(*predict)
    assert code == 0, err
    assert len(out.splitlines()) == 2, "predictions, and nothing else"
    assert last_command(err) == ["evaluate", "a run", "labelled-images"]
    code, out, err = run("evaluate", "a run", data, "--run", "again")
    assert code == 0, err
    assert last_command(out) == ["predict", "a run", "new-images"]


@pytest.mark.parametrize("verb", ["probe", "ladder", "suspects"])
def test_other_verbs_end_in_a_command_that_runs(run: Run, shapes: Shapes, tiny_folder: Path, verb: str) -> None:
    data = shapes(circle=40, square=40)
    shapes("new-images", unknown=2)
    words = [data, f"model.base={tiny_folder}", *FAST, "data.validation=0.3"]
    more = ["ladder.methods=[zero-shot, neighbours]"] if verb == "ladder" else []
    code, out, err = run(verb, *words, *more, "--run", "first")
    assert code == 0, err
    code, _, err = run(*last_command(out))
    assert code == 0, err


def test_predict_needs_images(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    code, _, err = run("probe", shapes(circle=16, square=16), f"model.base={tiny_folder}", "--run", "p")
    assert code == 0, err
    code, _, err = run("predict", "p")
    assert (code, "Which images shall the run p classify?" in err) == (2, True)
