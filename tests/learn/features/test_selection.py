"""A feature and a setting are chosen on held-out images, luck isn't, and each image is in exactly one fold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensmith.errors import UserError
from lensmith.learn.features import probes, selection
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


@pytest.mark.parametrize("path", [probes.probes, probes.neighbours])
def test_feature_and_setting_are_chosen_on_validation(path: probes.HeadPath) -> None:
    train, held_out = table(150, 0), table(60, 1)
    fitted = selection.fit(path, train, held_out, LABELS)
    assert fitted.head.feature == "good"
    assert fitted.evaluated == 60
    assert fitted.folds == 0
    best = min(fitted.candidates, key=lambda row: row.log_loss)
    assert (best.feature, best.setting) == ("good", fitted.setting)
    accuracy = (probabilities(fitted.head, held_out, "good").argmax(1) == held_out.labels).float().mean().item()
    assert accuracy == pytest.approx(best.accuracy)  # the head that was evaluated is the head that is returned
    assert accuracy > 0.9


def test_what_happens_to_a_chosen_head_leaves_the_next_choice_alone() -> None:
    path, train, held_out = probes.remembering(probes.probes), table(60), table(30, 1)
    first = selection.fit(path, train, held_out, LABELS)
    kept = {name: value.clone() for name, value in first.head.state_dict().items()}
    for value in first.head.state_dict().values():
        value.zero_()
    second = selection.fit(path, train, held_out, LABELS)
    assert all(torch.equal(value, kept[name]) for name, value in second.head.state_dict().items())


def candidate(feature: str, losses: torch.Tensor, setting: float = 1.0) -> selection.Candidate:
    return selection.Candidate(feature, setting, float(losses.mean()), 0.5, losses)


def test_the_first_feature_is_left_only_for_one_that_is_better_by_a_standard_error() -> None:
    losses = torch.rand(100, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(100, generator=torch.Generator().manual_seed(1))
    noise = (noise - noise.mean()) / noise.std(correction=0)  # a standard error of 0.1 on 100 images
    lucky, better = losses - 0.09 + noise, losses - 0.11 + noise
    assert selection.rank([candidate("a", losses), candidate("b", lucky)], ["a", "b"]) == ["a", "b"]
    assert selection.rank([candidate("a", losses), candidate("b", better)], ["a", "b"]) == ["b", "a"]
    # What counts is the best setting of each feature, and the order of those that can't be told apart is kept.
    both = [candidate("a", losses + 1, 0.1), candidate("a", losses), candidate("c", losses), candidate("b", lucky)]
    assert selection.rank(both, ["a", "b", "c"]) == ["a", "b", "c"]
    assert selection.rank(both, ["c", "b", "a"]) == ["c", "b", "a"]


def test_a_lucky_feature_is_not_chosen() -> None:
    """Of many features that say nothing, the best on few images isn't taken instead of the first, which says a bit."""
    kept = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(30) % 3
        values = torch.randn(30, 4 * 12, generator=generator)
        values[:, :3] += 1.2 * torch.eye(3)[labels]
        columns = {str(k): slice(4 * k, 4 * k + 4) for k in range(12)}
        data = FeatureTable(values.half(), columns, labels, list(range(30)), {}, [str(k) for k in range(30)])
        fitted = selection.fit(probes.probes, data, data.subset([]), LABELS, seed=seed)
        kept += fitted.head.feature == "0"
        if selection.best(fitted.candidates).feature != "0" == fitted.head.feature:
            assert "no other feature is better by a standard error" in fitted.sentence()
    assert kept == 10


def test_few_validation_images_lead_to_cross_validation() -> None:
    fitted = selection.fit(probes.probes, table(60), table(6, 1), LABELS)
    assert (fitted.folds, fitted.evaluated, fitted.head.feature) == (5, 60, "good")
    assert "on 60 training images (5-fold cross-validation)" in fitted.sentence()


def test_with_one_image_per_class_nothing_is_chosen() -> None:
    fitted = selection.fit(probes.neighbours, table(3), table(0), LABELS, ["good"])
    assert (fitted.candidates, fitted.evaluated) == ([], 0)
    assert probabilities(fitted.head, table(3), "good").argmax(1).tolist() == [0, 1, 2]
    assert "too few images to choose by" in fitted.sentence()


def test_with_many_images_the_feature_is_chosen_on_a_subset_and_the_probe_fitted_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "FEATURE_CHOICE_IMAGES", 60)
    train, held_out = table(300, noise=2.5), table(90, 1, noise=2.5)
    fitted = selection.fit(probes.probes, train, held_out, LABELS)
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
    unweighted = selection.fit(probes.probes, rare, held_out, LABELS, ["good"])
    balanced = selection.fit(probes.probes, rare, held_out, LABELS, ["good"], balanced=True)
    fits = (unweighted, balanced)
    predicted_rare = [(probabilities(fitted.head, held_out, "good").argmax(1) == 2).sum().item() for fitted in fits]
    assert predicted_rare[0] < predicted_rare[1]


def test_a_class_without_images_is_improbable_and_not_an_error() -> None:
    train = table(60, classes=2)
    for path in (probes.probes, probes.neighbours):
        fitted = selection.fit(path, train, table(30, 1, classes=2), LABELS, ["good"])
        assert (probabilities(fitted.head, train, "good")[:, 2] < 0.34).all()


def test_bad_input_is_reported_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no feature 'god'.*There are: bad, good"):
        selection.fit(probes.probes, table(30), table(30, 1), LABELS, ["god"])
    one_class = table(30, classes=1)
    with pytest.raises(UserError, match="at least two classes"):
        selection.fit(probes.probes, one_class, one_class, LABELS)


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
    fitted = selection.fit(probes.neighbours, data, data.subset([]), LABELS)
    assert (
        max(row.accuracy for row in fitted.candidates) < 0.6
    )  # a copy in another fold would have given the label away


def test_many_images_with_a_class_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "FEATURE_CHOICE_IMAGES", 20)
    data = table(60)
    with_single = data.subset([k for k in range(60) if data.labels[k] < 2 or k == 2])
    fitted = selection.fit(probes.probes, with_single, data.subset([]), LABELS)
    assert (fitted.folds, fitted.candidates) == (1, [])
