"""The cluster: a running one that is reached through its dashboard, or one that is started for a single command."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensmith.errors import UserError, optional, reason

_STARTS = 90.0
"""Seconds that a local cluster may take to start."""


def client(address: str) -> Any:
    """A client of the cluster's Jobs API.

    Raises:
        UserError: Ray isn't installed; there is no cluster at the address, or it has another version of Ray.
    """
    ray = optional("ray", "ray", "--on ray")
    from ray.job_submission import JobSubmissionClient

    if not re.match(r"https?://", address):
        raise UserError(
            f"ray.address is {address!r}, which isn't the address of a dashboard.", "Write it as http://HOST:8265."
        )
    try:
        found = JobSubmissionClient(address)
        theirs = found._do_request("GET", "/api/version").json().get("ray_version")
    except Exception as error:  # of its HTTP library, or what a server that isn't Ray's says
        raise UserError(
            f"There is no Ray cluster at {address}: {reason(error)}.",
            "Check that its head node is running, and that its dashboard can be reached from here.",
        ) from None
    if theirs != ray.__version__:
        raise UserError(
            f"Ray is version {theirs} on the cluster at {address}, and {ray.__version__} on this machine.",
            "Install the same version on both.",
        )
    return found


@contextmanager
def local_cluster(cpus: int, gpus: int = 0) -> Iterator[str]:
    """Ray on this machine, with a head node of its own, which ends with the block. Yields its address.

    Raises:
        UserError: it doesn't start.
    """
    optional("ray", "ray", "--on ray")
    dashboard, port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="lensmith-ray-", ignore_cleanup_errors=True) as folder:
        process = start_node(Path(folder), cpus, gpus, port=port, dashboard=dashboard)
        try:
            _wait_for(process, dashboard, Path(folder))
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            end_node(process)


def start_node(
    folder: Path,
    cpus: int,
    gpus: int = 0,
    port: int = 0,
    dashboard: int = 0,
    head: str = "",
    ip: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a node of Ray in a process group of its own: a head node, or one that joins `head` (HOST:PORT).

    Args:
        prefix: words before the command, such as those that run it in a network namespace.
    """
    python = _python(folder)
    command = [*prefix, python, "-m", "ray.scripts.scripts", "start", "--block", f"--num-cpus={cpus}"]
    command += [
        f"--num-gpus={gpus}",
        "--disable-usage-stats",
        f"--node-ip-address={ip}",
        "--object-store-memory=100000000",
    ]
    if head:
        command += [f"--address={head}"]
    else:
        command += ["--head", f"--port={port}", "--include-dashboard=true", f"--dashboard-host={ip}"]
        command += [f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
    # Jobs call `python`, which is this one on a cluster that is started here.
    environment = os.environ | {"PATH": f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    log = (folder / f"node-{free_port()}.log").open("wb")
    with log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )


def _python(folder: Path) -> str:
    """This Python by a path without spaces, since Ray starts some of its processes through a shell without quotes."""
    if " " not in sys.executable:
        return sys.executable
    link = folder / "environment"
    with suppress(FileExistsError):
        link.symlink_to(Path(sys.executable).parent.parent, target_is_directory=True)
    return str(link / "bin" / Path(sys.executable).name)


def end_node(process: subprocess.Popen[bytes]) -> None:
    """End a node with all of its processes. `ray stop` would end every node on the machine."""
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if number == signal.SIGTERM:
            time.sleep(0.5)


def _wait_for(process: subprocess.Popen[bytes], dashboard: int, folder: Path) -> None:
    until = time.monotonic() + _STARTS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with suppress(UserError):
            client(f"http://127.0.0.1:{dashboard}").list_jobs()  # answers once its agent is there
            return
        time.sleep(0.5)
    told = [
        line for path in folder.glob("node-*.log") for line in path.read_text(errors="replace").splitlines() if line
    ]
    raise UserError(
        f"Ray doesn't start on this machine: {told[-1] if told else 'it says nothing'}.", "See `ray start`."
    )


def free_port() -> int:
    """A port of this machine that nobody uses, outside the range that Ray gives to its workers."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if not 10002 <= port <= 19999:
            return port
    raise UserError("There is no free port on this machine.")
