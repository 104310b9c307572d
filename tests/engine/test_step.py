"""A step is the same if it is split, retried or short of memory. Mixing weights labels like pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lensmith.config import AugmentOptions, QuestionOptions, TuneOptions, load_recipe
from lensmith.engine.objective import Objective, SoftLabels
from lensmith.engine.question import make_prompt
from lensmith.engine.step import Step
from lensmith.errors import UserError
from lensmith.learn.augment.randomness import BatchRandomness, vary
from lensmith.models.base import Model
from lensmith.models.tuning import attach, trainable

LABELS = ["can", "can opener", "t-shirt", "ankle boot"]
TARGETS: list[SoftLabels] = [[(i % 4, 1.0)] for i in range(5)]
NOISE = torch.full((5, 4), 0.5)


@pytest.fixture
def images() -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in TARGETS]


def step_for(model: Model, notes: list[str], *options: str) -> Step:
    recipe = load_recipe(None, list(options))
    return Step(model, make_prompt(model, QuestionOptions(), LABELS), recipe, model.embed_images, notes.append)


def run_step(model: Model, step: Step, images: list[Tensor], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Losses and gradients of one step."""
    for weight in trainable(model).values():
        weight.grad = None
    losses = step.gradients([(image,) for image in images], TARGETS, NOISE, seed)
    return losses, torch.cat([w.grad.flatten() for w in trainable(model).values() if w.grad is not None])


def assert_same(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.fixture
def tuned(tiny: Model) -> Model:
    attach(tiny, TuneOptions(rank=3, dropout=0.2, vision_tower=True), LABELS)
    torch.manual_seed(1)
    for name, weight in trainable(tiny).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tiny.network.train()
    return tiny


def test_all_randomness_is_a_function_of_the_seed(tuned: Model, images: list[Tensor]) -> None:
    step = step_for(tuned, [])
    (losses, grads), (other_losses, _), (again_losses, again_grads) = (
        run_step(tuned, step, images, seed) for seed in (0, 1, 0)
    )
    assert torch.equal(losses, again_losses)
    assert torch.equal(grads, again_grads)
    assert not torch.equal(losses, other_losses), "without dropout this test proves nothing"


def fail_above(monkeypatch: pytest.MonkeyPatch, limit: int, prefix_fits: bool = True) -> list[int]:
    """Memory runs out with more than `limit` images at once; if not `prefix_fits`, also while the question's graph is
    kept. Returns the sizes of the micro-batches, which is filled later."""
    sizes: list[int] = []
    plain = Objective.losses

    def losses(self: Objective, prefix: Any, images: Any, targets: Any, noise: Any) -> Tensor:
        sizes.append(len(images))
        if len(images) > limit or not (prefix_fits or holder[0].recompute):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return plain(self, prefix, images, targets, noise)

    holder: list[Step] = []
    monkeypatch.setattr(Objective, "losses", losses)
    monkeypatch.setattr(Step, "_run", remembering(Step._run, holder))
    return sizes


def remembering(run: Any, holder: list[Step]) -> Any:
    def wrapped(self: Step, *args: Any) -> Tensor:
        holder[:] = [self]
        result: Tensor = run(self, *args)
        return result

    return wrapped


def test_when_memory_runs_out_the_micro_batch_is_halved_and_the_step_is_the_same(
    tiny: Model, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(tiny, TuneOptions(rank=3), LABELS)
    notes: list[str] = []
    expected = run_step(tiny, step_for(tiny, notes), images)
    sizes = fail_above(monkeypatch, 2)
    step = step_for(tiny, notes)
    halved = run_step(tiny, step, images)
    assert_same(halved, expected)
    assert sizes == [5, 3, 2, 2, 1]
    assert len(notes) == 2
    assert "2 images go through the model at once" in notes[-1]
    run_step(tiny, step, images)
    assert sizes[5:] == [2, 2, 1], "a size that did not fit is not tried again"


def test_when_one_image_does_not_fit_the_question_runs_twice(
    tuned: Model, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    expected = run_step(tuned, step_for(tuned, notes, "train.micro_batch=1"), images)
    fail_above(monkeypatch, 1, prefix_fits=False)
    recomputed = run_step(tuned, step_for(tuned, notes), images)
    assert "runs twice" in notes[-1]
    # Dropout is the same in the question and in the images, although the question is recomputed.
    assert_same(recomputed, expected)


def test_too_little_memory_for_one_image_is_reported(
    tuned: Model, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(monkeypatch, 0)
    with pytest.raises(UserError, match="not enough memory to train on one image"):
        run_step(tuned, step_for(tuned, []), images)


def test_a_frozen_decoder_runs_the_question_only_once(tiny: Model, images: list[Tensor]) -> None:
    attach(tiny, TuneOptions(rank=3, language_model=False, projector=True), LABELS)
    tokens: list[int] = []
    tiny.decoder.register_forward_hook(lambda *call: tokens.append(call[-1].last_hidden_state.shape[1]))
    step = step_for(tiny, [])
    for _ in range(3):
        run_step(tiny, step, images)
    question = len(make_prompt(tiny, QuestionOptions(), LABELS).before)
    assert tokens.count(question) == 1
    assert len(tokens) == 4


def test_mixing_weights_labels_like_pixels() -> None:
    options = AugmentOptions(mix="cutmix")
    black, white = torch.zeros(3, 64, 64, dtype=torch.uint8), torch.full((3, 64, 64), 255, dtype=torch.uint8)
    small = torch.full((3, 32, 64), 255, dtype=torch.uint8)
    images, targets = [(black,), (small,), (white,)], [[(0, 1.0)], [(2, 1.0)], [(1, 3.0)]]
    mixed, mixed_targets = vary(images, targets, options, BatchRandomness.draw(3, 4, options, seed=1))
    weights = dict(mixed_targets[0])
    assert 0 < weights[0] < 1, "nothing was mixed"
    assert weights[0] == pytest.approx((mixed[0][0] == 0).float().mean().item(), abs=1e-6)
    assert weights[1] == pytest.approx(3 * (1 - weights[0]), abs=1e-5), "scaled by the weight of the other image"
    assert mixed_targets[1] == [(2, 1.0)], "no other image has its size"
    assert torch.equal(mixed[1][0], small)


@pytest.mark.parametrize("option", [{"flip": True}, {"mix": "cutmix"}], ids=str)
def test_all_views_of_an_image_are_augmented_alike(option: dict[str, Any]) -> None:
    options = AugmentOptions(**option)
    across = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(32).expand(3, 64, 64)
    images = [(view, view[:, ::2, ::2]) for view in (across, 255 - across, across, across, 255 - across, across)]
    targets: list[SoftLabels] = [[(i % 4, 1.0)] for i in range(6)]
    varied, _ = vary(images, targets, options, BatchRandomness.draw(6, 4, options, seed=1))
    changed = [not torch.equal(now[0].to(torch.uint8), then[0]) for now, then in zip(varied, images, strict=True)]
    assert any(changed), "nothing was changed"
    for large, small in varied:
        # The edges of a box are rounded to pixels in each view, so they may differ by one.
        assert (large[:, ::2, ::2].float() - small.float()).abs().gt(1).float().mean() < 0.1


def test_a_mixed_pair_of_one_class_has_one_label() -> None:
    options = AugmentOptions(mix="mixup")
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    _, targets = vary(
        [(image,), (image,)], [[(2, 1.0)], [(2, 1.0)]], options, BatchRandomness.draw(2, 4, options, seed=1)
    )
    assert [len(labels) for labels in targets] == [1, 1]
    assert dict(targets[0])[2] == pytest.approx(1.0)


def test_large_images_run_in_smaller_micro_batches(
    tiny: Model, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(tiny, TuneOptions(rank=3), LABELS)
    notes: list[str] = []
    expected = run_step(tiny, step_for(tiny, notes), images)
    assert not notes, "small images fit"
    step = step_for(tiny, notes)
    past = step._prefix_ids.shape[1]
    available = tiny.training_memory(past) + 2.5 * tiny.training_memory(4 + step._text_tokens)
    monkeypatch.setattr(type(tiny), "total_memory", lambda _: int(available / 0.6))
    assert_same(run_step(tiny, step, images), expected)
    assert step.micro_batch == 2
    assert len(notes) == 1
    assert "2 go through the model at once" in notes[0]
    chosen = step_for(tiny, notes, "train.micro_batch=5")
    run_step(tiny, chosen, images)
    assert chosen.micro_batch == 5, "a micro-batch from the recipe is not changed"


@pytest.mark.parametrize("objective", ["tokens", "labels"])
def test_the_memory_of_a_step_is_estimated(tiny: Model, images: list[Tensor], objective: str) -> None:
    attach(tiny, TuneOptions(rank=3), LABELS)
    step, kept = step_for(tiny, [], f"train.objective={objective}"), 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes if tensor.grad_fn is not None else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_step(tiny, step, images)
    past = step._prefix_ids.shape[1]
    expected = tiny.training_memory(past) + len(images) * tiny.training_memory(4 + step._text_tokens)
    assert 0.5 * kept < expected < 4 * kept
