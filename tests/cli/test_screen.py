"""What a person sees: progress on terminals of any width or none, and no control characters where none belong."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from lensmith.cli.screen import Screen, show
from lensmith.progress import Advance, Note, counter, working
from lensmith.verbs.terminal import Output, Table
from tests.conftest import Shapes

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
COLOUR = re.compile(r"\x1b\[[\d;]*3[0-7]m")
SHOW = """
import sys, time
from lensmith.cli.screen import Screen, show
from lensmith.progress import Advance, Note, working
from lensmith.verbs.terminal import Output, Table, next_line
screen = Screen()
screen(Note("A note of [bold]some[/bold] words :smile: that is longer than the width of a narrow terminal is."))
for done in (1, 40, 80):
    time.sleep(0.11)
    screen(Advance("training", done, 100, 12.5, 100 - done, "epoch 0.8 of 1, loss 0.123"))
with working("writing the report", screen):
    pass
screen.end_line()
table = Table(["", "accuracy", "95 % interval", "images"], [["tuned", "86.0 %", "84.4 to 87.5", "2,000"]])
show(Output({"a": "\\u00e4"}, [table, next_line("predict", "runs/mine", "new-images")]), False)
"""


def seen(columns: int, code: str = SHOW, **environment: str) -> str:
    """What a program writes to a terminal of that width, control characters included."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower, env=inherited | variables
    ) as process:
        os.close(follower)
        parts = []
        try:
            while part := os.read(leader, 65536):
                parts.append(part)
        except OSError:  # the program has ended
            pass
        os.close(leader)
    assert process.returncode == 0, b"".join(parts).decode()
    return b"".join(parts).decode("utf-8")


def plain(text: str) -> str:
    """Text without control sequences."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).replace("\r\n", "\n")


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end() -> None:
    text = seen(120)
    assert "━" in text
    for part in ("training", "80 of 100", "20 s left", "12 images/s", "epoch 0.8 of 1, loss 0.123"):
        assert part in plain(text), part
    assert "writing the report" in plain(text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "a hidden cursor is shown again"
    assert "[bold]some[/bold] words :smile:" in plain(text), "a note is shown as it is"
    assert text.rindex("\x1b[2K") < text.index("accuracy"), "bars are gone before the result"


@pytest.mark.parametrize("columns", [40, 20])
def test_a_narrow_terminal_keeps_a_bar_on_one_line(columns: int) -> None:
    text = seen(columns)
    frames = [line for line in re.split(r"\r|\n", plain(text)) if "left" in line]
    assert frames
    assert all(len(line) <= columns for line in frames), frames
    assert "86.0 %" in plain(text)
    assert "lensmith predict runs/mine new-images" in plain(text), "a command to copy isn't cut or folded"


def test_no_color_leaves_no_colour() -> None:
    assert COLOUR.search(seen(100))
    assert not COLOUR.search(seen(100, NO_COLOR="1"))


def test_a_dumb_terminal_gets_plain_lines() -> None:
    text = seen(100, TERM="dumb").replace("\r\n", "\n")
    assert not CONTROL.search(text)
    assert "training: 1 of 100, 12 images/s, 99 s left, epoch 0.8 of 1, loss 0.123" in text
    assert "tuned    86.0 %   84.4 to 87.5   2,000" in text


def test_a_terminal_without_utf_8_gets_no_other_characters() -> None:
    text = seen(100, PYTHONIOENCODING="ascii")
    assert text.isascii()
    assert "80 of 100" in plain(text)


@pytest.mark.long
def test_output_that_is_piped_has_no_control_characters(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(shapes(circle=9, square=9)), f"model.base={tiny_folder}", "--verbose"]
    done = subprocess.run(
        [sys.executable, "-m", "lensmith", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not CONTROL.search(done.stdout + done.stderr)
    assert "zero-shot" in done.stdout
    assert "reading images" in done.stderr or "scoring (zero-shot)" in done.stderr


def test_without_a_terminal_a_task_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for done in range(1, 100):
        screen(Advance("scoring", done, 100, 50.0, 1.0))
    screen(Advance("scoring", 100, 100, 50.0, 0.0))
    with working("writing the report", screen):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 1 of 100, 50 images/s, 1 s left",
        "scoring: 100 of 100, 50 images/s, done",
        "writing the report",
    ]


def test_a_total_that_is_not_known_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress = counter("reading images", 0, Screen())
    progress(0)
    progress(300)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"reading images: 300, [\d,.e+]+ images/s", line)
    assert not Advance("reading", 300, 0, 10.0, math.nan).finished


def test_details_are_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        Screen(verbose)(Note("few need this", detail=True))
        assert capsys.readouterr().err == ("few need this\n" if verbose else "")


def test_json_is_valid_whatever_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("utf-8", "ascii", "latin-1"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
        show(Output({"label": "Käse 猫"}, ["unused"]), True)
        sys.stdout.flush()
        assert json.loads(raw.getvalue().decode(encoding)) == {"label": "Käse 猫"}


def test_a_table_is_aligned_as_plain_text() -> None:
    table = Table(["", "n"], [["a class", "1,000"], ["b", "2"]])
    assert table.lines() == ["             n", "a class  1,000", "b            2"]


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        Output({"scores": [float("nan"), (float("-inf"), 1.5)], "inner": {"p": float("inf"), "n": 3}}, []), as_json=True
    )
    assert json.loads(capsys.readouterr().out) == {"scores": [None, [None, 1.5]], "inner": {"p": None, "n": 3}}


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_output_that_cannot_be_written_is_an_error(shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(shapes(circle=9, square=9)), f"model.base={tiny_folder}", "--run", "r"]
    command = [sys.executable, "-m", "lensmith", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "can't be written to standard output: No space left on device. It is in the run folder r." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 2), ("2>&- >&-", 2), ("<&-", 2)])
def test_closed_streams_do_no_harm(tmp_path: Path, closed: str, code: int) -> None:
    command = f"'{sys.executable}' -m lensmith evaluate nowhere {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
