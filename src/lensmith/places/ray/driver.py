"""What runs on the cluster for a job: `python -m lensmith.places.ray.driver STORAGE NAME`, submitted by the client."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lensmith.bulk.storage import Storage
from lensmith.errors import UserError, reason
from lensmith.jobs.job import Job, module_of, perform
from lensmith.jobs.uploads import WEIGHTS, Upload
from lensmith.jobs.worker import Reporter
from lensmith.models import on_hub
from lensmith.places.ray.stored import Events, content_digest, read_outcome, send, write_outcome

_LOOK = 5.0
"""Seconds between two looks at the machines while a task waits for one."""


def main() -> int:
    """Do the job that is described in the storage, and keep its outcome there. Returns the exit code."""
    address, name = sys.argv[1:]
    storage = Storage(address)
    try:
        job = json.loads(storage.read(f"jobs/{name}/job.json"))
    except FileNotFoundError:
        sys.stderr.write(f"The cluster sees no jobs/{name}/job.json in {address}: the storage isn't shared.\n")
        return 2
    try:
        outcome = _do(job, storage)
    except UserError as error:
        outcome = {"error": error.what, "hint": error.hint}
    except Exception as error:
        write_outcome(storage, name, {"failed": f"{type(error).__name__}: {reason(error)}"})
        raise
    write_outcome(storage, name, outcome)
    return 0


def _do(job: dict[str, Any], storage: Storage) -> dict[str, Any]:
    same_versions(job["versions"])
    if outcome := read_outcome(storage, job["submission"]):  # the job was started twice
        return outcome
    job = with_base(job, storage)
    import ray

    ray.init(address="auto", log_to_driver=True, logging_level="WARNING")
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "train": partial(_train, job),
        "predict": partial(_predict, job, storage),
        "sweep": partial(_tasks, job, job["recipe"]["ray"]["workers"]),
    }
    return kinds.get(job["verb"], partial(_tasks, job, 1))()


def same_versions(theirs: dict[str, str]) -> None:
    """Raises UserError if Lensmith isn't of the same version as on the client."""
    mine = version("lensmith")
    if theirs["lensmith"] != mine:
        raise UserError(
            f"Lensmith is version {mine} on the cluster, and {theirs['lensmith']} on this machine.",
            "Install the same version on both.",
        )


def with_base(job: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """The job with its base model among its inputs, if that is a model of the hub.

    It is downloaded once into the storage, where its published hashes have been checked, and from there once to each
    machine, instead of by every worker from the hub.

    Raises:
        UserError: see `lensmith fetch`.
    """
    base = job["base"]
    if base == "nano" or not on_hub(base):
        return job
    note = f"weights/{base.replace('/', '--')}.json"
    try:
        stored = json.loads(storage.read(note))["stored"]
    except FileNotFoundError:
        with tempfile.TemporaryDirectory(prefix="lensmith-") as folder:
            module_of("fetch").fetch([base], folder)
            model = Path(folder, base.rpartition("/")[2])
            files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
            upload = Upload(base, WEIGHTS, files, content_digest(model))
            send(upload, storage)
        stored = upload.stored
        storage.write(note, json.dumps({"stored": stored}).encode())
    return job | {"uploads": [*job["uploads"], {"folder": base, "stored": stored}]}


def _train(job: dict[str, Any]) -> dict[str, Any]:
    from lensmith.places.ray.training import train

    return train(job)


def _predict(job: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """A bulk prediction, whose driver is this process and whose workers are actors."""
    from lensmith.config import recipe_from
    from lensmith.places.ray.actors import Gauges, RayPool
    from lensmith.places.ray.work import in_client_folder

    began, events = time.monotonic(), Events(storage, job["submission"])
    in_client_folder(job, storage, "driver")
    recipe = recipe_from(job["recipe"])
    cost = recipe.ray.hourly_cost * recipe.ray.workers
    report = Reporter(events.put, lambda: None)
    options = job["options"] | {"pool": RayPool(job), "hourly_cost": cost, "watch": Gauges()}
    record = perform(Job("predict", recipe, options=options), report)
    return {"record": record, "seconds": time.monotonic() - began}


def _tasks(job: dict[str, Any], count: int) -> dict[str, Any]:
    """The job in one task; of a sweep, in several, of which each is a worker with a run folder of its own."""
    import ray

    from lensmith.places.ray.work import perform_here

    options = job["recipe"]["ray"]
    work = ray.remote(
        num_cpus=options["cpus"],
        num_gpus=options["gpus"],
        max_retries=options["retries"],
        retry_exceptions=[RuntimeError],
    )(perform_here)
    pending = []
    for k in range(count):
        part = {} if k == 0 else {key: f"{job[key]}-{k + 1}" for key in ("name", "folder", "submission")}
        pending.append(work.remote(job | part))
    first, missing_since = pending[0], time.monotonic()
    outcomes: dict[Any, dict[str, Any]] = {}
    while pending:
        done, pending = ray.wait(pending, num_returns=1, timeout=_LOOK)
        for task in done:
            try:
                outcomes[task] = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                outcomes[task] = {"failed": str(error.cause or error)}
            except ray.exceptions.RayError as error:
                outcomes[task] = {"failed": str(error).strip().splitlines()[0]}
            if "error" in outcomes[task]:
                return outcomes[task]
        if _room(options):
            missing_since = time.monotonic()
        elif time.monotonic() - missing_since > options["wait"]:
            raise UserError(
                f"No machine with {options['cpus']} CPUs and {options['gpus']:g} GPUs was there for "
                f"{options['wait']:.0f} s (ray.wait).",
                "Add machines, or ask for less (ray.cpus, ray.gpus).",
            )
    return outcomes[first]


def _room(options: dict[str, Any]) -> bool:
    """Whether a machine of the cluster could ever have a worker."""
    import ray

    return any(
        node["Alive"]
        and node["Resources"].get("CPU", 0) >= options["cpus"]
        and node["Resources"].get("GPU", 0) >= options["gpus"]
        for node in ray.nodes()
    )


if __name__ == "__main__":
    sys.exit(main())
