"""`lensmith predict RUN SOURCE --out FOLDER`, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest

from lensmith.bulk import local
from lensmith.bulk.plan import MANIFEST
from lensmith.verbs.bulk import size_of
from tests.bulk.conftest import S3, Unreliable
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A run of `lensmith probe` with the tiny model, and a folder `shapes` beside it."""
    from lensmith import cli

    here, back = tmp_path_factory.mktemp("taught"), os.getcwd()
    os.chdir(here)
    try:
        import numpy as np
        from PIL import Image

        rng = np.random.default_rng(0)
        for label, shade in (("circle", 40), ("square", 200)):
            (here / "shapes" / label).mkdir(parents=True)
            for i in range(30):
                pixels = (shade + rng.integers(0, 40, (40, 40, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(here / "shapes" / label / f"{i}.jpg")
        words = ["probe", "shapes", f"model.base={tiny_folder}", "model.dtype=float32", "--run", "run"]
        assert cli.main(words) == 0
    finally:
        os.chdir(back)
    return here


def rows(out: Path | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ds.dataset(str(Path(out, "parts"))).to_table().to_pylist()
    return found


def test_a_folder_of_answers_equals_the_table_of_answers(run: Run, taught: Path, tmp_path: Path) -> None:
    (taught / "shapes" / "broken.jpg").write_bytes(b"nonsense")
    code, out, _ = run(
        "predict", taught / "run", taught / "shapes", "--out", "a b/answers", "--scores", "--shard-images", "9"
    )
    assert code == 0
    assert "61 images, of which 1 can't be read." in out
    assert "1 time: The file IMAGE isn't an image that can be read" in out
    assert run("predict", taught / "run", taught / "shapes", "--out", "table.jsonl")[0] == 0
    table = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    found = {row["image"]: row for row in rows("a b/answers")}
    assert len(found) == len(table) == 61
    for row in table:
        mine = found[row["image"]]
        assert (mine["label"], mine["error"]) == (row["label"], row["error"])
        if row["label"]:
            assert mine["probability"] == pytest.approx(row["probability"], abs=1e-5)
            chances = [mine[f"probability: {label}"] for label in ("circle", "square")]
            assert sum(chances) == pytest.approx(1, abs=1e-5)
            assert max(chances) == pytest.approx(mine["probability"], abs=1e-5)
    summary = json.loads((tmp_path / "a b" / "answers" / "summary.json").read_text())
    assert summary["complete"]
    assert summary["images"] == 61
    assert sum(summary["classes"].values()) == 60
    page = (tmp_path / "a b" / "answers" / "report.html").read_text()
    assert "60 images have an answer, and 1 can&#39;t be read." in page
    (taught / "shapes" / "broken.jpg").unlink()


def test_a_killed_job_goes_on_and_a_killed_worker_is_replaced(taught: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lensmith", "predict", str(taught / "run"), str(taught / "shapes")]
    words += ["--out", "out", "--shard-images", "1", "--workers", "2"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(parts: int, process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("parts/part-*"))) < parts:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.005)

    first = start()
    wait_for(3, first)
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, "workers end when nobody gives them work"
    done = len(list((tmp_path / "out").glob("parts/part-*")))
    second = start()
    wait_for(done + 1, second)
    psutil.Process(second.pid).children()[0].kill()
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "shards done before" in err
    names = [row["image"] for row in rows(tmp_path / "out")]
    assert len(names) == len(set(names)) == 60
    assert "60 images, of which 0 can't be read." in out
    third = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "60 of 60 shards done before" in third.stderr


def test_ctrl_c_keeps_what_is_done(taught: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lensmith", "predict", str(taught / "run"), str(taught / "shapes")]
    words += ["--out", "out", "--shard-images", "1"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list((tmp_path / "out").glob("parts/part-*")) and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130), err
    if process.returncode == 130:
        assert "What is done is kept. Run the same command again to go on." in err
        assert "Traceback" not in err


@pytest.mark.usefixtures("quick")
def test_a_shard_that_is_set_aside_makes_the_job_incomplete_with_exit_code_1(
    run: Run, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LocalPool", lambda count: Unreliable(poison=[2]))
    code, out, _ = run("predict", taught / "run", taught / "shapes", "--out", "answers", "--shard-images", "10")
    assert code == 1
    assert "Incomplete: 1 shard failed again and again, and was set aside:\n  shard 2: killed by SIGKILL" in out
    assert "Incomplete: no answers from 1 of 6 shards." in Path("answers/report.html").read_text()
    monkeypatch.setattr(local, "LocalPool", lambda count: Unreliable())
    assert run("predict", taught / "run", taught / "shapes", "--out", "answers")[0] == 0
    assert len(rows("answers")) == 60


@pytest.mark.usefixtures("quick")
def test_answers_go_to_an_object_store(run: Run, taught: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LocalPool", lambda count: Unreliable())
    assert run("predict", taught / "run", taught / "shapes", "--out", "s3://bucket/answers")[0] == 0
    assert {f"answers/{name}" for name in (MANIFEST, "report.html", "summary.json")} < set(s3.names())


@pytest.mark.usefixtures("quick")
def test_an_output_folder_of_another_run_is_refused(
    run: Run, taught: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LocalPool", lambda count: Unreliable())
    assert run("predict", taught / "run", taught / "shapes", "--out", "answers")[0] == 0
    for words, sentence in (
        (["--labels", "circle,square", taught / "shapes"], "the answers of another model"),
        ([taught / "run", shapes(circle=2)], "the answers of another source: "),
        ([taught / "run", taught / "shapes", "--scores"], "the answers of other columns"),
    ):
        code, _, err = run("predict", *words, "--out", "answers")
        assert code == 2
        assert sentence in err


@pytest.mark.usefixtures("quick")
def test_prometheus_finds_the_progress(run: Run, taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    class Watched(Unreliable):
        def events(self, seconds: float) -> Any:
            if len(self.done) == 3:
                found.append(urllib.request.urlopen("http://127.0.0.1:38383/metrics").read().decode())
            return super().events(seconds)

    monkeypatch.setattr(local, "LocalPool", lambda count: Watched())
    words = ["--out", "answers", "--shard-images", "10", "--metrics", "38383"]
    assert run("predict", taught / "run", taught / "shapes", *words)[0] == 0
    assert "lensmith_bulk_images 30.0" in found[0]
    assert "lensmith_bulk_shards_left 3.0" in found[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "--out", "o"], "nowhere"),
        (["shapes", "more", "--out", "o"], "shapes and more are two sources."),
        (["shapes", "--out", "answers.txt"], "answers.txt ends in .txt."),
        (["shapes", "--workers", "2"], "--workers is for answers that are written to a folder."),
        (["shapes", "--on", "ray"], "--on is for answers that are written to a folder."),
        (["shapes", "--out", "o", "--shard-images", "0"], "--shard-images is 0."),
        (["shapes", "--out", "o", "--shard-bytes", "many"], "'many' isn't a size."),
        (["shapes", "--out", "s3://"], "names no bucket"),
    ],
)
def test_bad_words_end_in_a_sentence(words: list[str], sentence: str, run: Run, taught: Path) -> None:
    code, _, err = run("predict", taught / "run", *words)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err


def test_which_classes_is_asked_before_anything_is_read(run: Run) -> None:
    code, _, err = run("predict", "nowhere", "--out", "o")
    assert code == 2
    assert "Which classes?" in err


@pytest.mark.parametrize(("text", "size"), [("500MB", 500_000_000), ("2 gb", 2_000_000_000), ("10k", 10_000), ("7", 7)])
def test_sizes_are_read_as_they_are_typed(text: str, size: int) -> None:
    assert size_of(text) == size
