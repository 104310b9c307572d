"""Operations counted from a model's shape are those that PyTorch counts when it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.engine.branches import fork_all, grow
from lensmith.models import attention
from lensmith.models.cost import describe, operations
from lensmith.models.views import shape_of, stack
from tests.models import checkpoints

PAST, TEXT = 40, 10


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("size", [(40, 30), (1100, 900)], ids=["small", "large"])
def test_operations_are_those_that_are_run(
    family: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FUSED", set())  # PyTorch does not count what its fused kernel on a CPU does
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
            seen = model.encode_images(stack([views]))
        tower = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            projected = model.project(seen)
        projector = counter.get_total_flops()
        segment = torch.cat([model.assemble(projected), model.embed(torch.ones(1, TEXT, dtype=torch.long))], 1)
        with FlopCounterMode(display=False) as counter:
            grow(model.decoder, segment, fork_all(branch, 1))
        decoder = counter.get_total_flops()
    found = operations(model, shape_of(views), PAST, TEXT)
    # Narrow layers: what is left out (convolutions, the patches' own projection) weighs more than at true size, and
    # attention is run with what a causal mask hides.
    assert found.projector == pytest.approx(projector, rel=0.01)
    assert found.vision_tower == pytest.approx(tower, rel=0.25)
    assert 0.6 * decoder < found.language_model < 1.05 * decoder


def test_the_sentence_says_what_fewer_tokens_would_take(tmp_path: Path) -> None:
    model = models.load_base(ModelOptions(base=str(checkpoints.make("lfm2_vl", tmp_path)), device="cpu"))
    sentence = describe(model, [(32, 32), (28, 28)], past=620)
    assert sentence.startswith("An image becomes 64 tokens after a question of 620, and takes ")
    share = float(sentence.partition("With model.image_tokens=16 it becomes 16, shows less, and takes ")[2].split()[0])
    assert 0.15 < share < 0.4, "the tower's share falls faster than the tokens', the decoder's as they do"
    model.limit(1)
    assert "image_tokens=" not in describe(model, [(32, 32)], past=620), "it can't be less than one"
