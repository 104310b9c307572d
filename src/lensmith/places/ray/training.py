"""A training on several machines, by Ray Train. Lensmith's own loop runs in each worker, as it does under torchrun."""

from __future__ import annotations

import math
import os
from typing import Any

from lensmith.bulk.storage import Storage
from lensmith.places.ray.stored import read_outcome, write_outcome
from lensmith.places.ray.work import perform_here

_START = 60
"""Seconds that Ray waits for all workers of a training before it tries again."""


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with a fixed number of workers; returns the outcome, as `jobs.worker.attempt` does.

    Weights are equal to those of another machine only with an equal number of workers, so their number is never changed
    while machines are missing.
    """
    options = job["recipe"]["ray"]
    tries = max(1, math.ceil(options["wait"] / _START))
    # Read by Ray when the training starts.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(min(_START, max(1, math.ceil(options["wait"]))))
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    storage = Storage(job["storage"])
    gpus = options["gpus"]
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options["workers"],
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": options["cpus"], **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(
            name=job["submission"],
            storage_path=storage.path("train"),
            storage_filesystem=storage.files,
            failure_config=FailureConfig(max_failures=options["retries"], controller_failure_limit=tries),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        if outcome := read_outcome(storage, job["submission"]):  # refused: the workers were ended so that none waits
            return outcome
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        missing = "resource" in str(error).lower() or "start" in str(error).lower()
        if missing:
            reason = (
                f"{options['workers']} workers with {options['cpus']} CPUs and {gpus:g} GPUs each were not to be had "
                f"within {options['wait']:.0f} s (ray.wait)"
            )
        return {"failed": reason}
    return read_outcome(storage, job["submission"]) or {"failed": "the training ended without a result"}


def _work(config: dict[str, Any]) -> None:
    """What each worker does."""
    import ray.train
    import torch

    context, job = ray.train.get_context(), config["job"]
    storage, rank = Storage(job["storage"]), context.get_world_rank()
    if read_outcome(storage, job["submission"]):  # it was refused, or had ended; Ray only calls again
        return
    outcome = perform_here(job, f"rank{rank}", rank == 0, torch.distributed.barrier)
    if "error" in outcome:
        write_outcome(storage, job["submission"], outcome)
        raise RuntimeError("refused")  # so that no other worker waits for this one
    if rank == 0:
        write_outcome(storage, job["submission"], outcome)
