"""Stand-ins for Modal's service: volumes in local folders, and a function that runs in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO

import modal
import pytest

from lensmith.jobs import worker
from lensmith.places.modal import app as modal_app


class Volume:
    """A volume that is a local folder, with the methods of Modal that Lensmith uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def listdir(self, path: str, *, recursive: bool = False) -> list[Any]:
        root = self.folder / path.lstrip("/")
        if not root.exists():
            raise modal.exception.NotFoundError(path)
        kinds = modal.types.FileEntryType
        return [
            SimpleNamespace(
                path=found.relative_to(self.folder).as_posix(),
                type=kinds.DIRECTORY if found.is_dir() else kinds.FILE,
                size=found.stat().st_size,
            )
            for found in (root.rglob("*") if recursive else root.iterdir())
        ]

    def read_file(self, path: str) -> Iterator[bytes]:
        content = (self.folder / path).read_bytes()
        yield content[:5]
        yield content[5:]

    @contextmanager
    def batch_upload(self, force: bool = False) -> Iterator[Volume]:
        yield self

    def put_file(self, source: Path | BinaryIO, path: str) -> None:
        target = self.folder / PurePosixPath(path.lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() if isinstance(source, Path) else source.read())
        self.uploads.append(path)


class Cloud:
    """The account: volumes, events, deployed apps, and calls, which run when their result is requested."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "lensmith"
        self.away = folder / "remote"
        self.volumes: dict[str, Volume] = {}
        self.events: dict[str, list[Any]] = {}
        self.deployed: list[str] = []
        self.calls: dict[str, Call] = {}
        self.before: Callable[[], Any] = lambda: None
        """Called while waiting for a call."""

    def volume(self, name: str, **_: Any) -> Volume:
        short = name.removeprefix("lensmith-")
        return self.volumes.setdefault(short, Volume(self.root / short))

    def get_many(self, n: int, block: bool, partition: str) -> list[Any]:
        assert not block
        waiting = self.events.get(partition, [])
        some, self.events[partition] = waiting[:n], waiting[n:]
        return some

    def function(self, app: str, name: str) -> Any:
        def hydrate() -> None:
            if app not in self.deployed:
                raise modal.exception.NotFoundError(app)

        def spawn(job: dict[str, Any]) -> Call:
            call = Call(self, json.loads(json.dumps(job)), f"fc-{len(self.calls)}")  # only plain values are sent
            self.calls[call.object_id] = call
            return call

        assert name == modal_app.FUNCTION
        return SimpleNamespace(hydrate=hydrate, spawn=spawn)


class Call:
    """One call of the function."""

    def __init__(self, cloud: Cloud, job: dict[str, Any], object_id: str) -> None:
        self.cloud, self.job, self.object_id = cloud, job, object_id
        self.asked, self.outcome, self.cancelled = 0, None, False

    def get(self, timeout: float) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise TimeoutError
        self.cloud.before()
        if self.outcome is None:
            self.outcome = self.cloud_perform()
        return self.outcome

    def cloud_perform(self) -> Any:
        """Run the real worker, in a working directory that the local machine doesn't have."""
        here = Path.cwd()
        events = self.cloud.events.setdefault(self.job["name"], [])
        try:
            return perform(self.cloud, self.job, events.append)
        finally:
            os.chdir(here)

    def cancel(self, terminate_containers: bool) -> None:
        self.cancelled = terminate_containers


def perform(cloud: Cloud, job: dict[str, Any], put: Callable[[Any], Any]) -> Any:
    """`worker.attempt` on a fresh machine that sees the cloud's volumes."""
    shutil.rmtree(cloud.away, ignore_errors=True)
    return worker.attempt(job | {"cwd": str(cloud.away)}, put, lambda: None, cloud.root)


@pytest.fixture
def cloud(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """An account at Modal, within this process."""
    account = Cloud(tmp_path_factory.mktemp("cloud"))
    monkeypatch.setattr(modal.Client, "from_env", lambda: None)
    monkeypatch.setattr(modal.Volume, "from_name", account.volume)
    monkeypatch.setattr(modal.Queue, "from_name", lambda name, **_: account)
    monkeypatch.setattr(modal.Function, "from_name", account.function)
    monkeypatch.setattr(modal.FunctionCall, "from_id", account.calls.__getitem__)
    monkeypatch.setattr(modal.App, "deploy", lambda app: account.deployed.append(app.name))
    # The machine's description is the real one, which needs real volumes of Modal.
    build = modal_app.build

    def described(*args: Any) -> Any:
        with monkeypatch.context() as real:
            real.setattr(modal.Volume, "from_name", FROM_NAME)
            return build(*args)

    monkeypatch.setattr("lensmith.places.modal.build", described)
    return account


FROM_NAME = modal.Volume.from_name
