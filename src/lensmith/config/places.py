"""The options of the places where jobs run (`--on NAME`), a section for each place that has any."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le

from lensmith.config.section import Options, Positive


@dataclass
class ModalOptions(Options):
    """The rented machine of a job that runs with `--on modal`."""

    gpu: str = "L40S"
    """Type of GPU, by Modal's name."""
    hours: Annotated[float, Gt(0), Le(24)] = 4.0
    """Time limit of one attempt, in hours."""
    retries: Annotated[int, Ge(0), Le(10)] = 2
    """Number of further attempts after one that failed or ran out of time. Each resumes from the last checkpoint."""
    secrets: list[str] = field(default_factory=list)
    """Names of Modal secrets that are passed to the job as environment variables, such as a Hugging Face token or a W&B
    key."""


@dataclass
class RayOptions(Options):
    """The cluster of a job that runs with `--on ray`."""

    address: str | None = None
    """Address of the cluster's dashboard, such as http://HOST:8265. If not given, Ray is started on this machine for
    this one command."""
    storage: str | None = None
    """A folder that this machine and all machines of the cluster share: a network drive, or s3://, gs:// or az://. Jobs
    keep their inputs and their progress there. Needed with `ray.address`."""
    workers: Positive = 1
    """Number of workers: the processes of a training, the workers of a sweep, or those of a bulk prediction."""
    cpus: Positive = 1
    """CPU cores of each worker."""
    gpus: Annotated[float, Ge(0)] = 0.0
    """GPUs of each worker."""
    retries: Annotated[int, Ge(0), Le(100)] = 3
    """Number of times that a worker or a machine may be lost. Each time, the work resumes from its last checkpoint."""
    wait: Annotated[float, Gt(0)] = 600.0
    """Seconds to wait for machines that are missing, before the job ends."""
    hourly_cost: Annotated[float, Ge(0)] = 0.0
    """Cost of one worker for an hour, in US dollars."""
