"""A RayJob for KubeRay: a cluster that Kubernetes makes for one command, and removes when the command has ended."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from lensmith.config import RayOptions

SHARED = "/data"
"""Where a persistent volume claim is mounted in every pod."""
_KEEP = 300
"""Seconds that the cluster is kept after the job, so that its logs can be read."""


def ray_job(
    name: str,
    words: Sequence[str],
    options: RayOptions,
    image: str,
    memory: str = "8Gi",
    claim: str | None = None,
    secret: str | None = None,
) -> dict[str, Any]:
    """The manifest, as plain values.

    Args:
        name: of the job; letters, digits and hyphens.
        words: the command, without `lensmith`.
        image: with Lensmith and Ray installed, of the same versions as here.
        memory: of each worker, as Kubernetes writes it.
        claim: a persistent volume claim that every pod finds at `SHARED`.
        secret: whose keys become environment variables, such as credentials.
    """
    gpus = math.ceil(options.gpus)
    entry = shlex.join(["lensmith", *words, "--on", "ray", "ray.address=http://127.0.0.1:8265"])
    head = _pod(image, {"cpu": "2", "memory": "8Gi"}, claim, secret)
    asked = {"cpu": str(options.cpus), "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    worker = _pod(image, asked, claim, secret)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "lensmith"}},
        "spec": {
            "entrypoint": entry,
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEEP,
            "backoffLimit": 0,
            "rayClusterSpec": {
                "rayVersion": _ray_version(),
                "headGroupSpec": {"rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"}, "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": options.workers,
                        "minReplicas": options.workers,
                        "maxReplicas": options.workers,
                        "rayStartParams": {"num-cpus": str(options.cpus), "num-gpus": str(gpus)},
                        "template": worker,
                    }
                ],
            },
        },
    }


def _pod(image: str, asked: dict[str, str], claim: str | None, secret: str | None) -> dict[str, Any]:
    """A pod template with one container. Processes of PyTorch and Ray share memory through /dev/shm."""
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if claim:
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "shared", "mountPath": SHARED})
    container: dict[str, Any] = {
        "name": "ray",
        "image": image,
        "resources": {"requests": {**asked}, "limits": {**asked}},
        "volumeMounts": mounts,
    }
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    return {"spec": {"containers": [container], "volumes": volumes}}


def _ray_version() -> str:
    try:
        return metadata.version("ray")
    except metadata.PackageNotFoundError:  # it is only needed in the image
        return "2.60.0"
