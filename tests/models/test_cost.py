"""Operations computed from a model's configuration are those that PyTorch counts when it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.engine.branches import fork_all, grow
from lensmith.models import attention, tower_attention
from lensmith.models.cost import describe, operations
from lensmith.models.views import shape_of, stack
from tests.models import checkpoints

PAST, TEXT = 40, 10


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("size", [(40, 30), (1100, 900)], ids=["small", "large"])
def test_operations_are_those_that_pytorch_counts(
    family: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FUSED", set())  # PyTorch doesn't count its fused kernel for CPUs
    monkeypatch.setattr(tower_attention, "LONG", 10**9)
    folder = checkpoints.make(
        family,
        tmp_path,
        **({"tile_size": 96, "max_image_tokens": 16, "min_image_tokens": 4} if family == "lfm2_vl" else {}),
    )
    model = models.load_base(ModelOptions(base=str(folder), dtype="float32", device="cpu"))
    views = model.prepare(Image.new("RGB", size, "red"))
    with torch.no_grad():
        _, branch = grow(model.decoder, model.embed(torch.ones(1, PAST, dtype=torch.long)))
        with FlopCounterMode(display=False) as counter:
            encoded = model.encode_images(stack([views]))
        tower = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            projected = model.project(encoded)
        projector = counter.get_total_flops()
        segment = torch.cat([model.assemble(projected), model.embed(torch.ones(1, TEXT, dtype=torch.long))], 1)
        with FlopCounterMode(display=False) as counter:
            grow(model.decoder, segment, fork_all(branch, 1))
        decoder = counter.get_total_flops()
    computed = operations(model, shape_of(views), PAST, TEXT)
    # In narrow layers, the operations that are left out (convolutions, the patch embedding) matter more than at true
    # size. PyTorch also counts attention scores that the causal mask hides.
    assert computed.projector == pytest.approx(projector, rel=0.01)
    assert computed.vision_tower == pytest.approx(tower, rel=0.25)
    assert 0.6 * decoder < computed.language_model < 1.05 * decoder


def test_the_sentence_reports_the_cost_with_fewer_tokens(tmp_path: Path) -> None:
    model = models.load_base(ModelOptions(base=str(checkpoints.make("lfm2_vl", tmp_path)), device="cpu"))
    sentence = describe(model, [(32, 32), (28, 28)], past=620).sentence
    assert sentence.startswith("An image becomes 64 tokens after a question of 620, and takes ")
    _, _, end = sentence.partition("With model.image_tokens=16 it becomes 16, shows less detail, and takes ")
    percentage = float(end.partition("%")[0])
    assert 15 < percentage < 40, "the decoder's cost falls like the number of tokens, the tower's faster"
    model.limit_image_tokens(1)
    assert "image_tokens=" not in describe(model, [(32, 32)], past=620).sentence, "there is no budget below one"


@pytest.mark.parametrize("family", ["lfm2_vl", "lfm3_vl", "smolvlm"])
def test_estimating_a_cost_changes_nothing_of_the_model(family: str, tmp_path: Path) -> None:
    model = models.load_base(ModelOptions(base=str(checkpoints.make(family, tmp_path)), dtype="float32", device="cpu"))
    settings = dict(model.settings)
    describe(model, [(400, 400)], 10)
    assert model.settings == settings
