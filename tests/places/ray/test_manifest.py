"""The manifest for KubeRay: whole by its schema, and with what the command asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import Run

SCHEMA = json.loads(Path(__file__).with_name("rayjob_schema.json").read_text())
WORDS = ["predict", "/data/runs/a b", "s3://b/photos", "--out", "s3://b/answers", "ray.storage=s3://b/jobs"]


def made(run: Run, *words: str) -> dict[str, Any]:
    code, out, err = run("manifest", *words)
    assert code == 0, err
    values: dict[str, Any] = yaml.safe_load(out)
    jsonschema.validate(values, SCHEMA)
    return values


def test_a_manifest_has_what_the_command_asks_for(run: Run) -> None:
    before = ["--name", "nightly", "--image", "mine:1", "--claim", "photos", "--secret", "keys", "--memory", "32Gi"]
    job = made(run, *before, *WORDS, "ray.workers=8", "ray.gpus=1", "ray.cpus=4")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("lensmith predict '/data/runs/a b' s3://b/photos --out s3://b/answers ")
    assert spec["entrypoint"].endswith(" --on ray ray.address=http://127.0.0.1:8265")
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 8
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "mine:1"
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert {"name": "shared", "mountPath": "/data"} in container["volumeMounts"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0", "the head has no work"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert job["metadata"]["name"] == "nightly"


def test_the_schema_refuses_what_kuberay_would(run: Run) -> None:
    job = made(run, *WORDS)
    for change in ({"entryPoint": "x"}, {"backoffLimit": "0"}, {"submissionMode": "Other"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**job, "spec": job["spec"] | change}, SCHEMA)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Which command?"),
        (["serve", "x"], "'serve' isn't a command that runs on a cluster."),
        (WORDS[:-1], "The job needs a storage that all its pods share."),
        ([*WORDS, "ray.address=http://x:1"], "is for a cluster that is there already."),
        ([*WORDS, "--detach"], "--detach is for a cluster that is there already."),
        (["--name", "My Job", *WORDS], "'My Job' isn't a name for Kubernetes."),
        (["--on", "modal", *WORDS], "There are no manifests for modal."),
        ([*WORDS, "ray.workers=many"], "ray.workers"),
    ],
)
def test_what_makes_no_manifest_is_said(words: list[str], sentence: str, run: Run) -> None:
    code, _, err = run("manifest", *words)
    assert code == 2
    assert sentence in err
