"""What can't work is said before anything is sent, with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lensmith.bulk.storage import Storage
from lensmith.errors import UserError
from lensmith.places.ray import driver, stored
from lensmith.places.ray.stored import Events, archive, read_events, send, unpacked
from tests.conftest import Run, Shapes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ray.address=http://127.0.0.1:9", "ray.storage=x"], "There is no Ray cluster at http://127.0.0.1:9: "),
        (["ray.address=127.0.0.1:9", "ray.storage=x"], "which isn't the address of a dashboard. Write it as http://"),
        (["ray.address=http://127.0.0.1:9"], "needs a storage that it shares with this machine."),
        (["--detach"], "A job on this machine can't be detached. Name a cluster with ray.address."),
        (["ray.workers=0"], "ray.workers"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused(words: list[str], sentence: str, run: Run, shapes: Shapes) -> None:
    code, _, err = run("probe", shapes(circle=3, square=3), "--on", "ray", "--run", "r", *words)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not Path("r").exists()


def test_a_sweep_on_several_machines_refuses_sqlite(run: Run, shapes: Shapes) -> None:
    words = ["sweep", shapes(circle=3, square=3), "--on", "ray", "ray.workers=2"]
    for more in ([], ["sweep.storage=sqlite:///x.db"]):
        code, _, err = run(*words, *more)
        assert code == 2
        assert "can't share an SQLite file" in err
        assert "postgresql://user@host/name" in err


def test_an_outside_model_is_asked_from_here(run: Run, shapes: Shapes) -> None:
    words = ["label", shapes(circle=3), "model.base=openai:x", "--labels", "a,b", "--on", "ray"]
    code, _, err = run(*words)
    assert code == 2
    assert "openai:x is asked from this machine." in err


def test_another_version_of_lensmith_is_refused_with_both() -> None:
    with pytest.raises(UserError, match=r"on the cluster, and 9\.9 on this machine\."):
        driver.same_versions({"lensmith": "9.9"})


class _Upload:
    """Files as `jobs.uploads` describes them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.stored = str(folder), f"data/{name}"
        self.files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_an_upload_is_sent_once_fetched_once_and_checked(
    shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, storage = shapes(circle=3, square=2), Storage(str(tmp_path / "storage"))
    monkeypatch.setattr(stored, "scratch", lambda: tmp_path / "node")
    upload: Any = _Upload(folder, stored.content_digest(folder))
    assert send(upload, storage)
    assert not send(upload, storage)
    there = unpacked(upload.stored, storage)
    assert stored.content_digest(there) == stored.content_digest(folder)
    (tmp_path / "storage" / archive(upload.stored)).unlink()
    assert unpacked(upload.stored, storage) == there, "fetched once a machine"
    damaged: Any = _Upload(folder, "0123456789")  # its content isn't that of its name
    send(damaged, storage)
    with pytest.raises(UserError, match=r"data/0123456789\.tar in .* is damaged"):
        unpacked(damaged.stored, storage)
    with pytest.raises(UserError, match=r"has no uploads/data/none\.tar"):
        unpacked("data/none", storage)


def test_progress_is_kept_for_who_comes_back(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    events = Events(storage, "j")
    events.put({"text": "begun", "detail": False})
    for done in range(5):
        events.put({"task": "training", "done": done})
    events.put({"text": "ended", "detail": False})
    found = read_events(storage, "j")
    assert [event.get("done", event.get("text")) for event in found] == ["begun", 4, "ended"]
    assert [event["number"] for event in found] == [1, 6, 7]
    Events(storage, "j").put({"text": "again", "detail": False})
    assert read_events(storage, "j")[-1]["number"] == 8
    assert json.loads((tmp_path / "jobs" / "j" / "events.json").read_text())


def test_progress_that_is_read_while_it_is_replaced_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    Events(storage, "j").put({"text": "begun", "detail": False})
    real, torn = Storage.read, [True, True, False]
    monkeypatch.setattr(Storage, "read", lambda self, name: real(self, name)[: 20 if torn.pop(0) else None])
    assert [event["text"] for event in read_events(storage, "j")] == ["begun"]
    assert torn == []


def test_work_does_not_wait_for_a_storage_that_keeps_no_progress(tmp_path: Path) -> None:
    import time

    storage = Storage(str(tmp_path), wait=600)
    events = Events(storage, "j")
    events._storage.files = None  # whatever is asked of it fails
    (tmp_path / "jobs").write_text("in the way")
    began = time.monotonic()
    with pytest.raises((UserError, OSError)):
        events.put({"text": "lost", "detail": False})
    assert time.monotonic() - began < 10
    (tmp_path / "jobs").unlink()
    events.put({"text": "kept", "detail": False})
    assert [event["text"] for event in read_events(storage, "j")] == ["lost", "kept"]
