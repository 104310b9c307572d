"""Remote machines with a GPU at Modal.

A job is a call of a deployed function, so it outlives this process: it continues when the connection drops or the user
presses Ctrl-C, and `lensmith attach` finds it again through `place.json` in the run folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import written
from lensmith.errors import UserError, optional
from lensmith.jobs.job import NOTE, Detached, Job, away, how_to_return, record_of
from lensmith.jobs.remote import how_to_resume, new_folder, prepared, unique_name
from lensmith.jobs.uploads import Upload, uploads
from lensmith.jobs.worker import ATTEMPTS, event_from
from lensmith.places.modal.app import FUNCTION, QUEUE, build, volume
from lensmith.places.modal.prices import LISTED, PRICES, gpu, price_after, price_before
from lensmith.places.modal.volumes import copy_back, send, send_run
from lensmith.progress import Note
from lensmith.runs.files import disk_error, write, write_json
from lensmith.runs.folder import settled
from lensmith.runs.lock import LOCK
from lensmith.runs.provenance import provenance
from lensmith.runs.shapes import ModalNote, read_as

if TYPE_CHECKING:
    from lensmith.progress import Tell

EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "4bit": "quantized"}
"""Extras of Lensmith, by the values of options that need them."""
VERBS = ("train", "evaluate")
"""The verbs that run here."""
PAUSE = 2.0
"""Seconds between two polls of a job that is followed."""


class Place:
    """Runs jobs at Modal; see `places.Place`."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        if job.verb not in VERBS:
            raise UserError(f"`lensmith {job.verb}` doesn't run at Modal.", f"At Modal: {', '.join(VERBS)}.")
        job, folder, note = prepared(job, "modal")
        assert job.recipe
        options = replace(job.recipe.modal, gpu=gpu(job.recipe.modal.gpu))
        job = replace(job, recipe=replace(job.recipe, modal=options))
        modal = _modal()
        with service():
            modal.Client.from_env()  # a missing token must be reported before anything is read or sent
        tell(Note(price_before(options)))
        with new_folder(folder, job.resume):
            name = note["name"] if note else unique_name(folder)
            needed = uploads(job)
            with service():
                for upload in needed:
                    sent = send(upload, volume(upload.volume))
                    size = f"{len(upload.files):,} files, {upload.size / 1e6:,.1f} MB"
                    tell(Note(f"{upload.folder}: {size}, {'uploaded' if sent else 'uploaded before'}."))
                if job.resume and not note:
                    send_run(volume("runs"), folder, name)
                call, app = _start(job, folder, name, needed)
            try:
                if not job.resume and job.recipe:
                    write(folder / "recipe.yaml", written(settled(job.recipe).to_dict()))
                write_json(folder / NOTE, _note(job, name, call.object_id, app, needed))
            except BaseException:  # without its note, the job couldn't be found again
                call.cancel(terminate_containers=True)
                raise
        if detach:
            sentence = how_to_return(folder)
            return {"run": str(folder), "call": call.object_id, "detached": sentence[0].upper() + sentence[1:]}
        return self.attach(folder, tell)

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        modal, note = _modal(), _read_note(folder)
        if not away(folder):
            if record := record_of(folder, note["verb"]):
                return record | {"run": str(folder), "report": str(folder / "report.html")}
            raise UserError(f"The job of {folder} has ended: {note['state']}.", how_to_resume(folder, "modal"))
        try:
            with service(f"The job continues. Follow it with: lensmith attach {shlex.quote(str(folder))}"):
                outcome = follow(modal.FunctionCall.from_id(note["call"]), note["name"], tell)
                copied = copy_back(volume("runs"), note["name"], folder)
        except KeyboardInterrupt:
            raise Detached(folder) from None
        record = record_of(folder, note["verb"]) if "record" in outcome else None
        state = "done" if record else "refused" if "error" in outcome else "failed"
        self._close(folder, note, state, tell)
        if record:
            return record | {"run": str(folder), "report": str(folder / "report.html")}
        if "error" in outcome:
            if not copied and {path.name for path in folder.iterdir()} <= {"recipe.yaml", NOTE, LOCK}:
                shutil.rmtree(folder)  # refused before it started: like a local run, it leaves no folder
            raise UserError(outcome["error"], outcome["hint"])
        logs = f"To see its log: modal app logs {note['app']}."
        raise UserError(
            f"The job of {folder} failed: {outcome.get('failed', 'no result')}. {logs}", how_to_resume(folder, "modal")
        )

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        modal, note = _modal(), _read_note(folder)
        if not away(folder):
            raise UserError(f"The job of {folder} has ended: there is nothing to cancel.")
        with service():
            modal.FunctionCall.from_id(note["call"]).cancel(terminate_containers=True)
            copied = copy_back(volume("runs"), note["name"], folder)
        if record_of(folder, note["verb"]):
            self._close(folder, note, "done", tell)
            return {"run": str(folder), "cancelled": f"The job had already finished: its run is in {folder}."}
        self._close(folder, note, "cancelled", tell)
        kept = f" The unfinished run is in {folder}. {how_to_resume(folder, 'modal')}" if copied else ""
        return {"run": str(folder), "cancelled": f"The job is cancelled.{kept}"}

    def _close(self, folder: Path, note: dict[str, Any], state: str, tell: Tell) -> None:
        """Note how a job ended, and report what it cost."""
        seconds = 0.0
        with suppress(Exception):  # a job that never started has no such file
            path = ATTEMPTS.format(note["name"])
            seconds = sum(json.loads(b"".join(volume("runs").read_file(path)))["seconds"])
        price = note["dollars_per_hour"]
        cost = None if price is None else seconds / 3600 * price
        write_json(folder / NOTE, note | {"state": state, "seconds": seconds, "dollars": cost})
        if seconds:
            tell(Note(price_after(note["gpu"], seconds, price)))


def follow(call: Any, name: str, tell: Tell) -> dict[str, Any]:
    """Pass on a job's progress until it ends.

    Returns:
        The result of `jobs.worker.attempt`; or `failed`, the reason as text.
    """
    modal = _modal()
    events = modal.Queue.from_name(QUEUE, create_if_missing=True)

    def pass_on() -> None:
        while batch := events.get_many(100, block=False, partition=name):
            for values in batch:
                tell(event_from(values))

    while True:
        pass_on()
        try:
            outcome: dict[str, Any] = call.get(timeout=PAUSE)
        except TimeoutError:  # not finished yet; a TimeoutError of the job itself arrives as a RuntimeError
            continue
        except modal.exception.FunctionTimeoutError:
            return {"failed": "it ran out of time (modal.hours)"}
        except modal.exception.OutputExpiredError:  # Modal keeps results for a week, and volumes forever
            return {"record": None}
        except (modal.exception.ConnectionError, modal.exception.AuthError, modal.exception.ServiceError, OSError):
            raise
        except Exception as error:
            return {"failed": (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")}
        pass_on()
        return outcome


@contextmanager
def service(hint: str = "") -> Iterator[None]:
    """Turn Modal's errors into `UserError`."""
    modal = _modal()
    errors = modal.exception
    try:
        yield
    except errors.AuthError:
        raise UserError(
            "There is no valid token for Modal.",
            "Get one with `modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from None
    except (errors.ConnectionError, errors.ServiceError) as error:
        raise UserError(
            f"Modal can't be reached: {_first(error)}.", hint or "Check the network and try again."
        ) from None
    except errors.Error as error:
        raise UserError(f"Modal reports: {_first(error)}.", hint) from None
    except OSError as error:
        if error.filename:
            raise disk_error(Path(os.fsdecode(error.filename)), error) from None
        raise UserError(
            f"Modal can't be reached: {_first(error)}.", hint or "Check the network and try again."
        ) from None


def _modal() -> Any:
    modal = optional("modal", "modal", "--on modal")
    import_module("modal.exception")
    return modal


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _start(job: Job, folder: Path, name: str, sent: list[Upload]) -> tuple[Any, str]:
    """Deploy the app unless it is deployed already, and call it; returns the call and the app's name."""
    modal = _modal()
    assert job.recipe
    features = {job.recipe.train.tracker, job.recipe.model.quantize}
    app, _ = build(job.recipe.modal, sorted({EXTRAS[feature] for feature in features & set(EXTRAS)}))
    function = modal.Function.from_name(app.name, FUNCTION)
    try:
        function.hydrate()
    except modal.exception.NotFoundError:
        app.deploy()
        function = modal.Function.from_name(app.name, FUNCTION)
    values: dict[str, Any] = {"verb": job.verb, "recipe": job.recipe.to_dict(), "options": job.options, "name": name}
    values |= {"cwd": os.getcwd(), "folder": str(folder), "uploads": _plain(sent)}
    return function.spawn(values), app.name


def _plain(sent: list[Upload]) -> list[dict[str, str]]:
    return [{"folder": upload.folder, "stored": upload.stored} for upload in sent]


def _read_note(folder: Path) -> dict[str, Any]:
    return {**read_as(folder / NOTE, ModalNote)}


def _note(job: Job, name: str, call: str, app: str, sent: list[Upload]) -> dict[str, Any]:
    """The content of place.json."""
    assert job.recipe
    options, source = job.recipe.modal, provenance()
    return {
        **{"place": "modal", "state": "running", "verb": job.verb, "options": job.options},
        **{"app": app, "call": call, "name": name},
        **asdict(options),
        **{"dollars_per_hour": PRICES[options.gpu], "prices_of": LISTED},
        **{"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "uri": job.recipe.data.uri},
        "uploads": _plain(sent),
        **{key: source[key] for key in ("commit", "dirty")},  # the remote machine has no repository
    }
