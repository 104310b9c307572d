"""Unlabelled images: labels reach what is alike, and are used only where labelled images say that it helps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from lensmith.learn.features.spreading import Graph, Verdict, fit_spread, judge
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
    found, reached = Graph(labelled, others).spread(torch.arange(3), y, 3)
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


Answers = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def learned(few: FeatureTable, others: torch.Tensor) -> Answers:
    """A probe on these labelled images that also learns from others."""
    graph, x = Graph(few.feature("f"), others), few.feature("f")
    return lambda rows, held_out: fit_spread([few], others, graph, "f", LABELS, rows)(x[held_out]).log_softmax(1)


def test_what_can_not_be_told_to_help_is_not_used() -> None:
    x, y = clusters(4, 0.2, 0)
    few = table(x, y)
    noise = torch.randn(200, 8, generator=torch.Generator().manual_seed(3))

    def certain(rows: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        return (20.0 * torch.nn.functional.one_hot(y[held_out], 3)).log_softmax(1)

    verdict = judge(few, certain, learned(few, noise), 0)
    assert not verdict.helps
    assert "can't be told that they help" in verdict.sentence(200)
    single = table(*clusters(1, 0.2, 0))
    verdict = judge(single, certain, learned(single, noise), 0)
    assert not verdict.helps
    assert math.isnan(verdict.before)
    assert "too few labels" in verdict.sentence(200)


def test_what_helps_is_used() -> None:
    few, others = table(*clusters(6, 1.2, 0)), clusters(100, 1.2, 1)[0]
    verdict = judge(few, lambda rows, held_out: torch.zeros(len(held_out), 3).log_softmax(1), learned(few, others), 0)
    assert verdict.helps
    assert verdict.after < verdict.before
    assert "unlike" not in verdict.sentence(100, unlike=5)


def test_each_image_is_judged_by_probes_that_have_not_seen_it_and_in_its_own_place() -> None:
    x, y = clusters(5, 0.5, 0)
    seen: list[set[int]] = []

    def right(rows: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        assert not set(rows.tolist()) & set(held_out.tolist())
        seen.append(set(held_out.tolist()))
        return (5.0 * torch.nn.functional.one_hot(y[held_out], 3)).log_softmax(1)

    verdict = judge(table(x, y), right, right, 0)
    assert verdict.before < 0.05  # answers in another image's place would be wrong
    assert set.union(*seen) == set(range(15))


def test_images_of_other_things_are_counted() -> None:
    labelled, _ = clusters(10, 0.3, 0)
    alike, _ = clusters(40, 0.3, 1)
    other = torch.full((60, 8), -4.0) + torch.randn(60, 8, generator=torch.Generator().manual_seed(2))
    assert Graph(labelled, alike).unlike < 0.2 * len(alike)
    assert 55 <= Graph(labelled, torch.cat([alike, other])).unlike <= 75
    assert "60 of them are unlike all classes" in Verdict(False, 1.0, 1.1, 30).sentence(180, 60)
