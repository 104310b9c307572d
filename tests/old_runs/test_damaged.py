"""Whatever has happened to the small files of a run, each verb that reads them works or ends in one sentence."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Run

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
CONTENTS = [b"", b"[]", b"\xff\xfe\x00", b'{"a":' * 50_000]
VALUES: list[Any] = [None, "x", "", 5, -1, 0, 0.0, float("nan"), float("inf"), [], [1], ["a"], {}, {"a": 1}, True]


def damages(text: str, number: int, seed: int) -> Iterator[bytes]:
    """The content of a JSON file, damaged in so many ways."""
    yield from CONTENTS
    dice = random.Random(seed)
    for _ in range(number):
        values = copy.deepcopy(json.loads(text))
        place: Any = values
        while True:
            key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7:
                place = place[key]
                continue
            if dice.random() < 0.3:
                del place[key]
            else:
                place[key] = dice.choice(VALUES)
            break
        yield json.dumps(values).encode()


def check(run: Run, folder: Path, name: str, words: list[str | Path], number: int) -> None:
    """Damage a file of copies of a run and run the command; a failure must be one sentence."""
    text = (folder / name).read_text()
    copied = folder.with_name("copy")
    for content in damages(text, number, seed=len(text)):
        for obsolete in (copied, Path("out")):
            shutil.rmtree(obsolete, ignore_errors=True)
        shutil.copytree(folder, copied)
        (copied / name).write_bytes(content)
        code, _, err = run(*(copied if word == "RUN" else word for word in words))  # raises what isn't a `UserError`
        assert code in (0, 2), (content[:200], err)
        assert "Traceback" not in err
        if code == 2:
            last = err.strip().splitlines()[-1]
            assert last.startswith("lensmith: ") or "error" in last.lower(), (content[:200], err)
            assert len(last) < 1000, (content[:200], err)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    Image.new("RGB", (28, 28)).save(tmp_path / "image.png")
    return Path(shutil.copytree(HERE, tmp_path / "old", ignore=shutil.ignore_patterns("*.py", "__pycache__")))


@pytest.mark.parametrize("name", ["record.json", "evaluation.json"])
def test_a_damaged_file_of_a_run_that_is_compared(old: Path, run: Run, name: str) -> None:
    check(run, old / "train", name, ["compare", old / "evaluate", "RUN", "--run", "out"], 12)


@pytest.mark.parametrize("name", ["lensmith.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_beside_the_weights(old: Path, run: Run, name: str) -> None:
    check(run, old / "probe", f"adapter/{name}", ["predict", "RUN", "image.png"], 30 if name == "lensmith.json" else 0)


@pytest.mark.parametrize("name", ["lensmith.json", "adapter_config.json"])
def test_a_damaged_file_of_an_adapter(old: Path, run: Run, name: str) -> None:
    words: list[str | Path] = ["evaluate", "RUN", "data.test_limit=2", "--run", "out"]
    check(run, old / "train", f"adapter/{name}", words, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["record.json", "question.json", "calibration.json", "predictions.unfinished/about.json"]
)
def test_a_damaged_file_of_an_evaluation_that_is_resumed(old: Path, run: Run, name: str) -> None:
    check(run, old / "evaluate-stopped", name, ["resume", "RUN"], 3)


@pytest.mark.parametrize("name", ["training.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_training_that_is_resumed(old: Path, run: Run, name: str) -> None:
    for obsolete in ("report.html", "evaluation.json", "predictions.parquet", "result.json"):
        (old / "train" / obsolete).unlink(missing_ok=True)
    if name == "metrics.jsonl":
        first = (old / "train" / name).read_text().splitlines()[0]
        (old / "train" / name).write_text(first + "\n")
    check(run, old / "train", name, ["resume", "RUN"], 3)
