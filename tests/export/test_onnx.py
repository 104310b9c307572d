"""The ONNX graph answers as the run, through the program that is handed over, and in JavaScript."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lensmith.export.onnx_model import quantised
from lensmith.export.original import answers, open_original
from tests.export.conftest import Exported

pytestmark = pytest.mark.long


@pytest.mark.parametrize("kind", ["probe_onnx", "lora_onnx", "blend_onnx"])
def test_every_answer_and_probability_is_the_runs(kind: str, pictures: Path, request: pytest.FixtureRequest) -> None:
    made: Exported = request.getfixturevalue(kind)
    (proof,) = made.record["proofs"]
    assert made.record["proven"]
    assert proof["changed"] == 0
    assert proof["largest"] < 1e-4
    assert proof["accuracy"] == proof["accuracy_of_run"]
    assert not (made.folder / "NOT-PROVEN.txt").exists()
    original = open_original(made.run)
    session = onnxruntime.InferenceSession(made.folder / "model.onnx")
    images = np.random.default_rng(1).integers(0, 256, (3, 70, 50, 3), dtype=np.uint8)
    batch = session.run(["probabilities"], {"images": images})[0]
    single = np.concatenate([session.run(["probabilities"], {"images": images[i : i + 1]})[0] for i in range(3)])
    assert np.abs(batch - single).max() < 1e-5
    assert np.allclose(batch.sum(1), 1, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["labels"]) == list(original.labels)
    assert "big star" in about["question"]
    # As a stranger runs it, from elsewhere.
    image = pictures / "circle" / "3.png"
    said = subprocess.run(
        [sys.executable, made.folder / "classify.py", image], capture_output=True, text=True, check=True
    )
    path, label, probability = said.stdout.strip().split("\t")
    logs = np.array(answers(original, original.classifier, image.read_bytes()))
    assert (path, label) == (str(image), original.labels[logs.argmax()])
    assert abs(float(probability) - np.exp(logs.max())) < 1e-3


def test_eight_bits_hold_every_matrix_and_nearly_the_same_answers(lora_onnx: Exported) -> None:
    whole = onnx.load(lora_onnx.folder / "model.onnx")
    small = quantised(whole)
    left = [t for t in small.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT]
    # Only small tables are left in float32: positions, and what the question adds.
    assert max((int(np.prod(t.dims)) for t in left), default=0) < 32 * 48
    assert small.ByteSize() < whole.ByteSize() / 2
    images = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    both = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"images": images})[0] for m in (whole, small)
    ]
    assert 0 < np.abs(both[0] - both[1]).max() < 0.5


def test_javascript_gives_the_same_answers(probe_onnx: Exported, pictures: Path, npm: Path) -> None:
    out = npm / "my export"
    shutil.copytree(probe_onnx.folder, out)
    # The last one is transparent, which the two libraries round in their own ways.
    images = [
        pictures / label / f"{i}.png" for label, i in (("circle", 0), ("square", 3), ("square", 5), ("square", 1))
    ]
    said = [
        subprocess.run([*command, out / program, *images], capture_output=True, text=True, check=True).stdout
        for command, program in ((["node"], "classify.mjs"), ([sys.executable], "classify.py"))
    ]
    rows = [[line.split("\t") for line in text.splitlines()] for text in said]
    assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
    differences = [abs(float(a[2]) - float(b[2])) for a, b in zip(*rows, strict=True)]
    assert max(differences[:3]) <= 0.001
    assert differences[3] < 0.1
