"""`lensmith serve` of a run answers like `predict`, ends when it is told to, and says what is wrong in one sentence."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from lensmith.data import decode_image
from lensmith.engine.taught import load_panels
from lensmith.runs.predictions import read_predictions
from lensmith.serve.banner import banner
from lensmith.serve.service import Service
from tests.conftest import Run, Shapes
from tests.serve.conftest import picture, serving

pytestmark = pytest.mark.long


def test_a_run_is_served_as_it_predicts(shapes: Shapes, tiny_folder: Path, run: Run, tmp_path: Path) -> None:
    folder = shapes(circle=20, square=20)
    words = [folder, f"model.base={tiny_folder}", "model.dtype=float32", "train.epochs=1", "--run", "mine"]
    assert run("probe", *words)[0] == 0
    image = next((folder / "circle").iterdir())
    code, out, _ = run("predict", "mine", image, "--json")
    assert code == 0
    (expected,) = json.loads(out)["predictions"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lensmith", "serve", "mine", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.ConnectError:
                pass
            time.sleep(0.1)
        answer = httpx.post(f"http://127.0.0.1:{port}", content=image.read_bytes()).json()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert answer[0]["label"] == expected["predicted"]
    assert answer[0]["score"] == pytest.approx(expected["probability"], abs=1e-4)
    assert f"Serving mine at http://127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_the_clients_of_the_readme_work_as_written_on_the_demos_images(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("probe", "demo:fashion", "data.train_limit=200", "data.test_limit=50", "--run", "runs/mine")[0] == 0
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```py\n(.+?)```", page, re.DOTALL)
    assert len(examples) == 1
    (tmp_path / "image.jpg").write_bytes(picture(7))
    labels = json.loads((tmp_path / "runs" / "mine" / "record.json").read_text())["data"]["labels"]
    with serving(Service(load_panels({"mine": tmp_path / "runs" / "mine"}))) as server:
        exec(examples[0].replace("http://127.0.0.1:8000", server.url), {})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert all(any(label in line for label in labels) for line in said)


def test_runs_that_differ_in_their_heads_share_a_model(
    shapes: Shapes, tiny_folder: Path, run: Run, tmp_path: Path
) -> None:
    options = [f"model.base={tiny_folder}", "model.dtype=float32"]
    assert run("probe", shapes(circle=20, square=20), *options, "--run", "one")[0] == 0
    assert run("probe", shapes("others", star=20, moon=20), *options, "--run", "two")[0] == 0
    image = next((tmp_path / "my shapes" / "circle").iterdir())
    alone = {}
    for name in ("one", "two"):
        (alone[name],) = json.loads(run("predict", name, image, "--json")[1])["predictions"]
    (panel,) = load_panels({"one": tmp_path / "one", "two": tmp_path / "two"})
    views = panel.model.prepare(decode_image(image, name="x"))
    found = panel.probabilities(tuple(view[None] for view in views), ["one", "two"])
    for name, prediction in alone.items():
        assert max(found[name][0]) == pytest.approx(prediction["probability"], abs=1e-4)
    lora = ["train.epochs=1", "tune.rank=2", "--run", "three"]
    assert run("train", tmp_path / "my shapes", *options, *lora)[0] == 0
    names = ("one", "two", "three")
    assert [list(p.classifiers) for p in load_panels({n: tmp_path / n for n in names})] == [["one", "two"], ["three"]]


def test_a_log_is_checked_against_the_run(shapes: Shapes, tiny_folder: Path, run: Run, tmp_path: Path) -> None:
    words = [shapes(circle=150, square=150), f"model.base={tiny_folder}", "model.dtype=float32", "data.test=0.5"]
    assert run("probe", *words, "--run", "mine")[0] == 0

    def log(label: str) -> Path:
        path = tmp_path / f"{label}.jsonl"
        rows = [
            {"time": "2026-01-01", "id": "x", "model": "mine", "ms": 1.0}
            | {"label": p.predicted if label == "same" else label, "probability": p.probability}
            for p in read_predictions(tmp_path / "mine" / "predictions.parquet")
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    code, out, _ = run("serve", "mine", "--check", log("same"))
    assert code == 0
    assert "as on the test images" in out
    assert "the classes changed" in run("serve", "mine", "--check", log("circle"))[1]
    assert json.loads(run("serve", "mine", "--check", log("circle"), "--json")[1])["models"][0]["drift"] is True
    code, _, err = run("serve", "other=mine", "--check", log("same"))
    assert code == 2
    assert "has no answers of other. It has answers of mine" in err


def test_what_can_not_be_served_is_said(run: Run, tmp_path: Path) -> None:
    assert "Which model?" in run("serve")[2]
    assert "is not a run folder" in run("serve", "nothing")[2]
    (tmp_path / "x").mkdir()
    code, _, err = run("serve", "a=one", "a=two")
    assert code == 2
    assert "Two models are called 'a'" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = run("serve", "--labels", "a,b", "--port", taken.getsockname()[1])
    assert code == 2
    assert "can't listen on 127.0.0.1 port" in err


def test_an_open_address_without_a_token_is_warned_of() -> None:
    assert "Whoever reaches this machine may ask it" in banner(["m"], "0.0.0.0", 80, token=False)[-1]
    assert not any("Whoever" in line for line in banner(["m"], "0.0.0.0", 80, token=True))
    assert not any("Whoever" in line for line in banner(["m"], "127.0.0.1", 80, token=False))
    assert "http://[::1]:80" in banner(["m"], "::1", 80, token=False)[0]
