"""Probes are scikit-learn's, chosen by images they have not seen, and folds judge every image once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lensmith.errors import UserError
from lensmith.learn import probes
from lensmith.learn.feature_table import Table

LABELS = ["a", "b", "c"]


def table(n: int, seed: int = 0, noise: float = 1.0, classes: int = 3) -> Table:
    """Two kinds of vectors: `good`, which tells the classes, and `bad`, which tells nothing; on scales far apart."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(n) % classes
    good = torch.eye(5)[truth] * 3 + noise * torch.randn(n, 5, generator=generator)
    bad = torch.randn(n, 4, generator=generator)
    places = {"bad": slice(0, 4), "good": slice(4, 9)}
    scale = torch.tensor([1.0, 50.0, 0.01, 1.0, 1.0])
    return Table(
        torch.cat([bad, good * scale + 20], 1).half(), places, truth, list(range(n)), {}, [str(k) for k in range(n)]
    )


def shares(head: torch.nn.Module, data: Table, kind: str) -> Tensor:
    found: Tensor = head(data.of(kind)).softmax(1)
    return found


@pytest.mark.parametrize("worth", [(1.0, 1.0, 1.0), (0.5, 2.0, 1.0)])
def test_a_probe_is_scikit_learns_logistic_regression(worth: tuple[float, ...]) -> None:
    data = table(90)
    x, y = data.of("good"), data.truth
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    for strength, head in probes.probes(x, y, LABELS, "good", torch.tensor(worth)):
        if strength > 1:
            break
        weights = dict(enumerate(worth))
        theirs = LogisticRegression(C=strength, max_iter=2000, tol=1e-8, class_weight=weights).fit(scaled, y)
        torch.testing.assert_close(
            shares(head, data, "good"), torch.tensor(theirs.predict_proba(scaled)).float(), atol=3e-3, rtol=0
        )


@pytest.mark.parametrize("path", [probes.probes, probes.neighbours])
def test_the_vector_and_setting_are_chosen_on_validation(path: probes.Path) -> None:
    train, check = table(150, 0), table(60, 1)
    found = probes.fit(path, train, check, LABELS)
    assert found.head.feature == "good"
    assert found.judged == 60
    assert found.folds == 0
    best = min(found.tried, key=lambda row: row.log_loss)
    assert (best.feature, best.setting) == ("good", found.setting)
    right = (shares(found.head, check, "good").argmax(1) == check.truth).float().mean().item()
    assert right == pytest.approx(best.accuracy)  # the head that was judged is the head that is given
    assert right > 0.9


def test_with_few_validation_images_the_training_images_choose_in_folds() -> None:
    found = probes.fit(probes.probes, table(60), table(6, 1), LABELS)
    assert (found.folds, found.judged, found.head.feature) == (5, 60, "good")
    assert "in 5 folds" in found.sentence()


def test_with_one_image_a_class_nothing_is_chosen() -> None:
    found = probes.fit(probes.neighbours, table(3), table(0), LABELS, ["good"])
    assert (found.tried, found.judged) == ([], 0)
    assert shares(found.head, table(3), "good").argmax(1).tolist() == [0, 1, 2]
    assert "untried" in found.sentence()


def test_of_many_images_a_part_chooses_the_vector_and_all_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MANY", 60)
    train, check = table(300, noise=2.5), table(90, 1, noise=2.5)
    found = probes.fit(probes.probes, train, check, LABELS)
    assert {row.feature for row in found.tried} == {"good", "bad"}
    heads = probes.probes(train.of("good"), train.truth, LABELS, "good", torch.ones(3))
    whole = next(head for setting, head in heads if setting == found.setting)
    torch.testing.assert_close(shares(found.head, check, "good"), shares(whole, check, "good"))


def test_balanced_classes_count_the_same() -> None:
    data = table(300, noise=3)
    rare = data.some([k for k in range(300) if data.truth[k] < 2 or k % 30 == 2])
    check = table(90, 1, noise=3)
    plain = probes.fit(probes.probes, rare, check, LABELS, ["good"])
    fair = probes.fit(probes.probes, rare, check, LABELS, ["good"], balanced=True)
    said = [(shares(found.head, check, "good").argmax(1) == 2).sum().item() for found in (plain, fair)]
    assert said[0] < said[1]


def test_a_class_without_images_is_improbable_and_not_an_error() -> None:
    train = table(60, classes=2)
    for path in (probes.probes, probes.neighbours):
        found = probes.fit(path, train, table(30, 1, classes=2), LABELS, ["good"])
        assert (shares(found.head, train, "good")[:, 2] < 0.34).all()


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no feature 'god'.*There are: bad, good"):
        probes.fit(probes.probes, table(30), table(30, 1), LABELS, ["god"])
    one = table(30, classes=1)
    with pytest.raises(UserError, match="at least two classes"):
        probes.fit(probes.probes, one, one, LABELS)


@given(counts=st.lists(st.integers(0, 20), min_size=2, max_size=5), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_part_each_class_evenly_and_every_image_once(counts: list[int], folds: int, seed: int) -> None:
    truth = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
    rows = list(range(len(truth)))
    data = Table(torch.zeros(len(truth), 1).half(), {"x": slice(0, 1)}, truth, rows, {}, [str(k) for k in rows])
    pairs = probes.split_folds(data, folds, seed)
    assert sorted(row for _, check in pairs for row in check.rows) == data.rows
    for train, check in pairs:
        assert sorted(train.rows + check.rows) == data.rows
        held = check.truth.bincount(minlength=len(counts)).tolist()
        assert all(n // folds <= k <= -(-n // folds) for k, n in zip(held, counts, strict=True))


def test_copies_of_an_image_are_in_one_fold() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (60,), generator=generator).repeat(2)  # labels that nothing tells
    values = torch.randn(60, 4, generator=generator).repeat(2, 1).half()
    names = [f"image {k % 60}" for k in range(120)]
    data = Table(values, {"x": slice(0, 4)}, truth, list(range(120)), {}, names)
    for train, check in probes.split_folds(data, 5, 0):
        assert not set(train.names) & set(check.names)
    found = probes.fit(probes.neighbours, data, data.some([]), LABELS)
    assert max(row.accuracy for row in found.tried) < 0.6  # a copy in another fold would have told


def test_many_images_of_which_one_is_alone_in_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MANY", 20)
    data = table(60)
    alone = data.some([k for k in range(60) if data.truth[k] < 2 or k == 2])
    found = probes.fit(probes.probes, alone, data.some([]), LABELS)
    assert (found.folds, found.tried) == (1, [])
