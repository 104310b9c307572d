"""Losses and gradients of soft labels equal those computed by brute force from plain forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lensmith.config import QuestionOptions, TuneOptions, load_recipe
from lensmith.engine.classifier import Classifier
from lensmith.engine.objective import SoftLabels
from lensmith.engine.question import make_prompt, make_question
from lensmith.engine.step import Step
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.heads import Head
from lensmith.models.tuning import attach, trainable
from tests.engine.plain import log_probability

LABELS = ["can", "can opener", "t-shirt", "ankle boot"]
QUESTION = QuestionOptions(names={"can": ["can", "tin can"]})
SIZES = [(64, 64), (64, 96), (64, 64), (32, 128)]
MIXED: list[SoftLabels] = [[(0, 0.7), (2, 0.3)], [(1, 1.0)], [(3, 0.5), (1, 0.5)], [(2, 2.0)]]
ALONE: list[SoftLabels] = [[(0, 1.0)], [(1, 1.0)], [(3, 2.0)], [(2, 0.5)]]


@pytest.fixture
def images() -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]


@pytest.fixture
def tuned(tiny: Model) -> Model:
    attach(tiny, TuneOptions(rank=3, vision_tower=True), LABELS)
    torch.manual_seed(1)
    for name, weight in trainable(tiny).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return tiny


def step_losses(
    model: Model, images: Sequence[Tensor], targets: Sequence[SoftLabels], *options: str, head: Head | None = None
) -> Tensor:
    """The losses of one step. Leaves the gradients of their sum on the weights."""
    recipe = load_recipe(None, list(options))
    step = Step(model, make_prompt(model, QUESTION, LABELS), recipe, model.embed_images, print, head=head)
    return step.gradients([(image,) for image in images], targets, torch.rand(len(images), len(LABELS)), seed=0)


def brute_scores(model: Model, images: Sequence[Tensor]) -> Tensor:
    """(images, labels) log-probabilities; those of synonyms add up."""
    prompt = make_prompt(model, QUESTION, LABELS)

    def score(image: Tensor, forms: Sequence[Sequence[int]]) -> Tensor:
        return torch.stack([log_probability(model, prompt, image, form) for form in forms]).logsumexp(0)

    return torch.stack([torch.stack([score(image, forms) for forms in prompt.answers]) for image in images])


def brute_tokens(model: Model, images: Sequence[Tensor], targets: Sequence[SoftLabels], smooth: float = 0.0) -> Tensor:
    """(images,) the weighted cross-entropies of their labels' answers."""
    prompt = make_prompt(model, QUESTION, LABELS)

    def loss(image: Tensor, labels: SoftLabels) -> Tensor:
        answers = [
            (log_probability(model, prompt, image, prompt.answers[c][0], smooth), weight) for c, weight in labels
        ]
        return -torch.stack([log * weight for log, weight in answers]).sum()

    return torch.stack([loss(image, labels) for image, labels in zip(images, targets, strict=True)])


def as_matrix(targets: Sequence[SoftLabels]) -> Tensor:
    """(images, labels) weights."""
    matrix = torch.zeros(len(targets), len(LABELS))
    for row, labels in enumerate(targets):
        for label, weight in labels:
            matrix[row, label] += weight
    return matrix


def gradients(model: Model) -> Tensor:
    flat = torch.cat([w.grad.flatten() for w in trainable(model).values() if w.grad is not None])
    model.network.zero_grad()
    return flat


def assert_same(model: Model, losses: Tensor, expected: Tensor) -> None:
    """Compares losses, and the gradients of their sums."""
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-6)
    actual = gradients(model)
    expected.sum().backward()
    plain = gradients(model)
    assert (actual - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize("smooth", [0.0, 0.1])
@pytest.mark.parametrize("targets", [ALONE, MIXED], ids=["alone", "mixed"])
def test_by_tokens_the_loss_of_a_mixed_image_weights_its_answers(
    tuned: Model, images: list[Tensor], targets: list[SoftLabels], smooth: float
) -> None:
    losses = step_losses(tuned, images, targets, f"train.label_smoothing={smooth}")
    assert_same(tuned, losses, brute_tokens(tuned, images, targets, smooth))


@pytest.mark.parametrize("smooth", [0.0, 0.2])
@pytest.mark.parametrize("targets", [ALONE, MIXED], ids=["alone", "mixed"])
def test_by_labels_the_loss_is_that_of_the_probability_that_a_prediction_reports(
    tuned: Model, images: list[Tensor], targets: list[SoftLabels], smooth: float
) -> None:
    losses = step_losses(tuned, images, targets, "train.objective=labels", f"train.label_smoothing={smooth}")
    target = as_matrix(targets)
    target = (1 - smooth) * target + smooth * target.sum(1, keepdim=True) / len(LABELS)
    expected = -(target * brute_scores(tuned, images).log_softmax(1)).sum(1)
    assert_same(tuned, losses, expected)
    if not smooth:
        tuned.network.eval()
        same = torch.stack([images[0], images[2]])
        scores = Classifier(tuned, make_question(tuned, QUESTION, LABELS)).score((same,)).bound.log_softmax(1)
        from_scores = -(as_matrix(targets)[[0, 2]] * scores).sum(1)
        torch.testing.assert_close(losses[[0, 2]], from_scores, rtol=1e-5, atol=1e-5)


def test_negatives_are_some_of_the_wrong_labels_and_the_true_one_is_always_compared(
    tuned: Model, images: list[Tensor]
) -> None:
    scores = brute_scores(tuned, images).detach()
    for _ in range(5):
        losses = step_losses(tuned, images, ALONE, "train.objective=labels", "train.negatives=2")
        for row, ((label, weight),) in enumerate(ALONE):
            others = [c for c in range(len(LABELS)) if c != label]
            possible = []
            for left_out in others:
                inside = [c for c in range(len(LABELS)) if c != left_out]
                possible.append(-weight * (scores[row, label] - scores[row, inside].logsumexp(0)).item())
            assert any(losses[row].item() == pytest.approx(loss, rel=1e-4) for loss in possible)


def test_labels_with_a_probable_first_token_are_drawn_more_often(tuned: Model, images: list[Tensor]) -> None:
    from lensmith.engine.objective import Objective

    prompt = make_prompt(tuned, QUESTION, LABELS)
    recipe = load_recipe(None, ["train.objective=labels", "train.negatives=1"])
    objective = Objective(tuned, prompt, recipe.train)
    torch.manual_seed(0)
    last = torch.randn(1, 32)
    begin = [forms[0][0] for forms in prompt.answers]
    probability = tuned.logits(last).log_softmax(1)[0, begin].exp()[[1, 2, 3]]
    draws = [objective._compared(last, [[(0, 1.0)]], torch.rand(1, 4))[0] for _ in range(2000)]
    counts = torch.tensor([sum(c in drawn for drawn in draws) for c in (1, 2, 3)]) / 2000
    torch.testing.assert_close(counts, (probability / probability.sum()).detach(), atol=0.05, rtol=0)


def test_a_head_starts_undecided_learns_and_answers_for_its_own_classes_only(tiny: Model, images: list[Tensor]) -> None:
    head = attach(tiny, TuneOptions(method="head"), LABELS).head
    assert set(trainable(tiny, head)) == {"head.weight", "head.bias"}
    losses = step_losses(tiny, images, ALONE, head=head)
    weights = torch.tensor([weight for ((_, weight),) in ALONE])
    torch.testing.assert_close(losses, weights * torch.tensor(4.0).log())
    optimizer = torch.optim.Adam(trainable(tiny, head).values(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        losses = step_losses(tiny, images, ALONE, head=head)
        optimizer.step()
    predicted = (
        Classifier(tiny, make_question(tiny, QUESTION, LABELS), head)
        .score((torch.stack([images[0], images[2]]),))
        .bound.argmax(1)
    )
    assert predicted.tolist() == [0, 3]
    with pytest.raises(UserError, match="class head"):
        Classifier(tiny, make_question(tiny, QUESTION, ["can", "bottle"]), head)
