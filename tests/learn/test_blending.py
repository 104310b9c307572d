"""The weights of a blend: never negative, equal where nothing is known, and towards what helps where it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmith.learn.blending import fit_weights
from lensmith.measure.calibration import log_loss

pytestmark = pytest.mark.long


def drawn(members: int, n: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    logs = torch.randn(members, n, classes, generator=generator)
    logs[:, torch.arange(n), labels] += torch.rand(members, 1, generator=generator) * 2
    return logs.log_softmax(2), labels


@settings(max_examples=40)
@given(
    st.integers(1, 5), st.integers(0, 40), st.integers(2, 6), st.integers(0, 1000), st.sampled_from([0.0, 3.0, 30.0])
)
def test_weights_are_parts_of_a_whole(members: int, n: int, classes: int, seed: int, shrink: float) -> None:
    logs, labels = drawn(members, n, classes, seed)
    weights = fit_weights(logs, labels, shrink)
    assert weights.shape == (members,)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert (weights >= 0).all()
    if not n:
        assert torch.allclose(weights, torch.full((members,), 1 / members))


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_the_order_of_the_members_does_not_matter(seed: int) -> None:
    logs, labels = drawn(4, 60, 5, seed)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(fit_weights(logs, labels)[order], fit_weights(logs[order], labels), atol=2e-3)


def test_what_knows_nothing_gets_no_weight_if_there_are_many_images() -> None:
    logs, labels = drawn(3, 4000, 5, 0)
    logs[1] = torch.randn(4000, 5, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    weights = fit_weights(logs, labels)
    assert weights[1] == 0
    assert weights[0] > 0.1
    assert weights[2] > 0.1


def test_few_images_change_equal_weights_little_and_many_images_much() -> None:
    logs, labels = drawn(2, 2000, 5, 3)
    logs[0] = (3 * logs[0]).log_softmax(1)
    logs[0, torch.arange(2000), labels] += 3
    distance = [float((fit_weights(logs[:, :n], labels[:n]) - 0.5).abs().max()) for n in (5, 50, 2000)]
    assert distance[0] < distance[1] < distance[2]


def test_fitted_weights_are_better_than_equal_ones_where_they_were_fitted() -> None:
    for seed in range(5):
        logs, labels = drawn(3, 300, 4, seed)
        fitted = torch.einsum("k,knc->nc", fit_weights(logs, labels, 0.0), logs)
        best = min(log_loss(fitted * s, labels) for s in (0.5, 0.7, 1, 1.4, 2, 2.8, 4))
        equal = min(log_loss(logs.mean(0) * s, labels) for s in (0.5, 0.7, 1, 1.4, 2, 2.8, 4))
        assert best <= equal + 0.01
