"""A worker's way to the database that a sweep's workers share, which may go away for a while; and who is at work still.

The database is any that Optuna speaks to, by default an SQLite file in the run folder.
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
"""Seconds that a database is waited for which has never answered: its address may be wrong."""
LIVING: set[str] = set()
"""The workers of this process."""


class Lost(Exception):
    """An entry was ended by another worker, because this one gave no sign of life for long."""


class Gone(UserError):
    """The database doesn't answer any more."""


class Database:
    """A worker's way to the database. Every call waits for one that doesn't answer, and says so.

    Args:
        url: as SQLAlchemy writes it.
        wait: seconds to wait.

    Raises:
        UserError: the address is none, its driver is missing, or it doesn't answer (`Gone`).
    """

    def __init__(self, url: str, wait: float, tell: Tell) -> None:
        self.shown, self.wait, self.tell = shown(url), wait, tell
        self.hint = "Is it running, and is sweep.storage its address?"
        """What to do when it doesn't answer."""
        self.worker = this_process() | {"token": uuid.uuid4().hex}
        self.storage: Any = self._patiently(lambda: _open(url), min(wait, OPENING), lambda _: None)
        LIVING.add(self.worker["token"])

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        LIVING.discard(self.worker["token"])
        self.storage.engine.dispose()

    def call(self, method: str, *args: Any) -> Any:
        """What a method of Optuna's storage gives.

        Raises:
            Gone: the database doesn't answer.
            Lost: what is to be changed has been ended by another worker.
            KeyError: there is no such study or trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            return self._patiently(lambda: getattr(self.storage, method)(*args), self.wait, self.tell)
        except UpdateFinishedTrialError:
            raise Lost from None

    def _patiently(self, action: Callable[[], Any], wait: float, tell: Tell) -> Any:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        since, pause = 0.0, 0.25
        while True:
            try:
                found = action()
            except (StorageInternalError, SQLAlchemyError, OSError) as error:
                now, reason = time.monotonic(), _reason(error)
                if not since:
                    since = now
                    tell(Note(f"The database {self.shown} doesn't answer: {reason}. Waiting up to {wait:.0f} s."))
                left = since + wait - now
                if left <= 0:
                    raise Gone(f"The database {self.shown} doesn't answer: {reason}.", self.hint) from None
                time.sleep(min(pause, left))
                pause = min(2 * pause, 15.0)
                continue
            if since:
                tell(Note("The database answers again."))
            return found


def sqlite_url(path: Path) -> str:
    """The address of a database file."""
    with quiet_optuna():
        from sqlalchemy.engine import URL

    # Optuna takes braces for its own.
    url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    return url.replace("{", "{{").replace("}", "}}")


def shown(url: str) -> str:
    """An address as it may be shown: without password, nor options that may hold one."""
    with quiet_optuna():
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

    try:
        whole = make_url(url)
    except ArgumentError:
        raise UserError(
            "sweep.storage is not the address of a database.", "Write it as postgresql://user@host/name."
        ) from None
    file = whole.get_backend_name() == "sqlite" and whole.database
    return str(file) if file else whole.set(query={}).render_as_string(hide_password=True)


def _open(url: str) -> Any:
    """Optuna's storage at an address."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import NoSuchModuleError

    kind = make_url(url).get_backend_name()
    # A file is locked for moments while another worker writes; a server may have closed a connection meanwhile.
    options = {"connect_args": {"timeout": 20}} if kind == "sqlite" else {"pool_pre_ping": True}
    with quiet_optuna() as optuna:
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (ImportError, NoSuchModuleError) as error:
            raise UserError(
                f"The database {shown(url)} can't be used: {_reason(error)}.",
                "Install its driver, such as `pip install psycopg[binary]`, or name one: postgresql+psycopg://...",
            ) from None
        except RuntimeError as error:  # tables of another version of Optuna
            raise UserError(f"The database {shown(url)} can't be used: {_reason(error)}.") from None


def _reason(error: BaseException) -> str:
    """The first cause of an error, its first line."""
    while cause := getattr(error, "orig", None) or error.__cause__:
        error = cause
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def this_process() -> dict[str, Any]:
    """What tells this process from any other, on this machine and elsewhere."""
    import psutil

    space = ""
    with suppress(OSError):  # two containers may have one name, and the same process numbers
        space = os.readlink("/proc/self/ns/pid")
    pid = os.getpid()
    return {"host": socket.gethostname(), "space": space, "pid": pid, "since": psutil.Process(pid).create_time()}


def lives(worker: dict[str, Any]) -> bool | None:
    """Whether a worker is at work still; None if that can't be seen from here."""
    import psutil

    mine = this_process()
    if any(worker.get(key) != mine[key] for key in ("host", "space")):
        return None
    if worker["pid"] == mine["pid"] and abs(worker["since"] - mine["since"]) < 5:
        return worker["token"] in LIVING
    try:
        other = psutil.Process(worker["pid"])
        return bool(abs(other.create_time() - worker["since"]) < 5 and other.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
