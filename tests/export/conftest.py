"""Two finished runs of the tiny model, made once: a probe, and LoRA whose answers are names or codes."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lensmith import cli
from lensmith.verbs.use.export import export
from tests.models import checkpoints

PACKAGES = ("onnxruntime-node", "onnxruntime-web", "sharp")
SIZES = [(40, 40), (90, 30), (33, 120), (130, 110)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of pictures of several sizes, of which some are transparent or grey."""
    return _drawn(tmp_path_factory.mktemp("pictures of shapes"), odd=True)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, all opaque: llama.cpp ignores transparency."""
    return _drawn(tmp_path_factory.mktemp("plain pictures"), odd=False)


def _drawn(folder: Path, odd: bool) -> Path:
    rng = np.random.default_rng(0)
    for label, shade in (("circle", 30), ("square", 110), ("big star", 190)):
        (folder / label).mkdir()
        for i in range(24):
            width, height = SIZES[i % len(SIZES)]
            image = Image.fromarray((shade + rng.integers(0, 60, (height, width, 3))).astype(np.uint8))
            if odd and i % 6 == 1:
                image.putalpha(128)
            (image.convert("L") if odd and i % 6 == 2 else image).save(folder / label / f"{i}.png")
    return folder


def made(folder: Path, *words: str | Path) -> Path:
    """A run folder made by a command."""
    assert cli.main([*map(str, words), "--run", str(folder), "model.dtype=float32", "model.device=cpu"]) == 0
    return folder


@pytest.fixture(scope="session")
def probe_run(pictures: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe; its run has test images."""
    os.environ["LENSMITH_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    folder = tmp_path_factory.mktemp("runs") / "my probe"
    return made(folder, "probe", pictures, f"model.base={tiny_folder}")


@pytest.fixture(scope="session")
def lora_run(pictures: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on all components, which answers by names; one class has a synonym."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    options = ["tune.vision_tower=true", "tune.projector=true", "train.epochs=1", "train.batch_size=8"]
    options += ['question.names={"big star": ["big star", "bag"]}']
    return made(folder, "train", pictures, f"model.base={tiny_folder}", *options)


@pytest.fixture(scope="session")
def blend_run(pictures: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blend of heads under several looks and of two trained models, one of which has a vision tower of its own."""
    folder = tmp_path_factory.mktemp("runs") / "ladder"
    options = [
        "tune.vision_tower=true",
        "train.epochs=1",
        "train.batch_size=8",
        "augment.flip=true",
        "augment.shift=0.06",
    ]
    options += ["ladder.methods=[probe, lora, lora+head, blend]", "data.validation=0.3"]
    return made(folder, "ladder", pictures, f"model.base={tiny_folder}", *options) / "blend"


@pytest.fixture(scope="session")
def vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LFM2-VL with the published image settings: large images are shown as tiles."""
    return checkpoints.make("lfm2_vl", tmp_path_factory.mktemp("tiled"))


@pytest.fixture(scope="session")
def nano_run(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on the shipped model: other programs can't run the tiny one's sizes."""
    options = ["tune.vision_tower=true", "train.epochs=6", "train.batch_size=8", "train.learning_rate=0.002"]
    return made(tmp_path_factory.mktemp("runs") / "nano", "train", plain, *options)


@dataclass(frozen=True)
class Exported:
    """An export, and what `lensmith export` returned."""

    run: Path
    folder: Path
    record: dict[str, Any]


@pytest.fixture(scope="session")
def probe_onnx(probe_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exports") / "a probe"
    return Exported(probe_run, folder, export(probe_run, "onnx", folder))


@pytest.fixture(scope="session")
def lora_onnx(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exports") / "lora"
    return Exported(lora_run, folder, export(lora_run, "onnx", folder))


@pytest.fixture(scope="session")
def blend_onnx(blend_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exports") / "a blend"
    return Exported(blend_run, folder, export(blend_run, "onnx", folder))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm packages that exported programs need."""
    if not shutil.which("npm"):
        pytest.skip("npm isn't installed: apt-get install npm")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm can't install here: {done.stderr[-200:]}")
    return folder
