"""The app at Modal: the description of its machine, and the function that runs there."""

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

    from lensmith.config import ModalOptions

VOLUMES = ("weights", "data", "runs")
QUEUE = "lensmith-events"
PACKAGE = "/root/lensmith"
"""The folder where Modal puts Python sources, and searches for them."""
FUNCTION = "work"
ENVIRONMENT = {
    "HF_HOME": f"{ROOT}/weights",
    # `datasets` maps its unpacked files into memory, which is slow on a volume. Its downloads stay in HF_HOME.
    "HF_DATASETS_CACHE": "/tmp/datasets",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def versions(extras: Collection[str] = ()) -> list[str]:
    """The dependencies of Lensmith: as `name==version` if installed here, otherwise as Lensmith requires them.

    Local version labels are dropped: `2.13.0+cpu` is a build for this machine.

    Raises:
        UserError: Lensmith itself isn't installed, so its dependencies aren't known.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned: dict[str, str] = {}
    seen = set()
    pending = [Requirement(f"lensmith[{','.join(sorted(extras))}]")]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            pinned[name] = f"{name}{requirement.specifier}"
            continue
        pinned[name] = f"{name}=={installed.version.partition('+')[0]}"
        for text in installed.requires or []:
            dependency = Requirement(text)
            if not dependency.marker or any(
                dependency.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)
            ):
                pending.append(dependency)
    if "==" not in pinned.pop("lensmith"):
        raise UserError("Lensmith isn't installed, so its dependencies aren't known.", "Install it with pip.")
    return [pinned[name] for name in sorted(pinned)]


def build(options: ModalOptions, extras: Collection[str] = ()) -> tuple[modal.App, Any]:
    """The description of the app and its only function, which is not deployed yet.

    Its name is a digest of its whole content. So a later job with other options, or with another version of Lensmith,
    is another app, and never replaces one that may still retry.

    Args:
        options: GPU, time limit, retries and secrets.
        extras: the extras of Lensmith that the recipe needs.
    """
    import modal

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages, source = versions(extras), Path(__file__).parents[2]
    digest = hashlib.blake2b(repr((python, packages, options, ENVIRONMENT)).encode(), digest_size=6)
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(source).as_posix().encode() + path.read_bytes())
    image = (
        modal.Image.debian_slim(python_version=python)
        .pip_install(*packages)
        .env(ENVIRONMENT)
        .add_local_dir(source, PACKAGE, ignore=["**/__pycache__"])
    )
    app = modal.App(f"lensmith-{digest.hexdigest()}")
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
        single_use_containers=True,  # a reused container would see the volumes as they were when it started
        include_source=False,  # the image has the package, including its data files
    )(work)
    return app, function


def volume(name: str) -> modal.Volume:
    """One of Lensmith's volumes, created if it doesn't exist."""
    import modal

    return modal.Volume.from_name(f"lensmith-{name}", create_if_missing=True)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """The function that Modal calls; see `jobs.worker.attempt`."""
    import queue

    import modal

    events = modal.Queue.from_name(QUEUE, create_if_missing=True)
    name = job["name"]

    def put(event: dict[str, Any]) -> None:
        try:
            events.put(event, block=False, partition=name)
        except queue.Full:  # nobody is listening; a client that returns needs only recent progress
            events.clear(partition=name)
            events.put(event, block=False, partition=name)

    return attempt(job, put, volume("runs").commit)
