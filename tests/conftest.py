"""A tiny LFM2-VL with random weights, made once per session: conv and attention layers, float32, its own tokenizer."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from transformers import Lfm2Config, Lfm2VlConfig, Lfm2VlForConditionalGeneration, Siglip2VisionConfig

from lensmith import cli, models
from lensmith.config import ModelOptions
from lensmith.models.base import Model

# Two processes run the tests, and their subprocesses also have one core each. More threads would only wait.
os.environ["OMP_NUM_THREADS"] = "1"

# Commands that a shell starts in the background ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timings on a shared machine say nothing about correctness.
settings.register_profile("lensmith", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lensmith")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache features in the tests' temporary folder, not in the user's."""
    monkeypatch.setenv("LENSMITH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # The models here are too small to gain from a second core, and results stay the same to the bit.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the shipped model's tokenizer and the smallest architecture that has every component."""
    folder = tmp_path_factory.mktemp("tiny model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"):
        (folder / name).write_bytes((models.NANO / name).read_bytes())
    settings = json.loads((models.NANO / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    nano = json.loads((models.NANO / "config.json").read_text())
    text = Lfm2Config(
        vocab_size=nano["text_config"]["vocab_size"],
        hidden_size=32,
        intermediate_size=48,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=4,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.12,  # large enough that the image and every token matter
        bos_token_id=1,
        eos_token_id=nano["text_config"]["eos_token_id"],
    )
    vision = Siglip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_patches=16,
        patch_size=16, vision_use_head=False,
    )  # fmt: skip
    config = Lfm2VlConfig(
        text_config=text, vision_config=vision, image_token_id=nano["image_token_id"], projector_hidden_size=32
    )
    torch.manual_seed(0)
    network = Lfm2VlForConditionalGeneration(config).float()
    for layer in (network.model.multi_modal_projector.linear_1, network.model.multi_modal_projector.linear_2):
        torch.nn.init.normal_(
            layer.weight, std=0.1
        )  # otherwise the image has hardly any effect, and nothing can learn from it
    # Tied to the vocabulary projection, small embeddings could never make any token probable.
    torch.nn.init.normal_(network.model.language_model.embed_tokens.weight, std=0.5)
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path) -> Model:
    """The tiny model, loaded afresh, in float32 on the CPU."""
    return models.load_base(ModelOptions(base=str(tiny_folder), dtype="float32", device="cpu"))


Shapes = Callable[..., Path]


@pytest.fixture
def shapes(tmp_path: Path) -> Shapes:
    """Creates a folder with one folder of easy pictures per class: `shapes(circle=8, square=8)`."""

    def make(where: str = "my shapes", size: tuple[int, int] = (40, 40), **counts: int) -> Path:
        rng = np.random.default_rng(0)
        for label, n in counts.items():
            folder = tmp_path / where / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                shade = {"circle": 40, "square": 200}.get(label, 120)
                noise = rng.integers(0, 40, (size[1], size[0], 3))
                Image.fromarray((shade + noise).astype(np.uint8)).save(folder / f"{label} {i}.jpg")
        return tmp_path / where

    return make


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in this process, in a temporary folder; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return go
