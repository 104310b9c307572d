"""The environment that PyTorch's threads are started with, and the number of threads of a resumed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lensmith
from lensmith.config import load_recipe
from lensmith.errors import Stopped
from lensmith.progress import Advance, Note
from lensmith.threads import SPINS, granted_cores
from tests.conftest import Shapes


def environment(**given: str) -> dict[str, str]:
    """GOMP_SPINCOUNT and OMP_NUM_THREADS after Lensmith has been imported."""
    names = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    kept = {key: value for key, value in os.environ.items() if key not in (*names, "OMP_WAIT_POLICY")}
    code = f"import json, os, lensmith; print(json.dumps({{k: os.environ.get(k) for k in {names}}}))"
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_threads_spin_shortly_unless_the_user_has_decided() -> None:
    assert environment()["GOMP_SPINCOUNT"] == str(SPINS)
    assert environment(GOMP_SPINCOUNT="7")["GOMP_SPINCOUNT"] == "7"
    assert environment(OMP_WAIT_POLICY="active")["GOMP_SPINCOUNT"] is None
    assert environment(OMP_NUM_THREADS="3")["OMP_NUM_THREADS"] == "3"


def test_the_setting_comes_before_torch() -> None:
    code = "import sys, lensmith; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_the_limit_of_a_container_is_read(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert granted_cores(tmp_path) == cores


@pytest.mark.long
def test_a_resumed_run_computes_with_the_threads_it_was_started_with(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    options = [f"data.uri={shapes(circle=12, square=12)}", f"model.base={tiny_folder}", "model.dtype=float32"]
    recipe = load_recipe(None, [*options, "train.epochs=2", "train.batch_size=4"])

    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "training" and event.done == 2:
            raise KeyboardInterrupt

    torch.set_num_threads(2)
    with pytest.raises(Stopped):
        lensmith.train(recipe, tmp_path / "run", stop)
    assert json.loads((tmp_path / "run" / "record.json").read_text())["machine"]["threads"] == 2
    torch.set_num_threads(1)
    lensmith.resume(tmp_path / "run")
    assert torch.get_num_threads() == 2
