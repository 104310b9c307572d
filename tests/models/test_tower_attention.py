"""The vision tower's two ways of attention agree, and which one is taken depends on nothing that changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lensmith.models.tower_attention import LONG, attend, attend_plainly, fused

LAYER = SimpleNamespace(training=False)


def inputs(tokens: int, heads: int, key_heads: int, gradients: bool) -> list[Tensor]:
    torch.manual_seed(tokens)
    shapes = [(2, heads, tokens, 8), (2, key_heads, tokens, 8), (2, key_heads, tokens, 8)]
    return [torch.randn(shape, requires_grad=gradients) for shape in shapes]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 2, 7, 16, LONG - 1, LONG, 2 * LONG]),
    st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    st.booleans(),
    st.booleans(),
)
def test_both_ways_give_the_same_answers_and_gradients(
    tokens: int, heads: tuple[int, int], gradients: bool, masked: bool
) -> None:
    mask = None
    if masked and tokens > 1:
        mask = torch.zeros(2, 1, 1, tokens)
        mask[:, :, :, tokens // 2 :] = torch.finfo(torch.float32).min
    results = []
    for way in (attend, attend_plainly):
        query, key, value = inputs(tokens, *heads, gradients)
        out, none = way(LAYER, query, key, value, mask, scaling=0.3)
        assert out.shape == (2, tokens, heads[0], 8)
        assert none is None
        if gradients:
            out.square().sum().backward()
        results.append([out.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "dtype", "gradients", "expected"),
    [
        (16, torch.float32, False, False),
        (16, torch.float32, True, True),
        (16, torch.bfloat16, True, False),
        (1024, torch.bfloat16, True, True),
        (1024, torch.float32, False, True),
    ],
)
def test_the_way_is_chosen_by_length_type_and_gradients(
    tokens: int, dtype: torch.dtype, gradients: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fused(tokens, dtype, gradients) is expected
    called = []
    kernel = F.scaled_dot_product_attention

    def spied(*given: Any, **named: Any) -> Tensor:
        called.append(True)
        return kernel(*given, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    query, key, value = (x.to(dtype) for x in inputs(tokens, 2, 2, gradients))
    attend(LAYER, query, key, value)
    assert bool(called) is expected
