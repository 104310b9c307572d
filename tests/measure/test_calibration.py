"""Calibration: temperatures against known ones, priors taken away, and the choice made on validation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmith.config import QuestionOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.measure.calibration import ENOUGH, LEAST, fit, log_loss, offsets_of, temperature
from lensmith.models.base import Model
from lensmith.records import Calibration

LABELS = ["circle", "square", "red square", "blue square"]


def drawn(scores: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """True labels drawn as the scores' shares say."""
    return torch.multinomial(scores.softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_that_the_labels_were_drawn_with(true: float) -> None:
    honest = 2 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    assert temperature(honest * true, drawn(honest)) == pytest.approx(true, rel=0.05)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_no_other_temperature_has_less_loss(seed: int, other: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(60, 4, generator=generator)
    truth = torch.randint(0, 4, (60,), generator=generator)
    best = temperature(scores, truth)
    assert log_loss(scores / best, truth) <= log_loss(scores / other, truth) + 1e-6


def test_the_batch_prior_is_taken_away() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(5000, 4, generator=generator)
    liking = torch.tensor([3.0, 0.0, -1.0, 0.0])
    # A prior is known up to a constant, as scores are.
    offsets = offsets_of("batch", None, honest + liking, 0)  # type: ignore[arg-type]
    before = ((honest + liking).argmax(1) == honest.argmax(1)).float().mean()
    after = ((honest + liking - offsets).argmax(1) == honest.argmax(1)).float().mean()
    assert before < 0.6
    assert after > 0.75


def test_priors_are_answers_to_pictures_of_nothing(tiny: Model) -> None:
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    for prior in ("empty", "noise"):
        offsets = offsets_of(prior, classifier, torch.empty(0), seed=3)
        assert offsets.exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert torch.equal(offsets, offsets_of(prior, classifier, torch.empty(0), seed=3))
    assert not torch.equal(offsets, offsets_of("noise", classifier, torch.empty(0), seed=4))


def test_auto_takes_what_has_the_least_loss_on_validation(tiny: Model) -> None:
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    honest = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    truth = drawn(honest * 4)
    chosen, tried = fit(classifier, honest + torch.tensor([4.0, 0, 0, 0]), truth, "auto")
    assert chosen.prior == "batch"
    assert [row["prior"] for row in tried] == ["none", "none", "empty", "noise", "batch"]
    assert tried[0]["temperature"] == 1.0
    (best,) = [row for row in tried if row["chosen"]]
    assert best["log_loss"] == min(row["log_loss"] for row in tried)
    assert best["accuracy"] > tried[0]["accuracy"] + 0.2
    plain, rows = fit(classifier, honest * 8, truth, "temperature")
    assert (plain.prior, plain.offsets) == ("none", ())
    assert rows[1]["accuracy"] == rows[0]["accuracy"], "a temperature changes no answer"
    assert rows[1]["calibration_error"] < rows[0]["calibration_error"]


def test_a_calibration_is_applied_as_it_is_written() -> None:
    scores = torch.tensor([[1.0, 2.0]])
    found = Calibration("empty", (0.5, 1.0), 2.0).apply(scores)
    assert found.tolist() == [[0.25, 0.5]]
    assert Calibration().apply(scores).tolist() == scores.tolist()
    assert LEAST < ENOUGH
