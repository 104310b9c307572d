"""`lensmith serve` of a run answers like `predict`, ends when it is told to, and says what is wrong in one sentence."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from lensmith.serve.banner import banner
from tests.conftest import Run, Shapes

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
