"""The vision tower in eight bits: nearly the same answers, never one that learns, never another tower's features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lensmith import models
from lensmith.config import ModelOptions, TuneOptions
from lensmith.errors import UserError
from lensmith.learn.features.store import fingerprint
from lensmith.models.base import Model
from lensmith.models.cost import weights
from lensmith.models.layers.int8 import Int8Linear
from lensmith.models.tuning import attach
from tests.conftest import Run, Shapes
from tests.models import checkpoints


def load(quantize: str, base: str = "nano", device: str = "cpu") -> Model:
    return models.load_base(ModelOptions(base=base, dtype="float32", device=device, quantize=quantize))  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_within_its_rounding(bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32, bias=bias)
    x = torch.randn(3, 5, 64)
    with torch.no_grad():
        exact, rounded = layer(x), Int8Linear(layer)(x)
        assert rounded.shape == exact.shape
        assert (rounded - exact).norm() < 0.03 * exact.norm()
        assert Int8Linear(layer)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_only_the_layers_of_the_tower_change(family: str, tmp_path: Path) -> None:
    folder = checkpoints.make(family, tmp_path)
    plain, small = load("none", str(folder)), load("int8", str(folder))
    changed = [name for name, module in small.network.named_modules() if isinstance(module, Int8Linear)]
    assert changed
    assert all(name.startswith(plain.components["vision_tower"]) for name in changed)
    assert weights(small) == weights(plain), "the cost of an image counts them all the same"


def test_features_are_close_and_kept_apart() -> None:
    plain, small = load("none"), load("int8")
    torch.manual_seed(0)
    views = (torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8),)
    with torch.inference_mode():
        (exact,), (rounded,) = plain.encode_images(views), small.encode_images(views)
    assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()
    tower = ["vision_tower"]
    assert fingerprint(small, tower) == fingerprint(load("int8"), tower)
    assert fingerprint(small, tower) != fingerprint(plain, tower)
    other = load("int8")
    layer = next(m for m in other.network.modules() if isinstance(m, Int8Linear))
    changed = torch.nn.Linear(layer.in_features, layer.out_features)
    layer.packed = Int8Linear(changed).packed
    assert fingerprint(small, tower) != fingerprint(other, tower)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_tower_in_eight_bits_is_not_trained(method: str) -> None:
    with pytest.raises(UserError, match="eight bits can't be trained"):
        attach(load("int8"), TuneOptions(method=method, vision_tower=True), ["a", "b"])  # type: ignore[arg-type]


@pytest.mark.long
def test_a_probe_and_a_training_work_with_it(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=24, square=24)
    common = [str(data), f"model.base={tiny_folder}", "model.quantize=int8", "model.dtype=float32"]
    for words in (["probe"], ["train", "train.epochs=1", "train.batch_size=8"]):
        code, out, err = run(words[0], *common, *words[1:], "--run", words[0])
        assert code == 0, err
        code, out, err = run("predict", words[0], data / "circle")
        assert code == 0, err
        assert "circle" in out
    code, _, err = run("export", "probe", "--to", "npz", "--out", "copy")
    assert code == 2
    assert "model.quantize=int8" in err
