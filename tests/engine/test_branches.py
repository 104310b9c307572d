"""Branches compute the same as the plain forward pass: loss and gradients. A fork doesn't change its branch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lensmith import models
from lensmith.config import ModelOptions, QuestionOptions, TuneOptions, load_recipe
from lensmith.engine.branches import fork, fork_all, grow
from lensmith.engine.question import make_prompt
from lensmith.engine.step import Step
from lensmith.models.attention import _SharedAttention
from lensmith.models.base import Model
from lensmith.models.tuning import attach, trainable
from tests.engine.plain import log_probability

LABELS = ["can", "can opener", "t-shirt", "ankle boot"]
TRUE = ["can opener", "can", "ankle boot", "t-shirt", "can"]


def plain_loss(model: Model, pixels: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> Tensor:
    prompt = make_prompt(model, QuestionOptions(), LABELS)
    logs = [log_probability(model, prompt, image, answer) for image, answer in zip(pixels, answers, strict=True)]
    return -torch.stack(logs).mean()


def step_loss(model: Model, images: Sequence[Tensor], labels: Sequence[str], *options: str) -> float:
    """Mean loss of one training step. Leaves the mean gradients on the weights."""
    recipe = load_recipe(None, list(options))
    step = Step(model, make_prompt(model, QuestionOptions(), LABELS), recipe, model.embed_images, print)
    targets = [[(LABELS.index(label), 1.0)] for label in labels]
    losses = step.gradients(
        [(image,) for image in images], targets, torch.full((len(labels), len(LABELS)), 0.5), seed=0
    )
    for weight in trainable(model).values():
        weight.grad = weight.grad / len(labels) if weight.grad is not None else None
    return losses.mean().item()


@pytest.fixture
def tuned(tiny: Model) -> Model:
    """A model with LoRA on all components, its second matrices not zero."""
    attach(tiny, TuneOptions(rank=3, projector=True, vision_tower=True), LABELS)
    torch.manual_seed(1)
    for name, weight in trainable(tiny).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return tiny


@pytest.mark.parametrize("options", [[], ["train.micro_batch=2"], ["train.micro_batch=1"]], ids=str)
def test_loss_and_gradients_equal_the_plain_forward_pass(tuned: Model, options: list[str]) -> None:
    torch.manual_seed(2)
    pixels = torch.randint(0, 256, (len(TRUE), 3, 64, 64), dtype=torch.uint8)
    prompt = make_prompt(tuned, QuestionOptions(), LABELS)
    answers = [prompt.answers[LABELS.index(label)][0] for label in TRUE]
    assert len({len(a) for a in answers}) > 1, "answers of one length would not test the padding"

    expected = plain_loss(tuned, list(pixels), answers)
    expected.backward()
    plain = {name: weight.grad.clone() for name, weight in trainable(tuned).items() if weight.grad is not None}
    tuned.network.zero_grad()
    loss = step_loss(tuned, list(pixels), TRUE, *options)

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert plain.keys() == trainable(tuned).keys(), "some layer doesn't affect the loss"
    assert any("conv.in_proj" in name for name in plain)
    assert any("q_proj" in name for name in plain)
    # Compared by component: single matrices of this random model differ by up to 1.3e-5 in float32, but by less than
    # 1e-7 in float64, so the difference is rounding. On a Xeon with AMX, the projector as a whole does by as much.
    for prefix in ("model.language_model", "model.multi_modal_projector", "model.vision_tower"):
        names = [name for name in plain if name.startswith(prefix)]
        reference = torch.cat([plain[name].flatten() for name in names])
        gradient = torch.cat([grad.flatten() for name in names if (grad := trainable(tuned)[name].grad) is not None])
        assert (gradient - reference).norm() <= 2e-5 * reference.norm(), prefix


def test_images_of_different_sizes_share_a_batch(tuned: Model) -> None:
    torch.manual_seed(3)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((64, 64), (64, 96), (32, 128))]
    prompt = make_prompt(tuned, QuestionOptions(), LABELS)
    answers = [prompt.answers[LABELS.index(label)][0] for label in TRUE[:3]]
    together = step_loss(tuned, images, TRUE[:3])
    alone = sum(plain_loss(tuned, [image], [a]).item() for image, a in zip(images, answers, strict=True)) / 3
    assert together == pytest.approx(alone, rel=1e-6)


@torch.no_grad()
def test_a_fork_does_not_change_its_branch(tiny: Model) -> None:
    ids = torch.randint(10, 500, (1, 7))
    first, second = torch.randint(10, 500, (3, 4)), torch.randint(10, 500, (3, 1))
    _, prefix = grow(tiny.decoder, tiny.embed(ids))
    once, _ = grow(tiny.decoder, tiny.embed(first), fork_all(prefix, 3))
    grow(tiny.decoder, tiny.embed(second), fork_all(prefix, 3))
    again, _ = grow(tiny.decoder, tiny.embed(first), fork_all(prefix, 3))
    assert torch.equal(once, again)
    assert prefix.cache.get_seq_length() == prefix.length == 7


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_forked_rows_continue_as_if_run_in_one_segment(tiny: Model, tokens: int) -> None:
    ids, more = torch.randint(10, 500, (2, 6)), torch.randint(10, 500, (3, tokens))
    index = torch.tensor([1, 0, 1])
    _, branch = grow(tiny.decoder, tiny.embed(ids))
    forked, _ = grow(tiny.decoder, tiny.embed(more), fork(branch, index))
    plain, _ = grow(tiny.decoder, tiny.embed(torch.cat([ids[index], more], 1)))
    torch.testing.assert_close(forked, plain[:, 6:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_shared_past_is_stored_once_and_can_be_extended(tiny: Model) -> None:
    first, second, third = (torch.randint(10, 500, (rows, n)) for rows, n in ((1, 6), (1, 3), (4, 2)))
    _, branch = grow(tiny.decoder, tiny.embed(first))
    _, extended = grow(tiny.decoder, tiny.embed(second), fork_all(branch, 1))
    rows = fork_all(extended, 4)
    assert {keys.shape[::2] for keys, _ in rows.shared.values()} == {(1, 9)}
    forked, _ = grow(tiny.decoder, tiny.embed(third), rows)
    ids = torch.cat([first.expand(4, -1), second.expand(4, -1), third], 1)
    plain, _ = grow(tiny.decoder, tiny.embed(ids))
    torch.testing.assert_close(forked, plain[:, 9:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_decoder_with_another_attention_is_refused(tiny: Model) -> None:
    tiny.decoder.set_attn_implementation("eager")  # type: ignore[operator]
    with pytest.raises(ValueError, match="attention is 'eager'"):
        grow(tiny.decoder, tiny.embed(torch.zeros(1, 3, dtype=torch.long)))


@torch.no_grad()
def test_a_branch_with_another_number_of_rows_is_refused(tiny: Model) -> None:
    _, branch = grow(tiny.decoder, tiny.embed(torch.zeros(2, 3, dtype=torch.long)))
    with pytest.raises(ValueError, match="Fork the branch"):
        grow(tiny.decoder, tiny.embed(torch.zeros(3, 1, dtype=torch.long)), branch)
    with pytest.raises(ValueError, match="one row"):
        fork_all(branch, 4)


@pytest.mark.parametrize("blocks", [1, 5])
def test_gradients_flow_through_attention_to_the_shared_past_whatever_the_number_of_blocks(
    blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (11, 7, 7))
    monkeypatch.setattr("lensmith.models.attention._block", lambda *_: -(-11 // blocks))
    out, total = _SharedAttention.apply(query, key, value, 0.3)  # type: ignore[no-untyped-call]
    scores = query @ key.transpose(-1, -2) * 0.3
    plain, plain_total = scores.softmax(-1) @ value, scores.logsumexp(-1)
    torch.testing.assert_close((out, total), (plain, plain_total))
    weights = torch.randn_like(out), torch.randn_like(total)
    gradients = torch.autograd.grad((out * weights[0]).sum() + (total * weights[1]).sum(), (query, key, value))
    expected = torch.autograd.grad((plain * weights[0]).sum() + (plain_total * weights[1]).sum(), (query, key, value))
    torch.testing.assert_close(gradients, expected)


def test_a_step_in_bfloat16_is_the_same_without_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images = list(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    losses = []
    for fused in ({"cpu"}, set[str]()):
        monkeypatch.setattr("lensmith.models.attention.FUSED", fused)
        model = models.load_base(
            ModelOptions(dtype="bfloat16", device="cpu")
        )  # nano: norms in float32, products in bfloat16
        attach(model, TuneOptions(rank=2), LABELS)
        losses.append(step_loss(model, images, ["can", "t-shirt", "can", "ankle boot"]))
        assert all(w.grad is not None and w.grad.isfinite().all() for w in trainable(model).values())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
