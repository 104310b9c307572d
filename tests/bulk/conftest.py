"""A pool of workers inside the test's process that fail as told, and a model that answers without weights."""

from __future__ import annotations

import random
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lensmith.bulk.shard as shard_module
from lensmith.bulk.pool import Event, Failed, Finished, Lost, Model, Ready
from lensmith.bulk.shard import Task, predict_shard
from lensmith.bulk.sources import Piece, module
from lensmith.errors import ImageError
from lensmith.records import Prediction

LABELS = ("circle", "square")


class Unreliable:
    """Workers that die or fail with a certain probability, before or after they have written their part.

    Args:
        poison: shards that kill their worker each time.
    """

    def __init__(self, count: int = 3, death: float = 0.0, seed: int = 0, poison: Sequence[int] = ()) -> None:
        self.count, self.poison, self.deaths = count, set(poison), 0
        self._death, self._random = death, random.Random(seed)
        self._queues: dict[int, deque[tuple[int, list[Piece]]]] = {}
        self._events = deque[Event]()
        self._started = 0
        self.done: list[int] = []

    def start(self, model: Model, task: Task) -> None:
        self._task = task
        for _ in range(self.count):
            self._spawn()

    def _spawn(self) -> None:
        self._queues[self._started] = deque()
        self._events.append(Ready(self._started))
        self._started += 1

    def submit(self, worker: int, shard: int, pieces: Sequence[Piece]) -> None:
        assert len(self._queues[worker]) < 2, "a worker has at most two shards"
        self._queues[worker].append((shard, list(pieces)))

    def events(self, seconds: float) -> list[Event]:
        if self._events:
            return [self._events.popleft()]
        busy = [worker for worker, queue in self._queues.items() if queue]
        worker = self._random.choice(busy)
        shard, pieces = self._queues[worker][0]
        if shard in self.poison or self._random.random() < self._death / 2:
            return self._die(worker)
        classifier: Any = None
        try:
            part = predict_shard(classifier, self._task, shard, pieces)
        except OSError as error:
            self._queues[worker].popleft()
            return [Failed(worker, shard, str(error))]
        if self._random.random() < self._death / 2:  # the part is there, but nobody hears of it
            return self._die(worker)
        self._queues[worker].popleft()
        self.done.append(shard)
        return [Finished(worker, part)]

    def _die(self, worker: int) -> list[Event]:
        del self._queues[worker]
        self.deaths += 1
        self._spawn()
        return [Lost(worker, "killed by SIGKILL")]

    def close(self) -> None:
        self._queues.clear()


def answer(name: str) -> str:
    """What the model without weights says of an image."""
    return LABELS[sum(name.encode(errors="surrogateescape")) % 2]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be answered without a model: by the images' names, after they have been read."""

    def predict(_: Any, task: Task, pieces: Sequence[Piece]) -> list[Prediction]:
        found = []
        for piece in pieces:
            for name, load in module(task.kind).items(piece):
                try:
                    content = load()
                    if isinstance(content, Path) and not content.is_file():
                        raise ImageError(f"There is no image file {name}.", "Check the path.")
                except ImageError as error:
                    found.append(Prediction(name, None, error=str(error)))
                    continue
                found.append(Prediction(name, None, answer(name), 0.75, scores=(0.1, 0.2)))
        return found

    monkeypatch.setattr(shard_module, "_predict", predict)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with 60 small pictures in two folders."""
    for i in range(60):
        folder = tmp_path / "many pictures" / ("a" if i % 2 else "b c")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    return tmp_path / "many pictures"


class S3:
    """moto's server, which can be stopped and started again with what it holds."""

    def __init__(self, port: int = 0) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()
        self.url = f"http://127.0.0.1:{self.port}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        self.client: Any = boto3.client("s3", endpoint_url=self.url, **keys)
        self.client.create_bucket(Bucket="bucket")

    def names(self, prefix: str = "") -> list[str]:
        """The objects in the bucket."""
        return [row["Key"] for row in self.client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])]

    def expire(self, requests: int = 0) -> None:
        """Refuse the credentials after this number of requests."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", str(requests).encode())
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request).close()

    def stop(self) -> None:
        """Stop answering."""
        self._server.stop()

    def restart(self) -> None:
        """Answer again, at the same port, with all objects."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()


def credentials(port: int) -> dict[str, str]:
    """The environment that reaches the server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, port: int = 0) -> Iterator[S3]:
    """An S3 server on loopback (moto's), with the bucket `bucket`, as the environment's credentials reach it."""
    from lensmith.bulk import storage

    server = S3(port)
    for name, value in credentials(server.port).items():
        monkeypatch.setenv(name, value)
    storage._made.cache_clear()
    try:
        yield server
    finally:
        with suppress(OSError):  # it may have been stopped
            server.expire(10**9)
        server.stop()
        storage._made.cache_clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """See `serving`."""
    with serving(monkeypatch) as server:
        yield server
