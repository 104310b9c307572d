"""Calibration: known temperatures are recovered, priors removed, and the choice is made on validation images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmith.config import QuestionOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.measure.calibration import ENOUGH, LEAST, fit, log_loss, prior_offsets, temperature
from lensmith.models.base import Model
from lensmith.records import Calibration

LABELS = ["circle", "square", "red square", "blue square"]


def drawn(scores: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """True labels drawn with the probabilities that the scores give."""
    return torch.multinomial(scores.softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_recovered(true: float) -> None:
    calibrated = 2 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    assert temperature(calibrated * true, drawn(calibrated)) == pytest.approx(true, rel=0.05)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_no_other_temperature_has_a_lower_loss(seed: int, other: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(60, 4, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    best = temperature(scores, labels)
    assert log_loss(scores / best, labels) <= log_loss(scores / other, labels) + 1e-6


def test_the_batch_prior_is_removed() -> None:
    generator = torch.Generator().manual_seed(0)
    calibrated = 2 * torch.randn(5000, 4, generator=generator)
    preference = torch.tensor([3.0, 0.0, -1.0, 0.0])
    # Like scores, a prior is only known up to a constant.
    offsets = prior_offsets("batch", None, calibrated + preference, 0)  # type: ignore[arg-type]
    before = ((calibrated + preference).argmax(1) == calibrated.argmax(1)).float().mean()
    after = ((calibrated + preference - offsets).argmax(1) == calibrated.argmax(1)).float().mean()
    assert before < 0.6
    assert after > 0.75


def test_priors_are_answers_about_images_that_show_nothing(tiny: Model) -> None:
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    for prior in ("empty", "noise"):
        offsets = prior_offsets(prior, classifier, torch.empty(0), seed=3)
        assert offsets.exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert torch.equal(offsets, prior_offsets(prior, classifier, torch.empty(0), seed=3))
    assert not torch.equal(offsets, prior_offsets("noise", classifier, torch.empty(0), seed=4))


def test_auto_chooses_the_lowest_loss_on_validation(tiny: Model) -> None:
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    calibrated = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    labels = drawn(calibrated * 4)
    chosen, tried = fit(classifier, calibrated + torch.tensor([4.0, 0, 0, 0]), labels, "auto")
    assert chosen.prior == "batch"
    assert [row["prior"] for row in tried] == ["none", "none", "empty", "noise", "batch"]
    assert tried[0]["temperature"] == 1.0
    (best,) = [row for row in tried if row["chosen"]]
    assert best["log_loss"] == min(row["log_loss"] for row in tried)
    assert best["accuracy"] > tried[0]["accuracy"] + 0.2
    plain, rows = fit(classifier, calibrated * 8, labels, "temperature")
    assert (plain.prior, plain.offsets) == ("none", ())
    assert rows[1]["accuracy"] == rows[0]["accuracy"], "a temperature changes no prediction"
    assert rows[1]["calibration_error"] < rows[0]["calibration_error"]


def test_a_calibration_subtracts_offsets_and_divides_by_the_temperature() -> None:
    scores = torch.tensor([[1.0, 2.0]])
    found = Calibration("empty", (0.5, 1.0), 2.0).apply(scores)
    assert found.tolist() == [[0.25, 0.5]]
    assert Calibration().apply(scores).tolist() == scores.tolist()
    assert LEAST < ENOUGH
