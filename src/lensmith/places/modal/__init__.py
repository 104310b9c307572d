"""A GPU rented by the second at Modal.

A job is a call of a deployed function, so it outlives this process: it goes on when the line drops or Ctrl-C is
pressed, and `lensmith attach` finds it again by what `place.json` in the run folder says.
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

from lensmith.errors import UserError, optional
from lensmith.jobs.cargo import Upload, uploads
from lensmith.jobs.job import NOTE, Detached, Job, away, how_to_return, record_of
from lensmith.jobs.worker import ATTEMPTS, event_from
from lensmith.places.modal.app import FUNCTION, QUEUE, build, volume
from lensmith.places.modal.prices import LISTED, PRICES, gpu, price_after, price_before
from lensmith.places.modal.volumes import bring_home, send, send_run
from lensmith.progress import Note
from lensmith.runs.files import disk_error, read_json, write, write_json
from lensmith.runs.folder import ANYWHERE, default_folder, new_run_folder, read_run, same_recipe, same_training
from lensmith.runs.provenance import provenance

if TYPE_CHECKING:
    from lensmith.progress import Tell

EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "4bit": "quantized"}
"""Extras of Lensmith by the options that need them."""
PAUSE = 2.0
"""Seconds between two looks at a job that is followed."""


class Place:
    """Runs jobs at Modal; see `places.Place`."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        job, folder, note = _settled(job)
        assert job.recipe
        options = replace(job.recipe.place, gpu=gpu(job.recipe.place.gpu))
        job = replace(job, recipe=replace(job.recipe, place=options))
        modal = _modal()
        with service():
            modal.Client.from_env()  # who has no token shall hear so before anything is read or sent
        tell(Note(price_before(options)))
        with _fresh(folder, job.resume):
            name = note["name"] if note else _name(folder)
            sending = uploads(job)
            with service():
                for upload in sending:
                    new = send(upload, volume(upload.volume))
                    size = f"{len(upload.files):,} files, {upload.size / 1e6:,.1f} MB"
                    tell(Note(f"{upload.folder}: {size}, {'uploaded' if new else 'uploaded before'}."))
                if job.resume and not note:
                    send_run(volume("runs"), folder, name)
                call, app = _start(job, folder, name, sending)
            try:
                if not job.resume:
                    write(folder / "recipe.yaml", _yaml(job))
                write_json(folder / NOTE, _note(job, name, call.object_id, app, sending))
            except BaseException:  # nobody would find it again
                call.cancel(terminate_containers=True)
                raise
        if detach:
            sentence = how_to_return(folder)
            return {"run": str(folder), "call": call.object_id, "detached": sentence[0].upper() + sentence[1:]}
        return self.attach(folder, tell)

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        modal, note = _modal(), read_json(folder / NOTE)
        if not away(folder):
            if record := record_of(folder, note["verb"]):
                return record | {"run": str(folder), "report": str(folder / "report.html")}
            raise UserError(f"The job of {folder} has ended: {note['state']}.", _go_on(folder, note))
        try:
            with service(f"The job goes on; come back with: lensmith attach {shlex.quote(str(folder))}"):
                outcome = follow(modal.FunctionCall.from_id(note["call"]), note["name"], tell)
                came = bring_home(volume("runs"), note["name"], folder)
        except KeyboardInterrupt:
            raise Detached(folder) from None
        record = record_of(folder, note["verb"]) if "record" in outcome else None
        state = "done" if record else "refused" if "error" in outcome else "failed"
        self._close(folder, note, state, tell)
        if record:
            return record | {"run": str(folder), "report": str(folder / "report.html")}
        if "error" in outcome:
            if not came and {path.name for path in folder.iterdir()} <= {"recipe.yaml", NOTE}:
                shutil.rmtree(folder)  # refused before it began, which leaves no folder at home either
            raise UserError(outcome["error"], outcome["hint"])
        logs = f"Its log: modal app logs {note['app']}."
        raise UserError(
            f"The job of {folder} failed: {outcome.get('failed', 'no result')}. {logs}", _go_on(folder, note)
        )

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        modal, note = _modal(), read_json(folder / NOTE)
        if not away(folder):
            raise UserError(f"The job of {folder} has ended: there is nothing to cancel.")
        with service():
            modal.FunctionCall.from_id(note["call"]).cancel(terminate_containers=True)
            came = bring_home(volume("runs"), note["name"], folder)
        if record_of(folder, note["verb"]):
            self._close(folder, note, "done", tell)
            return {"run": str(folder), "cancelled": f"The job had ended well already: its run is in {folder}."}
        self._close(folder, note, "cancelled", tell)
        kept = f" What was done is in {folder}. {_go_on(folder, note)}" if came else ""
        return {"run": str(folder), "cancelled": f"The job is cancelled.{kept}"}

    def _close(self, folder: Path, note: dict[str, Any], state: str, tell: Tell) -> None:
        """Write down how a job ended, and say what it cost."""
        seconds = 0.0
        with suppress(Exception):  # a job that never started has none
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
        What `jobs.worker.attempt` returned; or `failed`, what went wrong in words.
    """
    modal = _modal()
    events = modal.Queue.from_name(QUEUE, create_if_missing=True)

    def hear() -> None:
        while some := events.get_many(100, block=False, partition=name):
            for values in some:
                tell(event_from(values))

    while True:
        hear()
        try:
            outcome: dict[str, Any] = call.get(timeout=PAUSE)
        except TimeoutError:  # not yet; a job's own has become another error in `perform`
            continue
        except modal.exception.FunctionTimeoutError:
            return {"failed": "it ran out of time (place.hours)"}
        except modal.exception.OutputExpiredError:  # Modal keeps results for a week, and volumes for ever
            return {"record": None}
        except (modal.exception.ConnectionError, modal.exception.AuthError, modal.exception.ServiceError, OSError):
            raise
        except Exception as error:
            return {"failed": (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")}
        hear()
        return outcome


@contextmanager
def service(hint: str = "") -> Iterator[None]:
    """Modal's troubles, each as one sentence."""
    modal = _modal()
    trouble = modal.exception
    try:
        yield
    except trouble.AuthError:
        raise UserError(
            "Modal has no token of yours, or doesn't accept it.",
            "Get one with `modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from None
    except (trouble.ConnectionError, trouble.ServiceError) as error:
        raise UserError(
            f"Modal can't be reached: {_first(error)}.", hint or "Check the network and try again."
        ) from None
    except trouble.Error as error:
        raise UserError(f"Modal says: {_first(error)}.", hint) from None
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


def _settled(job: Job) -> tuple[Job, Path, dict[str, Any] | None]:
    """The job with its recipe and options, its folder, and the note of an earlier job of the same run.

    Raises:
        UserError: the run can't be gone on with.
    """
    if not job.resume:
        assert job.recipe
        return job, job.folder or default_folder(job.recipe, job.verb), None
    assert job.folder
    folder = job.folder
    if away(folder):
        raise UserError(f"The run {folder} goes on already.", f"Follow it: lensmith attach {shlex.quote(str(folder))}")
    if record_of(folder, job.verb):
        raise UserError(f"The run {folder} is finished: there is nothing to resume.")
    own = read_run(folder)
    if job.recipe:
        same_recipe(folder, own, job.recipe, same_training(job.recipe) if job.verb == "train" else ANYWHERE)
    note = read_json(folder / NOTE) if (folder / NOTE).exists() else None
    if note and note["verb"] != job.verb:
        raise UserError(f"The run {folder} was begun as another verb.", _go_on(folder, note))
    if note and note["state"] == "left":  # what has been done here since is to go there, under a new name
        note = None
    options = note.get("options", {}) if note else {}
    return replace(job, recipe=job.recipe or own, options=options), folder, note


@contextmanager
def _fresh(folder: Path, resume: bool) -> Iterator[None]:
    """A run folder that is gone again, with the folders around it, if the block fails; a resumed one stays."""
    if resume:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    new_run_folder(folder)
    try:
        yield
    except BaseException:
        for name in ("recipe.yaml", NOTE):
            (folder / name).unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def _start(job: Job, folder: Path, name: str, sent: list[Upload]) -> tuple[Any, str]:
    """Deploy what isn't deployed yet, and call it: the call, and the app's name."""
    modal = _modal()
    assert job.recipe
    wanted = {job.recipe.train.tracker, job.recipe.model.quantize}
    app, _ = build(job.recipe.place, sorted({EXTRAS[word] for word in wanted & set(EXTRAS)}))
    function = modal.Function.from_name(app.name, FUNCTION)
    try:
        function.hydrate()
    except modal.exception.NotFoundError:
        app.deploy()
        function = modal.Function.from_name(app.name, FUNCTION)
    told: dict[str, Any] = {"verb": job.verb, "recipe": job.recipe.to_dict(), "options": job.options, "name": name}
    told |= {"cwd": os.getcwd(), "folder": str(folder), "uploads": _there(sent)}
    return function.spawn(told), app.name


def _name(folder: Path) -> str:
    """Of a run in the volume, and of its events: never used twice, and in letters that Modal takes."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.resolve().name).strip('.-')[:40]}-{uuid.uuid4().hex[:8]}".lstrip(
        "-"
    )


def _there(sent: list[Upload]) -> list[dict[str, str]]:
    return [{"folder": upload.folder, "stored": upload.stored} for upload in sent]


def _yaml(job: Job) -> str:
    import yaml

    assert job.recipe
    return yaml.safe_dump(job.recipe.to_dict(), sort_keys=False, allow_unicode=True)


def _note(job: Job, name: str, call: str, app: str, sent: list[Upload]) -> dict[str, Any]:
    """What place.json says."""
    assert job.recipe
    options, here = job.recipe.place, provenance()
    return {
        **{"place": "modal", "state": "running", "verb": job.verb, "options": job.options},
        **{"app": app, "call": call, "name": name},
        **asdict(options),
        **{"dollars_per_hour": PRICES[options.gpu], "prices_of": LISTED},
        **{"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "uri": job.recipe.data.uri},
        "uploads": _there(sent),
        **{key: here[key] for key in ("commit", "dirty")},  # the rented machine has no repository to ask
    }


def _go_on(folder: Path, note: dict[str, Any]) -> str:
    return f"Resume it with: lensmith resume {shlex.quote(str(folder))} --on modal"
