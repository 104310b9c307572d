"""Jobs on a real cluster of two nodes: the same results as here, whatever is lost."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensmith.bulk.storage import Storage
from tests.bulk.conftest import serving
from tests.conftest import Run, Shapes
from tests.places.ray.conftest import Cluster, logs

pytestmark = pytest.mark.long

# Without cached features: another test may have left some that were extracted in another batch, with other last digits.
TRAIN = [
    "train.cache_features=false",
    "model.dtype=float32",
    "train.epochs=3",
    "train.batch_size=8",
    "train.learning_rate=0.005",
    "tune.rank=4",
]


def weights(run: Path) -> str:
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def torchrun(folder: Path, *words: str) -> None:
    """The same training by two processes of torchrun."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "--", "lensmith", "train"]
    command = [sys.executable, *start, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_training_on_two_nodes_ends_in_the_weights_of_torchrun(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    words = ["my shapes", f"model.base={tiny_folder}", *TRAIN]
    shapes(circle=20, square=20)
    code, out, err = run("train", *words, "--run", "runs/ray", *cluster.options(storage))
    assert code == 0, err + logs(storage)
    assert "tuned" in out
    assert "Step" in err, "progress is passed on"
    torchrun(tmp_path, *words, "--run", "here")
    assert weights(tmp_path / "runs" / "ray") == weights(tmp_path / "here")
    here, there = (
        {p.relative_to(tmp_path / name).as_posix() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("here", "runs/ray")
    )
    assert there - here == {"place.json"}
    assert {path for path in here - there if not path.startswith(".")} == set()
    assert run("predict", "runs/ray", "my shapes")[0] == 0


def test_a_killed_worker_resumes_and_ends_in_the_same_weights(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    words = ["my shapes", f"model.base={tiny_folder}", *TRAIN, "train.epochs=12"]
    shapes(circle=20, square=20)
    code, _, err = run("train", *words, "--run", "runs/ray", "--detach", *cluster.options(storage))
    assert code == 0, err
    until = time.monotonic() + 90
    while "training" not in logs(storage) and time.monotonic() < until:
        time.sleep(0.05)
    victims = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
    assert victims, logs(storage)
    victims[-1].kill()
    code, _, err = run("attach", "runs/ray")
    assert code == 0, err + logs(storage)
    torchrun(tmp_path, *words, "--run", "here")
    assert weights(tmp_path / "runs" / "ray") == weights(tmp_path / "here")


@pytest.mark.slow
def test_a_job_lives_in_an_object_store(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes(circle=20, square=20)
    words = ["my shapes", f"model.base={tiny_folder}", *TRAIN]
    with serving(monkeypatch, cluster.s3) as server:
        code, _, err = run("train", *words, "--run", "runs/ray", *cluster.options("s3://bucket/jobs of mine"))
        assert code == 0, err
        assert any(name.startswith("jobs of mine/runs/ray-") for name in server.names())
        words = ["predict", "runs/ray", str(tmp_path / "my shapes"), "--out", "s3://bucket/answers"]
        code, out, err = run(*words, *cluster.options("s3://bucket/jobs of mine"))
        assert code == 0, err
        assert "40 images, of which 0 can't be read." in out
        assert "answers/parts/part-000000.parquet" in server.names()
    assert (tmp_path / "runs" / "ray" / "adapter" / "adapter_model.safetensors").exists()


def test_an_error_of_the_user_is_a_value_and_is_not_tried_again(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    words = [str(shapes(circle=3)), f"model.base={tiny_folder}", "model.dtype=float32"]
    began = time.monotonic()
    code, _, err = run("train", *words, "--run", "runs/ray", *cluster.options(storage))
    assert code == 2
    assert "Traceback" not in err
    assert "class" in err
    assert time.monotonic() - began < 200  # tried again three times, it would take minutes even on an idle machine
    assert not (tmp_path / "runs" / "ray").exists(), "like a local run, it leaves no folder"


def test_a_bulk_prediction_has_every_image_once_although_actors_and_its_driver_are_killed(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    import pyarrow.dataset as ds

    folder = shapes(circle=150, square=150)
    assert run("probe", folder, f"model.base={tiny_folder}", "model.dtype=float32", "--run", "p")[0] == 0
    words = ["predict", "p", folder, "--out", "answers", "--shard-images", "1", *cluster.options(storage)]
    code, out, err = run(*words, "--detach")
    assert code == 0, err

    def wait_for(parts: int) -> None:
        until = time.monotonic() + 90
        while len(list((tmp_path / "answers").glob("parts/part-*"))) < parts:
            assert time.monotonic() < until, logs(storage)
            time.sleep(0.01)

    def kill(word: str) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if word in " ".join(process.info["cmdline"] or []) and process.pid != os.getpid():
                process.kill()
                return
        raise AssertionError(f"there is no process {word}")

    wait_for(5)
    kill("ray::_Actor")
    wait_for(30)
    until = time.monotonic() + 10
    while not any("ray_lensmith_bulk_shards_left" in text for text in cluster.metrics()):  # for Prometheus
        assert time.monotonic() < until
        time.sleep(0.1)
    kill("places.ray.driver")
    folder_of_run = next((tmp_path / "runs").glob("*predict*"))
    code, _, err = run("attach", folder_of_run)
    assert code == 2
    assert "failed" in err
    code, out, err = run("resume", folder_of_run, *cluster.options(storage))
    assert code == 0, err + logs(storage)
    assert "shards done before" in err
    assert (folder_of_run / "report.html").exists()
    names = ds.dataset(str(tmp_path / "answers" / "parts")).to_table()["image"].to_pylist()
    assert len(names) == len(set(names)) == 300
    assert "300 images, of which 0 can't be read." in out


@pytest.mark.parametrize("verb", ["evaluate", "probe", "ladder"])
def test_other_verbs_run_in_one_task(
    verb: str, run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    shapes(circle=20, square=20)
    words = ["my shapes", f"model.base={tiny_folder}", "model.dtype=float32", "ladder.methods=[zero-shot, probe]"]
    code, out, err = run(verb, *words, "--run", "there", "--json", *cluster.options(storage, 1))
    assert code == 0, err + logs(storage)
    code, mine, _ = run(verb, *words, "--run", "here", "--json")
    there, here = json.loads(out), json.loads(mine)
    assert there["run"] == "there"
    assert Path(there["report"]).exists()
    for key in ("accuracy", "chosen"):
        assert there.get(key) == here.get(key)


def test_images_are_labelled_there(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, tmp_path: Path
) -> None:
    folder = shapes(circle=20, square=20)
    assert run("probe", folder, f"model.base={tiny_folder}", "model.dtype=float32", "--run", "p")[0] == 0
    code, _, err = run("label", "my shapes", "p", "--run", "there", *cluster.options(storage, 1))
    assert code == 0, err + logs(storage)
    assert run("label", "my shapes", "p", "--run", "here")[0] == 0
    there, here = ((tmp_path / name / "labels.jsonl").read_text().splitlines() for name in ("there", "here"))
    assert [json.loads(a)["label"] for a in there] == [json.loads(b)["label"] for b in here]
    assert all(Path(json.loads(row)["image"]).exists() for row in there), "paths are those of this machine"


def test_workers_of_a_sweep_share_a_database(
    run: Run, shapes: Shapes, tiny_folder: Path, cluster: Cluster, storage: Path, postgres: str, tmp_path: Path
) -> None:
    shapes(circle=20, square=20)
    words = ["my shapes", f"model.base={tiny_folder}", "model.dtype=float32", "train.epochs=1", "name=shared"]
    words += ["sweep.over={tune.rank: [2, 4]}", "sweep.trials=2", "sweep.finalists=1", "sweep.repeats=2"]
    words += [f"sweep.storage={postgres}"]
    code, out, err = run("sweep", *words, "--run", "there", "--json", *cluster.options(storage))
    assert code == 0, err + logs(storage)
    record = json.loads(out)
    assert record["run"] == "there"
    assert Path(record["recipe"]).exists()
    assert "tune.rank" in str(record["best"])
    outcomes = list((storage / "runs").glob("there-*.tar"))
    assert len(outcomes) == 2, "each worker has a run of its own"


def test_another_version_of_ray_is_refused_with_both(
    run: Run, shapes: Shapes, cluster: Cluster, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "__version__", "1.2.3")
    code, _, err = run("probe", shapes(circle=3, square=3), *cluster.options(storage, 1))
    assert code == 2
    assert f"on the cluster at {cluster.address}, and 1.2.3 on this machine." in err


def test_a_storage_that_the_cluster_does_not_see_is_said(
    run: Run, shapes: Shapes, cluster: Cluster, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Storage.write

    def write(self: Storage, name: str, content: bytes) -> None:  # it goes elsewhere, as on another machine's disk
        real(self, name.replace("job.json", "other.json"), content)

    monkeypatch.setattr(Storage, "write", write)
    code, _, err = run("probe", shapes(circle=3, square=3), "--run", "r", *cluster.options(storage, 1))
    assert code == 2
    assert "the storage isn't shared" in err


@pytest.mark.slow
def test_ctrl_c_in_a_cluster_of_ones_own_leaves_a_run_that_goes_on_here(
    run: Run,
    shapes: Shapes,
    tiny_folder: Path,
    cluster: Cluster,
    storage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lensmith.places import ray as place
    from lensmith.places.ray import stored

    @contextmanager
    def own(_: object) -> Iterator[tuple[str, Storage]]:
        yield cluster.address, Storage(str(storage))

    real = stored.read_events

    def stop(*args: Any) -> list[dict[str, Any]]:
        if any(event.get("task") == "training" and event["done"] > 20 for event in real(*args)):
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(place, "_cluster", own)
    monkeypatch.setattr(place, "read_events", stop)
    shapes(circle=20, square=20)
    words = ["my shapes", f"model.base={tiny_folder}", *TRAIN, "train.epochs=40", "train.validate_every=20"]
    code, _, err = run("train", *words, "--run", "runs/ray", "--on", "ray")
    assert code == 130
    assert "stopped. Resume with: lensmith resume runs/ray" in err
    code, out, err = run("resume", "runs/ray")
    assert code == 0, err
    assert "tuned" in out
