"""Of two commands that would write one run folder, one is refused, and told who has it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lensmith.config import Recipe
from lensmith.errors import UserError
from lensmith.runs.folder import claimed, new_run_folder
from lensmith.runs.lock import LOCK, locked

pytest.importorskip("fcntl", reason="this system has no locks")


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    for k in range(30):
        folder = tmp_path / f"run {k}"
        if k % 2:  # an empty folder may be used
            folder.mkdir()
        results: list[Path | UserError] = []
        barrier = threading.Barrier(4)

        def make(
            folder: Path = folder, results: list[Path | UserError] = results, at: threading.Barrier = barrier
        ) -> None:
            at.wait()
            try:
                results.append(new_run_folder(folder))
            except UserError as error:
                results.append(error)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count(folder) == 1
        assert all("being written by" in str(result) for result in results if result != folder)


def test_runs_without_a_name_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *args: "20261126-120000")
    folders = [claimed(None, Recipe(), "train")[0] for _ in range(3)]
    assert [folder.name for folder in folders] == [f"run-train-20261126-120000{end}" for end in ("", "-2", "-3")]


def test_another_process_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lensmith.runs.lock import locked\n"
        "file = locked(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=rf"being written by another process \({other.pid} on .*, since 2"):
            locked(tmp_path)
        other.send_signal(signal.SIGKILL)
    assert locked(tmp_path), "a lock ends with its process"


def test_a_process_may_go_on_with_its_own_run(tmp_path: Path) -> None:
    first = locked(tmp_path)
    assert locked(tmp_path) is first
    assert f'"process": {os.getpid()}' in (tmp_path / LOCK).read_text()
