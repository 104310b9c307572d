"""The connection to the database that a sweep's workers share, and which workers are still alive.

The database is any that Optuna supports, by default an SQLite file in the run folder. It may be unreachable at times.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.progress import Note, Tell
from lensmith.search.trials import quiet_optuna

OPENING = 5.0
"""Maximum wait in seconds for a database that has never responded, since its address may be wrong."""
ACTIVE: set[str] = set()
"""Tokens of the workers in this process."""


class Lost(Exception):
    """Another worker has ended an entry of this one, because it sent no heartbeat for too long."""


class Gone(UserError):
    """The database no longer responds."""


class Database:
    """A worker's connection to the database. Calls wait while the database doesn't respond, and report it.

    Args:
        url: a URL of SQLAlchemy.
        wait: maximum wait in seconds.
        tell: called with notes.

    Raises:
        UserError: the URL is invalid, its driver is missing, or the database doesn't respond (`Gone`).
    """

    def __init__(self, url: str, wait: float, tell: Tell) -> None:
        self.shown, self.wait, self.tell = safe_url(url), wait, tell
        """The URL as it may be shown; see `safe_url`."""
        self.hint = "Check that it is running, and that sweep.storage is its address."
        """What to do when it doesn't respond."""
        self.worker = this_process() | {"token": uuid.uuid4().hex}
        self.storage: Any = self._with_retries(lambda: _open(url), min(wait, OPENING), lambda _: None)
        ACTIVE.add(self.worker["token"])

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        ACTIVE.discard(self.worker["token"])
        self.storage.engine.dispose()

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of Optuna's storage.

        Raises:
            Gone: the database doesn't respond.
            Lost: another worker has ended the trial that was to be changed.
            KeyError: the study or trial doesn't exist.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            return self._with_retries(lambda: getattr(self.storage, method)(*args), self.wait, self.tell)
        except UpdateFinishedTrialError:
            raise Lost from None

    def _with_retries(self, action: Callable[[], Any], wait: float, tell: Tell) -> Any:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        since, pause = 0.0, 0.25
        while True:
            try:
                result = action()
            except (StorageInternalError, SQLAlchemyError, OSError) as error:
                now, reason = time.monotonic(), _reason(error)
                if not since:
                    since = now
                    tell(Note(f"The database {self.shown} doesn't respond: {reason}. Waiting up to {wait:.0f} s."))
                left = since + wait - now
                if left <= 0:
                    raise Gone(f"The database {self.shown} doesn't respond: {reason}.", self.hint) from None
                time.sleep(min(pause, left))
                pause = min(2 * pause, 15.0)
                continue
            if since:
                tell(Note("The database responds again."))
            return result


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file."""
    with quiet_optuna():
        from sqlalchemy.engine import URL

    # Optuna expands braces in URLs, so they are escaped.
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    return url.replace("{", "{{").replace("}", "}}")


def safe_url(url: str) -> str:
    """A URL as it may be shown: without its password, and without query parameters, which may contain one."""
    with quiet_optuna():
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UserError(
            "sweep.storage is not the URL of a database.", "Write it as postgresql://user@host/name."
        ) from None
    file = parsed.get_backend_name() == "sqlite" and parsed.database
    return str(file) if file else parsed.set(query={}).render_as_string(hide_password=True)


def _open(url: str) -> Any:
    """Optuna's storage at a URL."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import NoSuchModuleError

    backend = make_url(url).get_backend_name()
    # SQLite locks its file while another worker writes; a server may have closed an idle connection.
    options = {"connect_args": {"timeout": 20}} if backend == "sqlite" else {"pool_pre_ping": True}
    with quiet_optuna() as optuna:
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (ImportError, NoSuchModuleError) as error:
            raise UserError(
                f"The database {safe_url(url)} can't be used: {_reason(error)}.",
                "Install its driver, such as `pip install psycopg[binary]`, or name one: postgresql+psycopg://...",
            ) from None
        except RuntimeError as error:  # its tables were written by another version of Optuna
            raise UserError(f"The database {safe_url(url)} can't be used: {_reason(error)}.") from None


def _reason(error: BaseException) -> str:
    """The first line of the original cause of an error."""
    while cause := getattr(error, "orig", None) or error.__cause__:
        error = cause
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def this_process() -> dict[str, Any]:
    """What identifies this process among all processes on all machines."""
    import psutil

    space = ""
    with suppress(OSError):  # two containers may share host names and process ids
        space = os.readlink("/proc/self/ns/pid")
    pid = os.getpid()
    return {"host": socket.gethostname(), "space": space, "pid": pid, "since": psutil.Process(pid).create_time()}


def is_alive(worker: dict[str, Any]) -> bool | None:
    """Whether a worker is still alive; None if this process can't tell."""
    import psutil

    mine = this_process()
    if any(worker.get(key) != mine[key] for key in ("host", "space")):
        return None
    if worker["pid"] == mine["pid"] and abs(worker["since"] - mine["since"]) < 5:
        return worker["token"] in ACTIVE
    try:
        other = psutil.Process(worker["pid"])
        return bool(abs(other.create_time() - worker["since"]) < 5 and other.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
