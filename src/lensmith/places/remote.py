"""The rented machine: what it is made of, and what it does.

It is made to look like home. What was uploaded appears in the folders that the recipe names, seen from the same working
directory, and the run folder has its own name too. So the recipe, the records and the report that come home are those
of a run made here, and a run begun here can go on there.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import UserError
from lensmith.progress import Advance, Note

if TYPE_CHECKING:
    import modal

    from lensmith.config import PlaceOptions

ROOT = Path("/lensmith")
"""Where the volumes are mounted."""
VOLUMES = ("weights", "data", "runs")
QUEUE = "lensmith-events"
PACKAGE = "/root/lensmith"
"""Where Modal puts Python sources, and looks for them."""
FUNCTION = "work"
ATTEMPTS = "{}.attempts.json"
"""Beside a run in its volume: the seconds that each attempt took."""
ENVIRONMENT = {
    "HF_HOME": f"{ROOT}/weights",
    # What `datasets` unpacks is mapped into memory, for which a volume is slow; what it downloads stays in HF_HOME.
    "HF_DATASETS_CACHE": "/tmp/datasets",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def versions(extras: Collection[str] = ()) -> list[str]:
    """What Lensmith needs, as `name==version` of what is installed here; what isn't, as Lensmith asks for it.

    Local parts of versions are left out: `2.13.0+cpu` is a build for this machine.

    Raises:
        UserError: Lensmith itself isn't installed, so its needs aren't known.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    seen = set()
    open_ones = [Requirement(f"lensmith[{','.join(sorted(extras))}]")]
    while open_ones:
        needed = open_ones.pop()
        name = canonicalize_name(needed.name)
        if (name, *sorted(needed.extras)) in seen:
            continue
        seen.add((name, *sorted(needed.extras)))
        try:
            here = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = f"{name}{needed.specifier}"
            continue
        found[name] = f"{name}=={here.version.partition('+')[0]}"
        for text in here.requires or []:
            further = Requirement(text)
            if not further.marker or any(further.marker.evaluate({"extra": e}) for e in ("", *needed.extras)):
                open_ones.append(further)
    if "==" not in found.pop("lensmith"):
        raise UserError("Lensmith isn't installed, so what it needs isn't known.", "Install it with pip.")
    return [found[name] for name in sorted(found)]


def build(options: PlaceOptions, extras: Collection[str] = ()) -> tuple[modal.App, Any]:
    """The app and its one function, described and not yet sent anywhere.

    Its name is a digest of all that it is made of. So a later job with other options, or another version of
    Lensmith, is another app, and never takes the place of one whose retries are still to come.

    Args:
        extras: Lensmith's extras that the recipe needs.
    """
    import modal

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    needs, source = versions(extras), Path(__file__).parents[1]
    made = hashlib.blake2b(repr((python, needs, options, ENVIRONMENT)).encode(), digest_size=6)
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            made.update(path.relative_to(source).as_posix().encode() + path.read_bytes())
    image = (
        modal.Image.debian_slim(python_version=python)
        .pip_install(*needs)
        .env(ENVIRONMENT)
        .add_local_dir(source, PACKAGE, ignore=["**/__pycache__"])
    )
    app = modal.App(f"lensmith-{made.hexdigest()}")
    function = app.function(
        name=FUNCTION,
        image=image,
        gpu=options.gpu,
        timeout=max(1, round(options.hours * 3600)),
        startup_timeout=1200,
        retries=options.retries,
        secrets=[modal.Secret.from_name(name) for name in options.secrets],
        volumes={str(ROOT / name): volume(name) for name in VOLUMES},
        cpu=4,
        memory=16 * 1024,
        single_use_containers=True,  # a used one would see volumes as they were when it started
        include_source=False,  # the image has the package, with the files that aren't Python
    )(work)
    return app, function


def volume(name: str) -> modal.Volume:
    """One of Lensmith's volumes; made where it is missing."""
    import modal

    return modal.Volume.from_name(f"lensmith-{name}", create_if_missing=True)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """What Modal calls; see `perform`."""
    import queue

    import modal

    events = modal.Queue.from_name(QUEUE, create_if_missing=True)
    name = job["name"]

    def put(event: dict[str, Any]) -> None:
        try:
            events.put(event, block=False, partition=name)
        except queue.Full:  # nobody listens; whoever comes back wants to know how far it is now
            events.clear(partition=name)
            events.put(event, block=False, partition=name)

    return perform(job, put, volume("runs").commit)


def perform(
    job: dict[str, Any], put: Callable[[dict[str, Any]], Any], commit: Callable[[], Any], root: Path = ROOT
) -> dict[str, Any]:
    """Do a job, or go on with it if an earlier attempt has begun.

    Args:
        job: `verb`, `recipe` as plain values, `split`; `name` of the run in its volume; `cwd` and `folder`, the run
            folder, as at home; `uploads`, each with `folder` as at home and `stored`, its place below `root`.
        put: passes on a progress event.
        commit: makes what was written to the runs volume last.

    Returns:
        `record` as the verb returns it; or `error` and `hint` for what the user can put right, since trying that
        again would be in vain. Both with `seconds`, the sum over all attempts.

    Raises:
        RuntimeError: anything else, in words; Modal then tries again.
    """
    from lensmith.runs.files import read_json, write_json

    run = root / "runs" / job["name"]
    attempts = run.with_name(ATTEMPTS.format(job["name"]))
    before = read_json(attempts)["seconds"] if attempts.exists() else []
    began = time.monotonic()
    seconds: list[float] = []

    def save() -> None:
        seconds[:] = [*before, time.monotonic() - began]
        write_json(attempts, {"seconds": seconds})
        commit()

    outcome: dict[str, Any]
    try:
        outcome = {"record": _do(job, run, Reporter(put, save), root)}
    except UserError as error:
        outcome = {"error": error.what, "hint": error.hint}
    except BaseException as error:
        with suppress(Exception):
            save()
        if isinstance(error, Exception):  # its class may not be known, or mean something else, at home
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
    save()
    return outcome | {"seconds": sum(seconds)}


def _do(job: dict[str, Any], run: Path, tell: Reporter, root: Path) -> dict[str, Any]:
    from lensmith import verbs
    from lensmith.config import recipe_from

    begun = (run / "record.json").exists()
    if not begun:  # nothing worth keeping
        shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    os.makedirs(job["cwd"], exist_ok=True)
    os.chdir(job["cwd"])
    for upload in job["uploads"]:
        appear(root / upload["stored"], Path(upload["folder"]).expanduser())
    folder = Path(job["folder"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        folder.symlink_to(run, target_is_directory=True)
    recipe = recipe_from(job["recipe"])
    if record := record_of(run, job["verb"]):  # an attempt may end after the run did and before that was known
        return record | {"run": str(folder), "report": str(folder / "report.html")}
    if job["verb"] == "train":
        return verbs.train(recipe, folder, tell, resume=True)
    return verbs.evaluate(recipe, folder, tell, job["split"], resume=begun)


def record_of(run: Path, verb: str) -> dict[str, Any] | None:
    """The record of a finished run."""
    from lensmith.runs.files import read_json

    path = run / ("result.json" if verb == "train" else "evaluation.json")
    return read_json(path) if path.exists() and (run / "report.html").exists() else None


def appear(stored: Path, folder: Path) -> None:
    """Have the files of an uploaded folder appear in another, as links.

    Files and not folders, since some readers don't look into linked folders.

    Raises:
        UserError: the machine has something else there.
    """
    for here, _, files in os.walk(stored):
        there = folder / Path(here).relative_to(stored)
        there.mkdir(parents=True, exist_ok=True)
        for name in files:
            target, link = Path(here, name), there / name
            if link.is_symlink() and link.readlink() == target:
                continue
            try:
                link.symlink_to(target)
            except FileExistsError:
                raise UserError(f"The rented machine has a file {link} of its own.", "Rename the folder.") from None


class Reporter:
    """Passes progress on, a few events a minute of each kind, and saves now and then."""

    PAUSE, SAVE = 2.0, 60.0
    """Seconds between two counts, and between two times of saving."""

    def __init__(self, put: Callable[[dict[str, Any]], Any], save: Callable[[], Any]) -> None:
        self._put, self._save = put, save
        self._told, self._saved = -math.inf, time.monotonic()

    def __call__(self, event: Note | Advance) -> None:
        now = time.monotonic()
        if isinstance(event, Note) or event.done >= event.total or now - self._told >= self.PAUSE:
            self._told = now if isinstance(event, Advance) else self._told
            with suppress(Exception):  # not worth a job
                self._put(asdict(event))
        if now - self._saved >= self.SAVE:
            self._saved = now
            with suppress(Exception):  # the volume saves by itself too, and the end tries again
                self._save()


def event_from(values: dict[str, Any]) -> Note | Advance:
    """The event that `Reporter` passed on."""
    return Note(**values) if "text" in values else Advance(**values)
