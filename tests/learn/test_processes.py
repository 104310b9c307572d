"""Two processes train like one, and only the main process writes files and messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lensmith.learn.processes import Processes
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def launch(count: int, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`lensmith train` as several processes."""
    # `--`, because torchrun would take --run as one of its options.
    start = f"-m torch.distributed.run --nproc-per-node={count} --standalone -m -- lensmith train".split()
    environment: dict[str, Any] = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_two_processes_train_as_one_does(run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    folder = shapes(circle=30, square=20)
    options = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu"]
    options += ["train.epochs=2", "train.batch_size=8", "train.learning_rate=0.005", "data.validation=0.2"]
    options += ["tune.rank=4", "augment.mix=both", "augment.flip=true", "train.class_weights=balanced"]
    code, out, err = run("train", *options, "--run", "one", "--json")
    assert code == 0
    done = launch(2, tmp_path, *options, "--run", "two", "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(text) for text in (out, done.stdout)]  # one object, so only one process printed
    logs = []
    for name, said in (("one", err), ("two", done.stderr)):
        logs.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
        assert said.count("of the validation images correct") == sum("validation" in row for row in logs[-1])
    one, two = ([row["loss"] for row in log if "loss" in row] for log in logs)
    assert two == pytest.approx(one, rel=1e-4)
    assert len(one) > 5
    assert [row["validation"]["n"] for row in logs[0] if "validation" in row] == [
        row["validation"]["n"] for row in logs[1] if "validation" in row
    ]
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    one_process, two_processes = (torch.cat([w.flatten() for w in ws.values()]) for ws in weights)
    assert (one_process - two_processes).norm() <= 1e-3 * one_process.norm()
    assert records[0]["accuracy"]["n"] == records[1]["accuracy"]["n"]


def test_two_processes_share_the_features_that_they_have_extracted(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    options = [f"data.uri={shapes(circle=12, square=12)}", f"model.base={tiny_folder}", "train.epochs=1"]
    done = launch(2, tmp_path, *options, "model.dtype=float32", "--run", "two")  # no augmentation
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_cover_a_batch_once_and_keep_pairs_together(n: int, count: int) -> None:
    processes, covered = Processes(), list[int]()
    processes.count = count
    for processes.rank in range(count):
        part = range(n)[processes.part_of(n)]
        assert not len(part) or part.start % 2 == 0
        covered += part
    assert covered == list(range(n))
