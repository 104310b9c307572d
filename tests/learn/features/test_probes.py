"""Probes equal scikit-learn's, are chosen on held-out images, and each image is in exactly one fold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lensmith.errors import UserError
from lensmith.learn.features import probes
from lensmith.learn.features.folds import split_folds
from lensmith.learn.features.table import FeatureTable

LABELS = ["a", "b", "c"]


def table(n: int, seed: int = 0, noise: float = 1.0, classes: int = 3) -> FeatureTable:
    """Two features on very different scales: `good`, which separates the classes, and `bad`, which is noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    good = torch.eye(5)[labels] * 3 + noise * torch.randn(n, 5, generator=generator)
    bad = torch.randn(n, 4, generator=generator)
    columns = {"bad": slice(0, 4), "good": slice(4, 9)}
    scale = torch.tensor([1.0, 50.0, 0.01, 1.0, 1.0])
    return FeatureTable(
        torch.cat([bad, good * scale + 20], 1).half(), columns, labels, list(range(n)), {}, [str(k) for k in range(n)]
    )


def probabilities(head: torch.nn.Module, data: FeatureTable, feature: str) -> Tensor:
    result: Tensor = head(data.feature(feature)).softmax(1)
    return result


@pytest.mark.parametrize("class_weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 1.0)])
def test_a_probe_is_scikit_learns_logistic_regression(class_weights: tuple[float, ...]) -> None:
    data = table(90)
    x, y = data.feature("good"), data.labels
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    for c, head in probes.probes(x, y, LABELS, "good", torch.tensor(class_weights)):
        if c > 1:
            break
        weights = dict(enumerate(class_weights))
        theirs = LogisticRegression(C=c, max_iter=2000, tol=1e-8, class_weight=weights).fit(scaled, y)
        torch.testing.assert_close(
            probabilities(head, data, "good"), torch.tensor(theirs.predict_proba(scaled)).float(), atol=3e-3, rtol=0
        )


@pytest.mark.parametrize("path", [probes.probes, probes.neighbours])
def test_feature_and_setting_are_chosen_on_validation(path: probes.HeadPath) -> None:
    train, held_out = table(150, 0), table(60, 1)
    fitted = probes.fit(path, train, held_out, LABELS)
    assert fitted.head.feature == "good"
    assert fitted.evaluated == 60
    assert fitted.folds == 0
    best = min(fitted.candidates, key=lambda row: row.log_loss)
    assert (best.feature, best.setting) == ("good", fitted.setting)
    accuracy = (probabilities(fitted.head, held_out, "good").argmax(1) == held_out.labels).float().mean().item()
    assert accuracy == pytest.approx(best.accuracy)  # the head that was evaluated is the head that is returned
    assert accuracy > 0.9


def test_few_validation_images_lead_to_cross_validation() -> None:
    fitted = probes.fit(probes.probes, table(60), table(6, 1), LABELS)
    assert (fitted.folds, fitted.evaluated, fitted.head.feature) == (5, 60, "good")
    assert "on 60 training images (5-fold cross-validation)" in fitted.sentence()


def test_with_one_image_per_class_nothing_is_chosen() -> None:
    fitted = probes.fit(probes.neighbours, table(3), table(0), LABELS, ["good"])
    assert (fitted.candidates, fitted.evaluated) == ([], 0)
    assert probabilities(fitted.head, table(3), "good").argmax(1).tolist() == [0, 1, 2]
    assert "too few images to choose by" in fitted.sentence()


def test_with_many_images_the_feature_is_chosen_on_a_subset_and_the_probe_fitted_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "FEATURE_CHOICE_IMAGES", 60)
    train, held_out = table(300, noise=2.5), table(90, 1, noise=2.5)
    fitted = probes.fit(probes.probes, train, held_out, LABELS)
    assert {row.feature for row in fitted.candidates} == {"good", "bad"}
    heads = probes.probes(train.feature("good"), train.labels, LABELS, "good", torch.ones(3))
    fitted_on_all = next(head for setting, head in heads if setting == fitted.setting)
    torch.testing.assert_close(
        probabilities(fitted.head, held_out, "good"), probabilities(fitted_on_all, held_out, "good")
    )


def test_balanced_classes_have_equal_weight() -> None:
    data = table(300, noise=3)
    rare = data.subset([k for k in range(300) if data.labels[k] < 2 or k % 30 == 2])
    held_out = table(90, 1, noise=3)
    unweighted = probes.fit(probes.probes, rare, held_out, LABELS, ["good"])
    balanced = probes.fit(probes.probes, rare, held_out, LABELS, ["good"], balanced=True)
    fits = (unweighted, balanced)
    predicted_rare = [(probabilities(fitted.head, held_out, "good").argmax(1) == 2).sum().item() for fitted in fits]
    assert predicted_rare[0] < predicted_rare[1]


def test_a_class_without_images_is_improbable_and_not_an_error() -> None:
    train = table(60, classes=2)
    for path in (probes.probes, probes.neighbours):
        fitted = probes.fit(path, train, table(30, 1, classes=2), LABELS, ["good"])
        assert (probabilities(fitted.head, train, "good")[:, 2] < 0.34).all()


def test_bad_input_is_reported_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no feature 'god'.*There are: bad, good"):
        probes.fit(probes.probes, table(30), table(30, 1), LABELS, ["god"])
    one_class = table(30, classes=1)
    with pytest.raises(UserError, match="at least two classes"):
        probes.fit(probes.probes, one_class, one_class, LABELS)


@given(counts=st.lists(st.integers(0, 20), min_size=2, max_size=5), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_split_each_class_evenly_and_hold_out_every_image_once(counts: list[int], folds: int, seed: int) -> None:
    labels = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
    rows = list(range(len(labels)))
    data = FeatureTable(
        torch.zeros(len(labels), 1).half(), {"x": slice(0, 1)}, labels, rows, {}, [str(k) for k in rows]
    )
    splits = split_folds(data, folds, seed)
    assert sorted(row for _, held_out in splits for row in held_out.rows) == data.rows
    for train, held_out in splits:
        assert sorted(train.rows + held_out.rows) == data.rows
        counts_held_out = held_out.labels.bincount(minlength=len(counts)).tolist()
        assert all(n // folds <= k <= -(-n // folds) for k, n in zip(counts_held_out, counts, strict=True))


def test_copies_of_an_image_are_in_one_fold() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (60,), generator=generator).repeat(2)  # labels that are independent of the features
    values = torch.randn(60, 4, generator=generator).repeat(2, 1).half()
    names = [f"image {k % 60}" for k in range(120)]
    data = FeatureTable(values, {"x": slice(0, 4)}, labels, list(range(120)), {}, names)
    for train, held_out in split_folds(data, 5, 0):
        assert not set(train.names) & set(held_out.names)
    fitted = probes.fit(probes.neighbours, data, data.subset([]), LABELS)
    assert (
        max(row.accuracy for row in fitted.candidates) < 0.6
    )  # a copy in another fold would have given the label away


def test_many_images_with_a_class_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "FEATURE_CHOICE_IMAGES", 20)
    data = table(60)
    with_single = data.subset([k for k in range(60) if data.labels[k] < 2 or k == 2])
    fitted = probes.fit(probes.probes, with_single, data.subset([]), LABELS)
    assert (fitted.folds, fitted.candidates) == (1, [])
