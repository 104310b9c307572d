"""Probes equal scikit-learn's, and no head is fitted twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lensmith.learn.features import probes
from lensmith.models.heads import Head
from tests.learn.features.test_selection import LABELS, probabilities, table


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


def test_what_is_fitted_once_is_remembered_for_images_of_the_same_content() -> None:
    fitted: list[float] = []

    def fit(
        x: Tensor, y: Tensor, labels: Sequence[str], feature: str, class_weights: Tensor
    ) -> Iterator[tuple[float, Head]]:
        for setting, head in probes.probes(x, y, labels, feature, class_weights):
            fitted.append(setting)
            yield setting, head

    path, data, ones = probes.remembering(replace(probes.probes, fit=fit)), table(30), torch.ones(3)
    x, y = data.feature("good"), data.labels
    first = [head for _, head in zip(range(2), path(x, y, LABELS, "good", ones), strict=False)]
    assert fitted == [1e-4, 1e-3]
    every = list(path(x.clone(), y, LABELS, "good", ones))  # goes on where the first left off
    assert [setting for setting, _ in every] == list(probes.C_VALUES) == fitted
    assert every[:2] == first
    assert list(path(x, y, LABELS, "good", ones)) == every
    assert fitted == list(probes.C_VALUES)
    for other in ((x + 1, y, LABELS, "good", ones), (x, y.flip(0), LABELS, "good", ones)):
        assert next(path(*other)) != every[0]
    assert next(path(x, y, LABELS, "good", torch.tensor([1.0, 2.0, 1.0]))) != every[0]
