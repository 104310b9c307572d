"""A Ray cluster: one that is running, or one that is started on this machine for a single command.

A job is submitted through Ray's Jobs API, so it lives on in the cluster without this process, and `lensmith attach`
finds it again through `place.json` in the run folder. Its inputs, its run and its progress are in `ray.storage`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.bulk.drive import KEPT
from lensmith.bulk.storage import Storage, whole
from lensmith.config import written
from lensmith.errors import Stopped, UserError, optional, reason
from lensmith.jobs.job import NOTE, Detached, Job, away, how_to_return, record_of
from lensmith.jobs.remote import how_to_resume, new_folder, prepared, replace_run, unique_name
from lensmith.jobs.uploads import Upload, base_of, uploads
from lensmith.jobs.worker import event_from
from lensmith.places.ray.cluster import client, local_cluster
from lensmith.places.ray.stored import fetch_run, has_run, read_events, read_outcome, save_copy, send
from lensmith.progress import Note
from lensmith.runs.files import write, write_json, write_lines
from lensmith.runs.folder import REPORT, settled
from lensmith.runs.lock import LOCK
from lensmith.runs.provenance import provenance
from lensmith.runs.shapes import RayNote, read_as

if TYPE_CHECKING:
    from lensmith.progress import Tell

PAUSE = 1.0
"""Seconds between two looks at a job that is followed."""
LOST = 120.0
"""Seconds that the cluster may be out of reach while a job is followed."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Place:
    """Runs jobs on a Ray cluster; see `places.Place`."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        optional("ray", "ray", "--on ray")
        job, folder, note = prepared(job, "ray")
        assert job.recipe
        options = job.recipe.ray
        if detach and not options.address:
            raise UserError("A job on this machine can't be detached.", "Name a cluster with ray.address.")
        if options.address and not options.storage:
            raise UserError(
                f"The cluster at {options.address} needs a storage that it shares with this machine.",
                "Name a network drive or an object store with ray.storage.",
            )
        if job.verb == "sweep":
            _shared_database(job)
        with _cluster(job) as (address, storage):
            tell(Note(_size(job)))
            with new_folder(folder, job.resume):
                submission = self._send(job, folder, note, address, storage, tell)
            if detach:
                sentence = how_to_return(folder)
                return {"run": str(folder), "job": submission, "detached": sentence[0].upper() + sentence[1:]}
            try:
                return self.attach(folder, tell)
            except KeyboardInterrupt:
                if options.address:
                    raise
                self.cancel(folder, tell)  # the cluster ends with this command
                if job.verb != "predict":
                    raise Stopped(folder) from None
                tell(Note(KEPT))
                raise KeyboardInterrupt from None

    def _send(
        self, job: Job, folder: Path, note: dict[str, Any] | None, address: str, storage: Storage, tell: Tell
    ) -> str:
        """Send what a job needs, submit it, and note where it runs; returns its name in the cluster."""
        assert job.recipe
        there, name = client(address), note["name"] if note else unique_name(folder)
        needed = uploads(job)
        for upload in needed:
            sent = send(upload, storage)
            size = f"{len(upload.files):,} files, {upload.size / 1e6:,.1f} MB"
            tell(Note(f"{upload.folder}: {size}, {'uploaded' if sent else 'uploaded before'}."))
        if job.resume and not (note and has_run(storage, name)):
            save_copy(storage, name, folder)
        submission = f"{name}-{time.strftime('%Y%m%d%H%M%S')}"
        storage.write(f"jobs/{submission}/job.json", _described(job, submission, name, folder, needed, storage))
        if not job.resume:
            write(folder / "recipe.yaml", written(settled(job.recipe).to_dict()))
        values = {"address": address, "storage": storage.address, "submission": submission}
        write_json(folder / NOTE, _note(job, name) | values | {"local": not job.recipe.ray.address})
        _submit(there, storage, submission)
        return submission

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        note = _read_note(folder)
        if not away(folder):
            if record := record_of(folder, note["verb"]):
                return record | {"run": str(folder)}
            raise UserError(f"The job of {folder} has ended: {note['state']}.", how_to_resume(folder, "ray"))
        storage = Storage(note["storage"])
        try:
            outcome = _follow(folder, note, storage, tell)
            return self._home(folder, note, storage, outcome)
        except KeyboardInterrupt:
            raise Detached(folder) from None

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        note = _read_note(folder)
        if not away(folder):
            raise UserError(f"The job of {folder} has ended: there is nothing to cancel.")
        there, storage = client(note["address"]), Storage(note["storage"])
        with suppress(RuntimeError):  # it has ended already
            there.stop_job(note["submission"])
        until = time.monotonic() + 30
        while there.get_job_status(note["submission"]) not in ENDED and time.monotonic() < until:
            time.sleep(PAUSE)
        if (outcome := read_outcome(storage, note["submission"])) and "record" in outcome:
            self._home(folder, note, storage, outcome)
            return {"run": str(folder), "cancelled": f"The job had already finished: its run is in {folder}."}
        copied = _copy_back(folder, storage, note["name"])
        write_json(folder / NOTE, note | {"state": "cancelled"})
        kept = f" The unfinished run is in {folder}. {how_to_resume(folder, 'ray')}" if copied else ""
        return {"run": str(folder), "cancelled": f"The job is cancelled.{kept}"}

    def _home(self, folder: Path, note: dict[str, Any], storage: Storage, outcome: dict[str, Any]) -> dict[str, Any]:
        """Copy the run back and note how its job ended; returns its record, or raises what went wrong."""
        copied = _copy_back(folder, storage, note["name"])
        state = "done" if "record" in outcome else "refused" if "error" in outcome else "failed"
        write_json(folder / NOTE, note | {"state": state, "seconds": outcome.get("seconds")})
        if "record" in outcome:
            if note["verb"] == "predict":  # its result is where its answers are; this is a copy
                write_json(folder / "summary.json", outcome["record"])
                with suppress(UserError, OSError):
                    write(folder / REPORT, Storage(outcome["record"]["out"]).read(REPORT))
                return {**outcome["record"], "run": str(folder)}
            _as_here(folder, outcome["cwd"], note["cwd"])
            record = record_of(folder, note["verb"]) or {}
            return record | {"run": str(folder)} | _paths(record, folder)
        if "error" in outcome:
            if not copied and {path.name for path in folder.iterdir()} <= {"recipe.yaml", NOTE, LOCK}:
                shutil.rmtree(folder)  # refused before it started: like a local run, it leaves no folder
            raise UserError(outcome["error"], outcome["hint"])
        raise UserError(
            f"The job of {folder} failed: {outcome['failed'].rstrip('.')}.",
            how_to_resume(folder, "ray")
            + (
                ""
                if note.get("local")
                else f" To see its log: ray job logs --address {note['address']} {note['submission']}"
            ),
        )


def _as_here(folder: Path, there: str, here: str) -> None:
    """Change the images' paths in a file of labels from those of the cluster to those of this machine."""
    if (path := folder / "labels.jsonl").exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            if row["image"].startswith(there + os.sep):
                row["image"] = here + row["image"].removeprefix(there)
        write_lines(path, rows)


def _paths(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The paths in a record, which are those of the cluster, as they are on this machine."""
    names = {key: Path(record[key]).name for key in ("recipe", "table") if isinstance(record.get(key), str)}
    found = {key: str(folder / name) for key, name in names.items() if (folder / name).exists()}
    return found | {"report": str(folder / REPORT) if (folder / REPORT).exists() else None}


@contextmanager
def _cluster(job: Job) -> Iterator[tuple[str, Storage]]:
    """The address of the cluster, and the storage of the job."""
    assert job.recipe
    options = job.recipe.ray
    if options.address:
        assert options.storage
        yield options.address, Storage(whole(options.storage))
        return
    gpus = round(options.gpus * options.workers + 0.499) if options.gpus else 0
    # The driver of a job takes no core, and Ray Train's controller neither.
    cpus = max(os.cpu_count() or 1, options.workers * options.cpus)
    with tempfile.TemporaryDirectory(prefix="lensmith-storage-", ignore_cleanup_errors=True) as temporary:
        storage = whole(options.storage) if options.storage else temporary
        with local_cluster(cpus, gpus) as address:
            yield address, Storage(storage)


def _submit(there: Any, storage: Storage, submission: str) -> None:
    entry = shlex.join(["python", "-m", "lensmith.places.ray.driver", storage.address, submission])
    until = time.monotonic() + LOST
    while True:
        try:
            there.submit_job(entrypoint=entry, submission_id=submission, metadata={"lensmith": version("lensmith")})
            return
        except Exception as error:  # of its HTTP library, or a refusal as text
            if "No available agent" not in str(error) or time.monotonic() > until:  # a cluster that has just started
                raise UserError(
                    f"The cluster refuses the job: {reason(error)}.", "See the cluster's dashboard."
                ) from None
        time.sleep(PAUSE)


def _follow(folder: Path, note: dict[str, Any], storage: Storage, tell: Tell) -> dict[str, Any]:
    """Pass on a job's progress until it ends; returns its outcome."""
    there, seen, reached = client(note["address"]), 0, time.monotonic()
    name = note["submission"]
    while True:
        try:
            status = str(there.get_job_status(name))
            reached = time.monotonic()
        except Exception as error:  # of its HTTP library
            if "does not exist" in str(error):
                return {"failed": "the cluster doesn't know it any more"}
            if time.monotonic() - reached > LOST:
                raise UserError(
                    f"The cluster at {note['address']} can't be reached any more: {reason(error)}.",
                    f"The job may continue. Follow it with: lensmith attach {shlex.quote(str(folder))}",
                ) from None
            time.sleep(PAUSE)
            continue
        status = status.rpartition(".")[2]
        for event in read_events(storage, name):
            if event["number"] > seen:
                seen = event.pop("number")
                tell(event_from(event))
        if status in ENDED:
            if outcome := read_outcome(storage, name):
                return outcome
            told = _last_words(there, name)
            if "No module named" in told and "lensmith" in told:
                hint = "Install it, of the same version, for the `python` that the cluster finds first (PATH)."
                return {"error": f"Lensmith isn't installed on the cluster at {note['address']}.", "hint": hint}
            return {"failed": told or status.lower()}
        time.sleep(PAUSE)


def _last_words(there: Any, name: str) -> str:
    """The last line that a job has written, as far as it is to be had."""
    with suppress(Exception):
        lines = [line.strip() for line in there.get_job_logs(name).splitlines() if line.strip()]
        return str(lines[-1]) if lines else ""
    return ""


def _copy_back(folder: Path, storage: Storage, name: str) -> bool:
    """Copy a run from the storage to its folder; returns whether there was anything."""
    temporary = folder / ".home.part"
    try:
        if not fetch_run(storage, name, temporary) or not (temporary / name).is_dir():
            return False
        (temporary / name / "recipe.yaml").unlink(missing_ok=True)  # this one has the paths of this machine
        replace_run(temporary / name, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _described(job: Job, submission: str, name: str, folder: Path, sent: list[Upload], storage: Storage) -> bytes:
    """job.json: everything that the cluster needs to know."""
    assert job.recipe
    options, links = _anywhere(job), [(upload.folder, upload.stored) for upload in sent]
    if taught := options.get("taught"):  # elsewhere, a folder of this name may not be allowed
        options["taught"] = f"taught/{Path(taught).resolve().name}"
        given = job.options["taught"]
        links = [(options["taught"] if folder_of == given else folder_of, stored) for folder_of, stored in links]
    values = {
        "verb": job.verb,
        "recipe": job.recipe.to_dict(),
        "options": options,
        "base": base_of(job),
        "name": name,
        "submission": submission,
        "folder": f"runs/{folder.resolve().name}",
        "storage": storage.address,
        "uploads": [{"folder": folder_of, "stored": stored} for folder_of, stored in links],
        "versions": {"lensmith": version("lensmith")},
    }
    return json.dumps(values, indent=2).encode()


def _anywhere(job: Job) -> dict[str, Any]:
    """The options of a job with whole addresses, whatever the working directory is when they are used."""
    options = dict(job.options)
    for key in ("source", "out", "taught"):
        if isinstance(value := options.get(key), str):
            options[key] = whole(value)
    return options


def _note(job: Job, name: str) -> dict[str, Any]:
    """The content of place.json, as far as it doesn't depend on the cluster."""
    assert job.recipe
    source = provenance()
    return {
        **{"place": "ray", "state": "running", "verb": job.verb, "options": _anywhere(job), "name": name},
        **{"cwd": os.getcwd(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "uri": job.recipe.data.uri},
        **{key: source[key] for key in ("commit", "dirty")},
    }


def _read_note(folder: Path) -> dict[str, Any]:
    return {**read_as(folder / NOTE, RayNote)}


def _size(job: Job) -> str:
    """A sentence on what the job asks the cluster for."""
    assert job.recipe
    options = job.recipe.ray
    count = options.workers if job.verb in ("train", "sweep", "predict") else 1
    text = f"{count:,} worker{'s' * (count > 1)} with {options.cpus:,} CPU core{'s' * (options.cpus > 1)}"
    text += f" and {options.gpus:g} GPU" if options.gpus else ""
    cost = f", ${options.hourly_cost * count:.2f} an hour" if options.hourly_cost else ""
    return f"{text} each{cost}, {'on ' + options.address if options.address else 'in a cluster on this machine'}."


def _shared_database(job: Job) -> None:
    assert job.recipe
    url = job.recipe.sweep.storage
    if job.recipe.ray.workers > 1 and (not url or url.startswith("sqlite")):
        raise UserError(
            "The workers of a sweep on several machines can't share an SQLite file.",
            "Set sweep.storage to a PostgreSQL or MySQL database: postgresql://user@host/name.",
        )
