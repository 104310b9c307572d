"""LoRA's layer computes what PEFT's computes, and leaves to PEFT whatever isn't plain LoRA."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from lensmith import models
from lensmith.config import ModelOptions, TuneOptions
from lensmith.models.layers.lora import LoraLinear, speed_up
from lensmith.models.tuning import attach

INPUTS, OUTPUTS = 12, 20


def layer(bias: bool = True, **options: Any) -> Any:
    """PEFT's LoRA on a linear layer, its second matrix not zero."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, OUTPUTS, bias=bias))
    found: Any = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules=["0"], **options))
    for name, weight in found.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return found


def results(network: Any, x: Tensor, autocast: bool = False) -> list[Tensor]:
    """The layer's answer, and the gradients of its input and of its weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = network(x)
    assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
    out.float().square().sum().backward()
    assert x.grad is not None
    return [out.float(), x.grad, *(w.grad for _, w in network.named_parameters() if w.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, INPUTS), (1, INPUTS)])
def test_answers_and_gradients_are_those_of_peft(bias: bool, autocast: bool, shape: tuple[int, ...]) -> None:
    theirs = layer(bias)
    ours = copy.deepcopy(theirs)
    speed_up(ours)
    assert any(isinstance(module, LoraLinear) for module in ours.modules())
    x = torch.randn(shape)
    expected, found = results(theirs, x, autocast), results(ours, x, autocast)
    assert len(found) == 4, "answer, input and both of LoRA's matrices"
    for one, other in zip(expected, found, strict=True):
        assert (one - other).norm() <= (0.02 if autocast else 1e-6) * one.norm()


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.5}])
def test_what_is_not_plain_lora_is_left_to_peft(options: dict[str, Any]) -> None:
    theirs = layer(**options).train()
    ours = copy.deepcopy(theirs)
    speed_up(ours)
    x = torch.randn(3, INPUTS)
    torch.manual_seed(1)
    expected = results(theirs, x)
    torch.manual_seed(1)
    for one, other in zip(expected, results(ours, x), strict=True):
        assert torch.equal(one, other)


def test_merged_and_disabled_adapters_answer_as_they_should() -> None:
    network = layer()
    speed_up(network)
    x = torch.randn(3, INPUTS)
    with torch.no_grad():
        taught = network(x)
        with network.disable_adapter():
            base = network(x)
        assert not torch.allclose(taught, base)
        torch.testing.assert_close(network.merge_and_unload()(x), taught)


def test_every_layer_that_learns_is_the_fast_one() -> None:
    model = models.load_base(ModelOptions(dtype="float32", device="cpu"))
    attach(model, TuneOptions(vision_tower=True, projector=True), ["a", "b"])
    kinds = {type(module) for module in model.network.modules() if isinstance(module, Linear)}
    assert kinds == {LoraLinear}
