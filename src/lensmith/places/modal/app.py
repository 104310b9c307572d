"""The app at Modal: what its machine is made of, and the function that works there."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import UserError
from lensmith.jobs.worker import ROOT, attempt

if TYPE_CHECKING:
    import modal

    from lensmith.config import PlaceOptions

VOLUMES = ("weights", "data", "runs")
QUEUE = "lensmith-events"
PACKAGE = "/root/lensmith"
"""Where Modal puts Python sources, and looks for them."""
FUNCTION = "work"
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
    needs, source = versions(extras), Path(__file__).parents[2]
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
    """What Modal calls; see `jobs.worker.attempt`."""
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

    return attempt(job, put, volume("runs").commit)
