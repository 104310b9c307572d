"""A Ray cluster of two nodes on this machine, started for these tests and ended by its processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from lensmith.errors import UserError
from lensmith.places.ray.cluster import client, end_node, free_port, start_node
from tests.bulk.conftest import credentials


@dataclass
class Cluster:
    """A head node that has no cores for work, and nodes with one core each."""

    folder: Path
    port: int
    dashboard: int
    s3: int
    """The port at which its nodes look for an S3 server."""
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def add(self) -> None:
        """Start another node, and wait for it. Nodes that start at the same time may get in each other's way."""
        with FileLock("/tmp/lensmith-ray-tests.lock"):
            for _ in range(3):
                node = start_node(self.folder, 1, head=f"127.0.0.1:{self.port}")
                try:
                    self.wait(len(self.nodes) + 1, 30)
                except TimeoutError:
                    end_node(node)
                    continue
                self.nodes.append(node)
                return
        raise TimeoutError("a node doesn't start")

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a node with all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(node.pid, 9)
        node.wait()
        self.nodes.remove(node)

    def wait(self, count: int, seconds: float = 90) -> None:
        """Wait until the cluster has this number of cores."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(UserError, KeyError, RuntimeError):
                answer = client(self.address)._do_request("GET", "/nodes?view=summary").json()
                if sum(row["raylet"].get("state") == "ALIVE" for row in answer["data"]["summary"]) > count:
                    return
            time.sleep(0.5)
        raise TimeoutError(f"the cluster doesn't have {count} nodes beside its head")

    def metrics(self) -> list[str]:
        """What Prometheus would read from each node."""
        rows = client(self.address)._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
        alive = [row for row in rows if row["raylet"]["state"] == "ALIVE"]
        found = []
        for row in alive:
            url = f"http://{row['ip']}:{row['raylet']['metricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                found.append(answer.read().decode())
        return found

    def options(self, storage: Path | str, workers: int = 2) -> list[str]:
        """The words of a command that runs here."""
        return ["--on", "ray", f"ray.address={self.address}", f"ray.storage={storage}", f"ray.workers={workers}"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster; its nodes see the tests' own cache and scratch folders."""
    folder = Path("/tmp") / f"lr{os.getpid()}"  # Ray's sockets need short paths
    folder.mkdir()
    made = Cluster(folder, free_port(), free_port(), free_port())
    before = dict(os.environ)
    os.environ |= {"TMPDIR": str(folder), "LENSMITH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    os.environ |= credentials(made.s3)
    os.environ["RAY_metrics_report_interval_ms"] = "500"  # noqa: SIM112 (as Ray reads it)
    with FileLock("/tmp/lensmith-ray-tests.lock"):
        head = start_node(folder, 0, port=made.port, dashboard=made.dashboard)
        try:
            made.wait(0)
        except TimeoutError:
            end_node(head)
            raise
    try:
        for _ in range(2):
            made.add()
        yield made
    finally:
        for node in [*made.nodes, head]:
            end_node(node)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A folder that all nodes share."""
    return tmp_path / "shared storage"


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of this test's own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL isn't installed (apt-get install postgresql)")
    folder, port = Path(tempfile.mkdtemp(prefix="lpg", dir="/tmp")), free_port()
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL doesn't run as root
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    call = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*as_user, found[-1] / "initdb", "-A", "trust", "-U", "me", "-D", folder / "db"], **call)  # type: ignore[call-overload]
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
    control = [*as_user, found[-1] / "pg_ctl", "-D", folder / "db"]
    subprocess.run([*control, "-w", "-l", folder / "log", "-o", options, "start"], **call)  # type: ignore[call-overload]
    try:
        yield f"postgresql+psycopg://me@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **call)  # type: ignore[call-overload]
        shutil.rmtree(folder, ignore_errors=True)


def logs(storage: Path) -> str:
    """What jobs have told, for messages of failed tests."""
    found = sorted((storage / "jobs").glob("*/*.json"))
    return "\n".join(path.read_text() for path in found if path.name != "job.json")
