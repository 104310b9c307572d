"""Jobs at Modal, offline: the real package describes the machine, whose work runs in this process."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import modal
import pytest

from lensmith.cli.screen import Screen
from lensmith.config import ModalOptions, Recipe, load_recipe
from lensmith.errors import UserError
from lensmith.jobs import worker
from lensmith.jobs.job import Job
from lensmith.jobs.uploads import uploads
from lensmith.places.modal import app as modal_app
from lensmith.places.modal import follow
from lensmith.places.modal.prices import PRICES, gpu, price_after, price_before
from lensmith.places.modal.volumes import copy_back, send
from lensmith.progress import Advance, Note, silent
from tests.clock import Clock
from tests.conftest import Run, Shapes
from tests.places.conftest import Cloud, Volume, perform

pytestmark = pytest.mark.long

QUICK = ["model.dtype=float32", "train.epochs=1", "train.batch_size=8", "tune.rank=2", "data.test=0.4"]


def a_job(uri: str, base: Path, *more: str, verb: str = "train") -> Job:
    return Job(verb, load_recipe(None, [f"data.uri={uri}", f"model.base={base}", *QUICK, *more]))


def sent_values(job: Job, name: str = "mine-1") -> dict[str, Any]:
    """The values sent to the machine for a job without uploads."""
    assert job.recipe
    recipe = job.recipe.to_dict()
    return {"verb": job.verb, "recipe": recipe, "options": {}, "name": name, "folder": "runs/mine", "uploads": []}


def test_the_machine_is_described_to_the_real_package(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    class Recorded:
        """A real image that records the steps that built it."""

        def __init__(self, image: modal.Image) -> None:
            self.image = image

        def __getattr__(self, name: str) -> Any:
            def step(*args: Any, **named: Any) -> Any:
                steps.append((name, args, named))
                image = getattr(self.image, name)(*args, **named)
                return image if name == "add_local_dir" else Recorded(image)

            return step

    slim = modal.Image.debian_slim
    monkeypatch.setattr(modal.Image, "debian_slim", lambda **named: Recorded(slim(**named)))
    options = ModalOptions(gpu="H100", hours=1.5, retries=3, secrets=["huggingface", "wandb"])
    app, function = modal_app.build(options, ["wandb"])
    info = function.info()
    assert info.gpus == [("H100", 1)]
    assert (info.timeout, info.max_retries, info.single_use_containers) == (5400, 3, True)
    assert {path: v.name for path, v in info.volumes.items()} == {
        f"/lensmith/{name}": f"lensmith-{name}" for name in ("weights", "data", "runs")
    }
    assert [name for name in options.secrets if any(name in secret for secret in info.secrets)] == options.secrets
    pip, env, source = steps
    assert "torch==2.13.0" in pip[1]
    assert any(need.startswith("wandb") for need in pip[1])
    assert not any("+" in need or need.startswith(("lensmith", "pytest", "modal")) for need in pip[1])
    assert env[1][0]["HF_HOME"] == "/lensmith/weights"
    assert source[1][1] == "/root/lensmith"
    assert (source[1][0] / "models" / "nano" / "config.json").exists()
    assert (source[1][0] / "config" / "recipes" / "fashion-best.yaml").exists()
    # Modal imports the function by module and name.
    assert getattr(sys.modules[modal_app.work.__module__], modal_app.work.__name__) is modal_app.work

    monkeypatch.setattr(modal.Image, "debian_slim", slim)
    assert modal_app.build(options, ["wandb"])[0].name == app.name
    assert modal_app.build(replace(options, hours=2), ["wandb"])[0].name != app.name, "its retries would be replaced"
    assert modal_app.build(options)[0].name != app.name


def test_the_names_of_gpus_are_checked_locally() -> None:
    assert gpu("l40s") == "L40S"
    with pytest.raises(UserError, match=r"L40 isn't a GPU.*Did you mean 'L4.*Known GPUs: T4"):
        gpu("L40")
    with pytest.raises(UserError, match=r"several GPUs.*modal\.gpu=H100\."):
        gpu("H100:2")
    assert ModalOptions().gpu in PRICES


def test_prices_before_and_after() -> None:
    before = price_before(ModalOptions(gpu="L40S", hours=2, retries=1))
    assert "$1.95 per hour" in before
    assert "at most $7.80 for up to 2 attempts of 2 h" in before
    assert "2026-05-07" in before
    assert "price unknown" in price_before(ModalOptions(gpu="H200"))
    assert "10.0 min on T4: about $0.10" in price_after("T4", 600, PRICES["T4"])
    assert "price unknown" in price_after("H200", 600, PRICES["H200"])


def test_place_options_may_change_when_resuming(tmp_path: Path) -> None:
    from lensmith.runs.folder import same_recipe

    now = Recipe(modal=ModalOptions("T4", 1, 0, ["x"]))
    same_recipe(tmp_path, Recipe(), now)
    now.tune.rank = 3
    with pytest.raises(UserError, match=r"tune\.rank"):
        same_recipe(tmp_path, Recipe(), now)


def test_local_files_are_uploaded_once(shapes: Shapes, tiny_folder: Path, run: Run, tmp_path: Path) -> None:
    data = shapes(circle=3, square=3)
    (data / "circle" / ".hidden").write_text("x")
    (data / "circle" / "notes.txt").write_text("x")
    images, weights = uploads(a_job("my shapes", tiny_folder))
    assert sorted(images.files)[0] == "circle/circle 0.jpg"
    assert len(images.files) == 6
    assert (images.folder, images.volume, weights.volume) == ("my shapes", "data", "weights")
    assert "config.json" in weights.files
    volume = Volume(tmp_path / "volume")
    assert send(images, volume)
    assert len(volume.uploads) == 7
    assert not send(images, volume)
    data.rename(tmp_path / "moved")
    (moved, _) = uploads(a_job("folder:moved", tiny_folder))
    assert not send(moved, volume), "the content is the same"
    (tmp_path / "moved" / "circle" / "circle 0.jpg").write_bytes(b"other")
    (changed, _) = uploads(a_job("moved", tiny_folder))
    assert send(changed, volume)
    (tmp_path / "volume" / f"{changed.name}.json").unlink()  # as if it had been interrupted
    assert send(changed, volume)
    assert not uploads(a_job("demo:digits", Path("nano")))
    assert not uploads(Job("train", load_recipe(None, ["data.uri=hub:owner/name", "model.base=owner/name"])))


def test_archives_and_folders_of_other_kinds(run: Run, tmp_path: Path) -> None:
    Path("data").mkdir()
    Path("data/cifar-10.tar.gz").write_bytes(b"x")
    read = {"idx": "train-images-idx3-ubyte", "cifar": "data_batch_1.bin", "hub": "train-00000.parquet"}
    for name in (*read.values(), "secrets.env"):
        Path("data", name).write_bytes(b"x")
    (archive,) = uploads(a_job("data/cifar-10.tar.gz", Path("nano")))
    assert (archive.folder, set(archive.files)) == ("data", {"cifar-10.tar.gz"})
    for scheme, name in read.items():
        (folder,) = uploads(a_job(f"{scheme}:{tmp_path}/data", Path("nano")))
        assert folder.folder == f"{tmp_path}/data"
        assert name in folder.files
        assert "secrets.env" not in folder.files
    with pytest.raises(UserError, match=r"isn't a model: it has no config\.json"):
        uploads(a_job("demo:digits", tmp_path / "data"))
    with pytest.raises(UserError, match="No such file or folder: 'gone'"):
        uploads(a_job("idx:gone", Path("nano")))
    with pytest.raises(UserError, match="no model folder"):
        uploads(a_job("demo:digits", Path("./gone")))


@pytest.mark.parametrize("option", ["data.more=labels.jsonl", "data.corrections=table.csv"])
def test_files_that_are_not_sent_are_refused_before_a_machine_is_rented(option: str, shapes: Shapes, run: Run) -> None:
    folder = shapes(circle=8, square=8)
    with pytest.raises(UserError, match=r"names files of this machine, which aren't sent"):
        uploads(Job("train", load_recipe(None, [f"data.uri={folder}", option])))


def test_the_images_of_tables_are_uploaded(shapes: Shapes, run: Run, tmp_path: Path) -> None:
    shapes("tables/pictures", circle=2)
    (tmp_path / "tables" / "big.jpg").write_bytes(b"unused")
    table = tmp_path / "tables" / "t.csv"
    table.write_text("path,label\npictures/circle/circle 0.jpg,a\npictures/missing.jpg,b\n")
    (found,) = uploads(a_job("tables/t.csv", Path("nano")))
    assert found.folder == "tables"
    assert set(found.files) == {"t.csv", "pictures/circle/circle 0.jpg"}
    inside = tmp_path / "tables" / "pictures" / "circle" / "circle 1.jpg"
    table.write_text(f"path,label\n{inside},a\n")
    assert "pictures/circle/circle 1.jpg" in uploads(a_job("tables/t.csv", Path("nano")))[0].files
    for outside in ("../elsewhere.jpg", str(tmp_path / "elsewhere.jpg")):
        table.write_text(f"path,label\n{outside},a\n")
        with pytest.raises(UserError, match=r"outside its folder: .*elsewhere\.jpg"):
            uploads(a_job("tables/t.csv", Path("nano")))


def test_a_killed_attempt_resumes_from_its_checkpoint(tiny_folder: Path, cloud: Cloud, run: Run) -> None:
    job = a_job("demo:digits", tiny_folder, "data.train_limit=40", "data.test_limit=10", "train.checkpoint_minutes=0")
    whole: list[Any] = []
    first = perform(cloud, sent_values(job, "whole"), whole.append)
    assert {"accuracy", "training"} <= set(first["record"])
    assert first["record"]["run"] == "runs/mine"
    assert first["seconds"] > 0
    events = [worker.event_from(values) for values in whole]
    assert any("10 classes" in getattr(event, "text", "") for event in events)
    assert any(getattr(event, "task", "").startswith("scoring") for event in events)

    class Killed(BaseException):
        pass

    log = cloud.root / "runs" / "mine-1" / "metrics.jsonl"

    def kill(values: dict[str, Any]) -> None:
        if log.exists() and '"step": 2' in log.read_text():
            raise Killed

    remote_pause, worker.Reporter.PAUSE = worker.Reporter.PAUSE, 0.0
    try:
        with pytest.raises(Killed):
            perform(cloud, sent_values(job), kill)
    finally:
        worker.Reporter.PAUSE = remote_pause
    assert list((cloud.root / "runs" / "mine-1" / "checkpoint").iterdir())
    assert not (cloud.root / "runs" / "mine-1" / "result.json").exists()
    second = perform(cloud, sent_values(job), whole.append)
    steps = [row["step"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))
    weights = Path("adapter") / "adapter_model.safetensors"
    assert (cloud.root / "runs/mine-1" / weights).read_bytes() == (cloud.root / "runs/whole" / weights).read_bytes()
    attempts = json.loads((cloud.root / "runs" / "mine-1.attempts.json").read_text())["seconds"]
    assert len(attempts) == 2
    assert second["seconds"] == pytest.approx(sum(attempts))
    assert perform(cloud, sent_values(job), whole.append)["record"] == second["record"], "a finished run isn't repeated"


def test_user_errors_are_returned_and_other_errors_are_retried(tiny_folder: Path, cloud: Cloud, run: Run) -> None:
    outcome = perform(cloud, sent_values(a_job("demo:nothing", tiny_folder)), print)
    assert "nothing" in outcome["error"]
    with pytest.raises(RuntimeError, match="KeyError: 'options'"):
        perform(
            cloud,
            {
                k: v
                for k, v in sent_values(a_job("demo:digits", tiny_folder, verb="evaluate")).items()
                if k != "options"
            },
            print,
        )


def test_a_remote_training_equals_a_local_one(shapes: Shapes, tiny_folder: Path, cloud: Cloud, run: Run) -> None:
    shapes(circle=20, square=20)
    job = ["data.uri=my shapes", f"model.base={tiny_folder}", *QUICK, "modal.gpu=t4"]
    # The remote machine is this one, so files under absolute paths exist there already. Hence the relative link.
    os.symlink(tiny_folder, "tiny")
    job[1] = "model.base=tiny"
    code, out, err = run("train", *job, "--run", "there", "--on", "modal", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert "T4 at Modal: $0.59 per hour" in err
    assert "my shapes: 40 files" in err
    assert "min on T4: about $" in err
    assert "my shapes: 2 classes" in err, "progress is passed on"
    assert len(cloud.deployed) == 1
    note = json.loads(Path("there/place.json").read_text())
    assert note["state"] == "done"
    assert note["uri"] == "my shapes"
    assert note["dollars_per_hour"] == PRICES["T4"]
    assert note["dollars"] == pytest.approx(note["seconds"] / 3600 * 0.5904)
    assert record["run"] == "there"
    assert [path.name for path in Path("there").glob(".*")] == [".lock"]

    code, out, err = run("train", *job, "--run", "here", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == record["accuracy"]
    files = {path.relative_to("here") for path in Path("here").rglob("*") if path.is_file()}
    assert files == {path.relative_to("there") for path in Path("there").rglob("*") if path.is_file()} - {
        Path("place.json")
    }
    assert Path("here/recipe.yaml").read_text() != ""
    assert Path("here/predictions.parquet").read_bytes() == Path("there/predictions.parquet").read_bytes()

    code, out, err = run("evaluate", "there", "--run", "again", "--on", "modal")
    assert code == 0, err
    assert "uploaded before" in err
    assert "\ntuned " in out
    assert json.loads(Path("again/evaluation.json").read_text())["accuracy"] == record["accuracy"]
    code, out, _ = run("attach", "there")
    assert code == 0
    assert "\ntuned " in out


def test_detached_interrupted_and_attached_again(shapes: Shapes, tiny_folder: Path, cloud: Cloud, run: Run) -> None:
    shapes(circle=9, square=9)
    os.symlink(tiny_folder, "tiny")
    words = ["data.uri=my shapes", "model.base=tiny", *QUICK, "--run", "my run", "--on", "modal"]
    code, out, _ = run("evaluate", *words, "--detach")
    assert code == 0
    assert "lensmith attach 'my run'" in out
    assert {path.name for path in Path("my run").iterdir()} == {".lock", "place.json", "recipe.yaml"}
    assert "is still running on a remote machine" in run("evaluate", "--resume", "my run")[2]
    assert "is already running" in run("evaluate", "--resume", "my run", "--on", "modal")[2]

    def interrupt() -> None:
        raise KeyboardInterrupt

    cloud.before = interrupt
    code, out, err = run("attach", "my run")
    assert (code, out) == (130, "")
    assert "the job continues" in err
    assert "lensmith attach 'my run' --cancel" in err
    cloud.before = lambda: None
    code, out, err = run("attach", "my run")
    assert code == 0, err
    assert "\nzero-shot " in out
    assert Path("my run/report.html").exists()


def test_cancelled_failed_and_refused(shapes: Shapes, tiny_folder: Path, cloud: Cloud, run: Run) -> None:
    shapes(circle=9, square=9)
    os.symlink(tiny_folder, "tiny")
    words = ["data.uri=my shapes", "model.base=tiny", *QUICK, "--on", "modal", "--run"]
    run("train", *words, "c", "--detach")
    code, out, _ = run("attach", "c", "--cancel")
    assert code == 0
    assert "cancelled" in out
    assert cloud.calls["fc-0"].cancelled
    assert "has ended: cancelled" in run("attach", "c")[2]
    assert "nothing to cancel" in run("attach", "c", "--cancel")[2]
    assert "lensmith resume c" in run("evaluate", "--resume", "c", "--on", "modal")[2]

    run("evaluate", *words, "e", "--detach")
    cloud.calls["fc-1"].cloud_perform()  # it ends while nobody follows it
    assert "had already finished" in run("attach", "e", "--cancel")[1]
    assert "\nzero-shot " in run("attach", "e")[1]

    def fail() -> None:
        raise RuntimeError("CUDA error: misaligned address\nand more")

    cloud.before = fail
    code, _, err = run("train", *words, "f")
    assert code == 2
    assert "failed: CUDA error: misaligned address. To see its log: modal app logs lensmith-" in err
    assert "lensmith resume f --on modal" in err
    assert "Traceback" not in err
    cloud.before = lambda: None
    code, _, err = run("train", "--resume", "f", "--on", "modal")
    assert code == 0, err

    code, _, err = run("train", "train.tracker=wandb", *words, "runs/r")
    assert code == 2
    assert "needs the package wandb" in err
    assert not Path("runs/r").exists()


@pytest.mark.parametrize("sent_before", [False, True])
def test_a_local_run_is_resumed_remotely(
    shapes: Shapes, tiny_folder: Path, cloud: Cloud, run: Run, sent_before: bool
) -> None:
    shapes(circle=20, square=20)
    os.symlink(tiny_folder, "tiny")
    words = ["data.uri=my shapes", "model.base=tiny", *QUICK, "train.checkpoint_minutes=0"]

    last = 2

    def stop(_: Any, event: Any) -> None:
        if event.task == "training" and event.done == last:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Screen, "advance", stop)
        assert run("train", *words, "--run", "r")[0] == 130
        if sent_before:  # the remote copy is older than the local run
            note: dict[str, Any] = {"place": "modal", "state": "cancelled", "verb": "train", "name": "an older copy"}
            note |= {"call": "fc-1", "app": "ap-1", "gpu": "L40S", "dollars_per_hour": None}
            Path("r/place.json").write_text(json.dumps(note))
            last = 3
            assert run("train", "--resume", "r")[0] == 130
    assert list(Path("r/checkpoint").iterdir())
    steps = Path("r/metrics.jsonl").read_text()
    code, out, err = run("train", "--resume", "r", "--on", "modal", "--json")
    assert code == 0, err
    assert json.loads(out)["training"]["finished"]
    assert Path("r/metrics.jsonl").read_text().startswith(steps), "completed steps aren't repeated"
    assert not Path("r/checkpoint").exists()


def test_jobs_that_end_without_a_record(cloud: Cloud, run: Run) -> None:
    def ended(error: Exception) -> dict[str, Any]:
        def get(timeout: float) -> None:
            raise error

        return follow(SimpleNamespace(get=get), "name", silent)

    assert "ran out of time" in ended(modal.exception.FunctionTimeoutError("x"))["failed"]
    assert ended(modal.exception.RemoteError("killed\nlong"))["failed"] == "killed"
    assert ended(modal.exception.OutputExpiredError()) == {"record": None}, "the run may be in its volume"
    with pytest.raises(modal.exception.ConnectionError):  # the job continues
        ended(modal.exception.ConnectionError("x"))


def test_unread_progress_is_replaced_by_newer_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    class Events:
        def __init__(self) -> None:
            self.waiting: list[Any] = []

        def put(self, event: Any, block: bool, partition: str) -> None:
            assert partition == "n"
            if len(self.waiting) == 2:
                raise queue.Full
            self.waiting.append(event)

        def clear(self, partition: str) -> None:
            self.waiting.clear()

    events = Events()
    saved: list[bool] = []
    monkeypatch.setattr(modal.Queue, "from_name", lambda name, **_: events)
    volume = SimpleNamespace(commit=lambda: saved.append(True))
    monkeypatch.setattr(modal.Volume, "from_name", lambda name, **_: volume)
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)

    def busy(job: Any, put: Any, commit: Any) -> dict[str, Any]:
        tell = worker.Reporter(put, commit)
        for i in range(3):
            tell(Note(str(i)))
        for done in (1, 2, 3):
            clock.sleep(1)
            tell(Advance("t", done, 3, 1.0, 1.0))
        commit()
        return {"record": {}}

    monkeypatch.setattr(modal_app, "attempt", busy)
    assert modal_app.work({"name": "n"}) == {"record": {}}
    # Counts in quick succession are dropped, except the last.
    assert [worker.event_from(e) for e in events.waiting] == [Advance("t", 3, 3, 1.0, 1.0)]
    assert saved


def test_counts_are_passed_on_at_a_limited_rate_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, put, saves = Clock(), list[Any](), list[float]()
    clock.now = 0.0  # as on a machine that has just started
    monkeypatch.setattr(worker, "time", clock)
    tell = worker.Reporter(put.append, lambda: saves.append(clock.now))
    for done in range(100):
        tell(Advance("t", done, 1000, 1.0, 1.0))
        clock.sleep(0.75)
    assert [event["done"] for event in put] == list(range(0, 100, 3))
    assert saves == [60.0]


def test_a_short_attempt_counts_too(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)

    def work(*_: Any) -> dict[str, Any]:
        clock.sleep(0.004)
        raise ValueError("a bug")

    monkeypatch.setattr(worker, "_do", work)
    (cloud.root / "runs").mkdir(parents=True)
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="a bug"):
            perform(cloud, {"name": "mine-1"}, print)
        kept = json.loads((cloud.root / "runs" / "mine-1.attempts.json").read_text())["seconds"]
        assert kept == pytest.approx([0.004] * attempt)


def test_files_copied_back_are_complete_and_inside_the_folder(tmp_path: Path) -> None:
    volume, folder = Volume(tmp_path / "volume"), tmp_path / "run"
    folder.mkdir()
    assert not copy_back(volume, "r", folder)
    inside = tmp_path / "volume" / "r"
    (inside / "adapter").mkdir(parents=True)
    (inside / ".result.json.part").write_text("half")
    (inside / "result.json").write_text("whole")
    (inside / "adapter" / "weights").write_bytes(b"0123456789")
    cut = Volume.read_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Volume, "read_file", lambda self, path: iter([next(cut(self, path))]))
        with pytest.raises(UserError, match="incomplete"):
            copy_back(volume, "r", folder)
    assert not list(folder.iterdir()), "no incomplete file remains"
    assert copy_back(volume, "r", folder)
    assert {p.name for p in folder.rglob("*")} == {"result.json", "adapter", "weights"}


def test_without_a_token_or_the_package(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("MODAL_")} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lensmith", "train", "data.uri=demo:digits", "--run", "a/r", "--on", "modal"],
        cwd=tmp_path, env=bare, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "modal token new" in line
    assert "MODAL_TOKEN_ID" in line
    assert not (tmp_path / "a").exists()
    monkeypatch.setitem(sys.modules, "modal", None)
    code, _, err = run("train", "--run", "a/r", "--on", "modal")
    assert code == 2
    assert "pip install 'lensmith[modal]'" in err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (
            modal.exception.ConnectionError("Could not connect to the Modal server."),
            "can't be reached: Could not connect",
        ),
        (modal.exception.NotFoundError("Secret 'x' not found"), "Modal reports: Secret 'x' not found"),
        (OSError("name resolution"), "can't be reached: name resolution"),
    ],
)
def test_a_job_that_cannot_start_leaves_nothing(
    trouble: Exception,
    says: str,
    cloud: Cloud,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Any) -> None:
        raise trouble

    monkeypatch.setattr(modal.App, "deploy", fail)
    code, out, err = run("train", "data.uri=demo:digits", "--run", "a/b", "--on", "modal")
    assert code == 2
    assert out == ""
    assert says in err
    assert not Path("a").exists()
    Path("mine").mkdir()
    run("train", "data.uri=demo:digits", "--run", "mine", "--on", "modal")
    assert not list(Path("mine").iterdir()), "an existing empty folder is kept"
