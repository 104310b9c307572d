"""Unlabelled images: labels reach what is alike, and are used only where labelled images say that it helps."""

from __future__ import annotations

import math

import pytest
import torch

from lensmith.learn.features.spreading import Graph, fit_spread, judge
from lensmith.learn.features.table import FeatureTable

pytestmark = pytest.mark.long

LABELS = ("a", "b", "c")


def clusters(per_class: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(per_class)
    return torch.eye(8)[y] * 3 + noise * torch.randn(len(y), 8, generator=generator), y


def table(x: torch.Tensor, y: torch.Tensor) -> FeatureTable:
    return FeatureTable(x.half(), {"f": slice(0, 8)}, y, list(range(len(y))), {}, [str(i) for i in range(len(y))])


def test_labels_reach_the_images_of_the_same_cluster() -> None:
    labelled, y = clusters(1, 0.2, 0)
    others, truth = clusters(40, 0.2, 1)
    found, reached = Graph(labelled, others).spread(range(3), y, 3)
    assert reached.all()
    assert torch.allclose(found.sum(1), torch.ones(120), atol=1e-5)
    assert (found.argmax(1) == truth).all()


def test_a_probe_learns_from_them() -> None:
    test, y_test = clusters(200, 1.6, 99)
    others, _ = clusters(200, 1.6, 5)
    gains = []
    for seed in range(6):
        x, y = clusters(1, 1.6, seed)
        few = table(x, y)
        head = fit_spread([few], others, Graph(few.feature("f"), others), "f", LABELS)
        alone = fit_spread([few], others[:0], Graph(few.feature("f"), others[:0]), "f", LABELS)
        right = [float((h(test).argmax(1) == y_test).float().mean()) for h in (head, alone)]
        gains.append(right[0] - right[1])
    assert sum(gains) / len(gains) > 0.03


def test_what_can_not_be_told_to_help_is_not_used() -> None:
    x, y = clusters(4, 0.2, 0)
    few = table(x, y)
    noise = torch.randn(200, 8, generator=torch.Generator().manual_seed(3))
    graph = Graph(few.feature("f"), noise)

    def certain(rows: object, held_out: list[int]) -> torch.Tensor:
        return (20.0 * torch.nn.functional.one_hot(y[held_out], 3)).log_softmax(1)

    verdict = judge([few], noise, graph, "f", LABELS, certain, 0)
    assert not verdict.helps
    assert "can't be told that they help" in verdict.sentence(200)
    single = table(*clusters(1, 0.2, 0))
    verdict = judge([single], noise, Graph(single.feature("f"), noise), "f", LABELS, certain, 0)
    assert not verdict.helps
    assert math.isnan(verdict.before)
    assert "too few labels" in verdict.sentence(200)


def test_what_helps_is_used() -> None:
    x, y = clusters(6, 1.2, 0)
    few, others = table(x, y), clusters(100, 1.2, 1)[0]

    def guess(rows: object, held_out: list[int]) -> torch.Tensor:
        return torch.zeros(len(held_out), 3).log_softmax(1)

    assert judge([few], others, Graph(few.feature("f"), others), "f", LABELS, guess, 0).helps
