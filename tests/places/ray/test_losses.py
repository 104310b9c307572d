"""A node that is lost while it trains: replaced, or never to be had again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Run, Shapes
from tests.places.ray.conftest import Cluster, logs
from tests.places.ray.test_cluster import TRAIN, torchrun, weights

pytestmark = pytest.mark.slow


def wait_for(word: str, storage: Path) -> None:
    until = time.monotonic() + 120
    while word not in logs(storage):
        assert time.monotonic() < until, logs(storage)
        time.sleep(0.05)


def test_a_lost_node_is_replaced_and_the_weights_are_the_same(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    words = ["my shapes", f"model.base={tiny_folder}", *TRAIN, "train.epochs=60", "train.validate_every=20"]
    shapes(circle=20, square=20)
    assert run("train", *words, "--run", "runs/ray", "--detach", *cluster.options(storage))[0] == 0
    wait_for("training", storage)
    cluster.lose(cluster.nodes[-1])
    cluster.add()
    code, _, err = run("attach", "runs/ray")
    assert code == 0, err + logs(storage)
    torchrun(tmp_path, *words, "--run", "here")
    assert weights(tmp_path / "runs" / "ray") == weights(tmp_path / "here")


def test_a_node_that_never_comes_back_ends_the_job_in_time_with_a_sentence(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path
) -> None:
    words = [
        "my shapes",
        f"model.base={tiny_folder}",
        *TRAIN,
        "train.epochs=200",
        "train.validate_every=50",
        "ray.wait=30",
    ]
    shapes(circle=20, square=20)
    assert run("train", *words, "--run", "runs/ray", "--detach", *cluster.options(storage))[0] == 0
    wait_for("training", storage)
    cluster.lose(cluster.nodes[-1])
    began = time.monotonic()
    code, _, err = run("attach", "runs/ray")
    assert code == 2
    assert "2 workers with 1 CPUs and 0 GPUs each were not to be had within 30 s (ray.wait)" in err, err
    assert "lensmith resume runs/ray --on ray" in err
    assert time.monotonic() - began < 180
    cluster.add()
    code, _, err = run("resume", "runs/ray", *cluster.options(storage))
    assert code == 0, err + logs(storage)


def test_a_task_that_no_node_can_have_ends_in_time_with_a_sentence(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path
) -> None:
    shapes(circle=20, square=20)
    words = ["my shapes", f"model.base={tiny_folder}", "ray.cpus=64", "ray.wait=5"]
    code, _, err = run("probe", *words, *cluster.options(storage, 1))
    assert code == 2
    assert "No machine with 64 CPUs and 0 GPUs was there for 5 s (ray.wait)." in err
    assert run("probe", *words[:2], "--run", "p")[0] == 0
    code, _, err = run(
        "predict", "p", "my shapes", "--out", "o", "ray.cpus=64", "ray.wait=5", *cluster.options(storage)
    )
    assert code == 2
    assert "No machine with 64 CPUs and 0 GPUs to spare was there for 5 s (ray.wait)." in err


def test_one_command_starts_a_cluster_here_and_ends_it(
    run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    import psutil

    shapes(circle=20, square=20)
    assert run("probe", "my shapes", f"model.base={tiny_folder}", "model.dtype=float32", "--run", "p")[0] == 0
    before = {p.pid for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE}
    code, out, err = run("predict", "p", "my shapes", "--out", "answers", "--on", "ray", "ray.workers=2")
    assert code == 0, err
    assert "40 images, of which 0 can't be read." in out
    assert (tmp_path / "answers" / "report.html").exists()
    left = [p for p in psutil.process_iter(["name"]) if p.pid not in before and p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in left if p.info["name"] in ("raylet", "gcs_server")]
