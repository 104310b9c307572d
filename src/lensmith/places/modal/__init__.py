"""Remote machines with a GPU at Modal.

A job is a call of a deployed function, so it outlives this process: it continues when the connection drops or the user
presses Ctrl-C, and `lensmith attach` finds it again through `place.json` in the run folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import written
from lensmith.errors import UserError, optional
from lensmith.jobs.job import NOTE, Detached, Job, away, how_to_return, record_of
from lensmith.jobs.uploads import Upload, uploads
from lensmith.jobs.worker import ATTEMPTS, event_from
from lensmith.places.modal.app import FUNCTION, QUEUE, build, volume
from lensmith.places.modal.prices import LISTED, PRICES, gpu, price_after, price_before
from lensmith.places.modal.volumes import copy_back, send, send_run
from lensmith.progress import Note
from lensmith.runs.files import disk_error, write, write_json
from lensmith.runs.folder import ANYWHERE, default_folder, new_run_folder, read_run, same_recipe, same_training, settled
from lensmith.runs.lock import LOCK
from lensmith.runs.provenance import provenance
from lensmith.runs.shapes import JobNote, read_as

if TYPE_CHECKING:
    from lensmith.progress import Tell

EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "4bit": "quantized"}
"""Extras of Lensmith, by the values of options that need them."""
PAUSE = 2.0
"""Seconds between two polls of a job that is followed."""


class Place:
    """Runs jobs at Modal; see `places.Place`."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        job, folder, note = _prepare(job)
        assert job.recipe
        options = replace(job.recipe.place, gpu=gpu(job.recipe.place.gpu))
        job = replace(job, recipe=replace(job.recipe, place=options))
        modal = _modal()
        with service():
            modal.Client.from_env()  # a missing token must be reported before anything is read or sent
        tell(Note(price_before(options)))
        with _new_folder(folder, job.resume):
            name = note["name"] if note else _name(folder)
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
            raise UserError(f"The job of {folder} has ended: {note['state']}.", _how_to_resume(folder))
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
            f"The job of {folder} failed: {outcome.get('failed', 'no result')}. {logs}", _how_to_resume(folder)
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
        kept = f" The unfinished run is in {folder}. {_how_to_resume(folder)}" if copied else ""
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
            return {"failed": "it ran out of time (place.hours)"}
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


def _prepare(job: Job) -> tuple[Job, Path, dict[str, Any] | None]:
    """The job with its recipe and options, its run folder, and the note of an earlier job of the same run.

    Raises:
        UserError: the run can't be resumed.
    """
    if not job.resume:
        assert job.recipe
        return job, job.folder or default_folder(job.recipe, job.verb), None
    assert job.folder
    folder = job.folder
    if away(folder):
        raise UserError(
            f"The run {folder} is already running.", f"Follow it with: lensmith attach {shlex.quote(str(folder))}"
        )
    if record_of(folder, job.verb):
        raise UserError(f"The run {folder} is finished: there is nothing to resume.")
    original = read_run(folder)
    if job.recipe:
        same_recipe(folder, original, job.recipe, same_training(job.recipe) if job.verb == "train" else ANYWHERE)
    note = _read_note(folder) if (folder / NOTE).exists() else None
    if note and note["verb"] != job.verb:
        raise UserError(f"The run {folder} was started by `lensmith {note['verb']}`.", _how_to_resume(folder))
    if (
        note and note["state"] == "left"
    ):  # the run has progressed on this machine since, so it is uploaded under a new name
        note = None
    options = note.get("options", {}) if note else {}
    return replace(job, recipe=job.recipe or original, options=options), folder, note


@contextmanager
def _new_folder(folder: Path, resume: bool) -> Iterator[None]:
    """Create a run folder, and remove it and its new parents if the block fails. A resumed run keeps its folder."""
    if resume:
        yield
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    new_run_folder(folder)
    try:
        yield
    except BaseException:
        for name in ("recipe.yaml", NOTE, LOCK):
            (folder / name).unlink(missing_ok=True)
        for path in created:
            with suppress(OSError):
                path.rmdir()
        raise


def _start(job: Job, folder: Path, name: str, sent: list[Upload]) -> tuple[Any, str]:
    """Deploy the app unless it is deployed already, and call it; returns the call and the app's name."""
    modal = _modal()
    assert job.recipe
    features = {job.recipe.train.tracker, job.recipe.model.quantize}
    app, _ = build(job.recipe.place, sorted({EXTRAS[feature] for feature in features & set(EXTRAS)}))
    function = modal.Function.from_name(app.name, FUNCTION)
    try:
        function.hydrate()
    except modal.exception.NotFoundError:
        app.deploy()
        function = modal.Function.from_name(app.name, FUNCTION)
    values: dict[str, Any] = {"verb": job.verb, "recipe": job.recipe.to_dict(), "options": job.options, "name": name}
    values |= {"cwd": os.getcwd(), "folder": str(folder), "uploads": _plain(sent)}
    return function.spawn(values), app.name


def _name(folder: Path) -> str:
    """A unique name for a run in the volume and for its events, in characters that Modal accepts."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.resolve().name).strip('.-')[:40]}-{uuid.uuid4().hex[:8]}".lstrip(
        "-"
    )


def _plain(sent: list[Upload]) -> list[dict[str, str]]:
    return [{"folder": upload.folder, "stored": upload.stored} for upload in sent]


def _read_note(folder: Path) -> dict[str, Any]:
    return {**read_as(folder / NOTE, JobNote)}


def _note(job: Job, name: str, call: str, app: str, sent: list[Upload]) -> dict[str, Any]:
    """The content of place.json."""
    assert job.recipe
    options, source = job.recipe.place, provenance()
    return {
        **{"place": "modal", "state": "running", "verb": job.verb, "options": job.options},
        **{"app": app, "call": call, "name": name},
        **asdict(options),
        **{"dollars_per_hour": PRICES[options.gpu], "prices_of": LISTED},
        **{"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "uri": job.recipe.data.uri},
        "uploads": _plain(sent),
        **{key: source[key] for key in ("commit", "dirty")},  # the remote machine has no repository
    }


def _how_to_resume(folder: Path) -> str:
    return f"Resume it with: lensmith resume {shlex.quote(str(folder))} --on modal"
