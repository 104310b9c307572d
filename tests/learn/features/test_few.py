"""Probes for few labels: what the model knows itself is worth much with one label a class, and nothing with many."""

from __future__ import annotations

import pytest
import torch

from lensmith.config.options import AugmentOptions
from lensmith.learn.features.few import USUAL, Looked, choose_setting, fit_probe, looks_of, scores
from lensmith.learn.features.table import FeatureTable
from lensmith.models.views import AS_IT_IS, Look

pytestmark = pytest.mark.long

LABELS = ("a", "b", "c")


def table(per_class: int, noise: float, seed: int) -> tuple[FeatureTable, torch.Tensor]:
    """Clusters on 8 dimensions, and answers of a model that is right in three of four cases."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(per_class)
    x = torch.eye(8)[y] * 2 + noise * torch.randn(len(y), 8, generator=generator)
    right = torch.rand(len(y), generator=generator) < 0.75
    said = torch.where(right, y, (y + 1) % 3)
    prior = (2.0 * torch.nn.functional.one_hot(said, 3)).log_softmax(1)
    names = [f"{seed} {i}" for i in range(len(y))]
    return FeatureTable(x.half(), {"f": slice(0, 8)}, y, list(range(len(y))), {}, names), prior


def accuracy(logs: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logs.argmax(1) == labels).float().mean())


def test_looks_are_those_that_the_recipe_allows() -> None:
    assert looks_of(AugmentOptions()) == (AS_IT_IS,)
    assert looks_of(AugmentOptions(flip=True)) == (AS_IT_IS, Look(mirrored=True))
    looks = looks_of(AugmentOptions(shift=0.1))
    assert looks == (AS_IT_IS, Look(right=0.1), Look(right=-0.1), Look(down=0.1), Look(down=-0.1))


def test_one_label_a_class_leaves_nothing_to_choose_by() -> None:
    few, prior = table(1, 1.0, 0)
    assert choose_setting(Looked([few], prior), "f", LABELS, 0) == USUAL


def test_the_usual_setting_is_left_only_for_a_clearly_better_one() -> None:
    few, prior = table(8, 1.5, 4)
    assert choose_setting(Looked([few], prior), "f", LABELS, 0) == USUAL
    wrong = prior.roll(1, 1)  # each answer another class
    assert choose_setting(Looked([few], 2 * wrong), "f", LABELS, 0).strength < USUAL.strength


def test_the_models_own_answers_help_with_few_labels() -> None:
    test, test_prior = table(300, 2.5, 99)
    gains = []
    for seed in range(8):
        few, prior = table(1, 2.5, seed)
        with_prior = fit_probe(Looked([few], prior), "f", LABELS, 0.1, 1.0)
        alone = fit_probe(Looked([few], None), "f", LABELS, 0.1, 0.0)
        helped = accuracy(scores(with_prior, [test]) + test_prior, test.labels)
        gains.append(helped - accuracy(scores(alone, [test]), test.labels))
    assert sum(gains) / len(gains) > 0.1


def test_no_strength_is_chosen_where_features_say_all() -> None:
    many, prior = table(30, 0.1, 1)
    wrong = prior.flip(0)  # answers that have nothing to do with the images
    assert choose_setting(Looked([many], wrong), "f", LABELS, 0).strength == 0


def test_equal_looks_change_nothing() -> None:
    few, _ = table(5, 1.0, 2)
    once = fit_probe(Looked([few], None), "f", LABELS, 0.1, 0.0)
    three = fit_probe(Looked([few, few, few], None), "f", LABELS, 0.1, 0.0)
    assert torch.allclose(once.weight, three.weight, atol=1e-3)
    assert torch.allclose(scores(once, [few]), scores(three, [few, few]), atol=1e-3)
