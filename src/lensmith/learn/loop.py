"""The only training loop, in plain view: read a batch, compute its gradients, sum them over processes, update.

Written out rather than handed to a trainer, because the step is the point (`engine.step`): the shared question runs
once per batch with gradients, only answer positions reach the vocabulary projection, and the loss covers the answer
alone.

A training that was stopped or killed resumes from its last checkpoint and ends in the same weights: the order of each
epoch and all randomness are functions of (seed, step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.config import Recipe
from lensmith.data import Split
from lensmith.engine.classifier import Classifier, predict, require_readable
from lensmith.engine.objective import SoftLabels
from lensmith.engine.question import Question
from lensmith.engine.step import Step
from lensmith.errors import Diverged, Stopped
from lensmith.learn import checkpoint
from lensmith.learn.augment.batch import BatchRandomness, vary
from lensmith.learn.batches import batches, class_weights, open_images
from lensmith.learn.learner import Learner
from lensmith.learn.processes import Processes
from lensmith.learn.run_log import RunLog
from lensmith.measure import metrics
from lensmith.models.tuning import Tuned, restore, trainable, weight_groups
from lensmith.progress import Advance, Note
from lensmith.records import Rate, Training
from lensmith.runs.files import recover, write_json
from lensmith.runs.folder import Run
from lensmith.runs.interrupts import uninterrupted


def train(
    learner: Learner,
    run: Run,
    resume: bool = False,
    processes: Processes | None = None,
    checked: Callable[[int, int, Rate | None], Any] | None = None,
) -> Training:
    """Train what `prepare` has made ready, and keep the weights that do best on the validation images.

    Args:
        run: train and validation images are used; test images are never touched. Its folder gets metrics.jsonl,
            adapter/ and, while unfinished, checkpoint/; `tell` gets an `Advance` after every step, and notes.
        resume: from the folder's newest checkpoint, or start anew if there is none yet.
        processes: those that train together.
        checked: called after each validation with the steps done, the steps in all, and the accuracy. An exception of
            it ends the training, whose folder keeps its last checkpoint.

    Raises:
        UserError: no readable image, a class without any, too little memory, a full disk, or a checkpoint that is
            damaged or of another recipe.
        Diverged: a NaN or infinite loss or gradient.
        Stopped: Ctrl-C, after a checkpoint has been written.
    """
    tuned, question = learner.tuned, learner.question
    model, head, recipe, dataset, folder = tuned.model, tuned.head, run.recipe, run.dataset, run.folder
    processes, options, state = processes or Processes(), recipe.train, Training()
    if resume:
        recover(folder / "adapter")
    if resume and (folder / "training.json").exists():  # stopped after the last step, before the test
        checkpoint.remove(folder / "checkpoint")
        restore(model, folder / "adapter", head)
        return checkpoint.read_state(folder / "training.json", state)
    weight_of = class_weights(dataset.train, dataset.labels, options.class_weights)
    try:
        images, embed = open_images(tuned, dataset, recipe, processes, run.tell)
    except KeyboardInterrupt:
        raise Stopped(folder) from None
    step = Step(model, question.prompt, recipe, embed, lambda text: run.tell(Note(text)), images.tokens, head)
    weights = trainable(model, head)
    groups = weight_groups(model, recipe.tune, options, head)
    optimizer = torch.optim.AdamW(groups, fused=model.device.type in ("cpu", "cuda"))
    batch_size = min(options.batch_size, len(images))
    steps = max(1, math.ceil(options.epochs * len(images) / batch_size))
    validate_every = max(1, round(options.validate_every * len(images) / batch_size))
    index = {label: i for i, label in enumerate(dataset.labels)}
    ids, labels = dataset.train.ids, [index[label] for label in dataset.train.labels]
    if resume and (warning := checkpoint.load(folder / "checkpoint", weights, optimizer, state, recipe)):
        run.tell(Note(warning))
    log = RunLog(run, tuned, optimizer, state, processes)
    start, before, first = time.perf_counter(), state.seconds, state.steps

    def check() -> None:
        """Validate if a validation is due, and keep the weights if they are the best so far."""
        left = steps - state.steps  # a validation just before the end would be repeated at the end
        due = left == 0 or (state.steps % validate_every == 0 and 2 * left >= validate_every)
        if due and state.steps > state.checked_step:
            validation = accuracy_on(dataset.validation, tuned, question, recipe, processes)
            with uninterrupted():
                state.note(validation.unreadable)
                log.validated(validation.accuracy)
            if checked:
                checked(state.steps, steps, validation.accuracy)

    try:
        check()  # a stop may have come between a step and its validation
        model.network.train()
        for batch in batches(len(images), batch_size, recipe.seed, state.steps, steps):
            if options.patience and state.worse >= options.patience:
                early = f"{state.worse} validations without a better one: training ends after {state.steps} steps."
                run.tell(Note(early))
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(state.steps, steps, options.warmup)
            seed = (recipe.seed * 1_000_003 + state.steps) % 2**62
            randomness = BatchRandomness.draw(len(batch), len(index), recipe.augment, seed)
            mine = range(len(batch))[processes.share(len(batch))]
            read = [(k, image) for k in mine if (image := images[batch[k]]) is not None]
            state.note(images.errors.values())
            with uninterrupted():
                randomness = randomness.of([k for k, _ in read])
                targets: list[SoftLabels] = [[(labels[batch[k]], weight_of[labels[batch[k]]])] for k, _ in read]
                varied, targets = vary([image for _, image in read], targets, recipe.augment, randomness, model.device)
                losses = step.gradients(varied, targets, randomness.negatives, seed + processes.rank)
                loss = average(list(weights.values()), losses, targets, processes)
                norm = torch.nn.utils.clip_grad_norm_(weights.values(), options.max_grad_norm).item()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    wrong = [
                        ids[batch[k]] for (k, _), x in zip(read, losses.tolist(), strict=True) if not math.isfinite(x)
                    ]
                    raise not_finite(state.steps + 1, loss, processes.all(wrong), recipe)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                state.steps += 1
                state.seconds = before + time.perf_counter() - start
                rate = optimizer.param_groups[0]["lr"]
                log.stepped({"loss": loss, "grad_norm": norm, "learning_rate": rate, "seconds": state.seconds})
            check()
            spent = (time.perf_counter() - start) / (state.steps - first)
            left = spent * (steps - state.steps)
            run.tell(Advance("training", state.steps, steps, batch_size / spent, left, f"loss {loss:.3f}"))
    except KeyboardInterrupt:
        with uninterrupted():
            log.save()
        raise Stopped(folder) from None
    finally:
        log.close()
    state.finished = True
    state.note(processes.all(images.errors.values()))
    if processes.main:
        write_json(folder / "training.json", asdict(state))
        checkpoint.remove(folder / "checkpoint")
        restore(model, folder / "adapter", head)
    return state


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise over the first `warmup` share, then a cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def average(
    weights: Sequence[nn.Parameter], losses: Tensor, parts: Sequence[SoftLabels], processes: Processes
) -> float:
    """Make the mean over the global batch of the summed gradients of all processes.

    Args:
        losses: (images,) of this process, each times its weight.
        parts: the labels of its images with their shares, which sum to each one's weight.

    Returns:
        The mean loss; 0 for a batch of unreadable images, which teaches nothing.
    """
    weight = sum(share for labels in parts for _, share in labels)
    total, count = processes.sum_gradients(weights, torch.tensor([losses.sum().item(), weight])).tolist()
    for w in weights:
        if w.grad is not None:
            w.grad = w.grad.div_(count) if count else None
    return total / count if count else 0.0


def not_finite(step: int, loss: float, wrong: Sequence[str], recipe: Recipe) -> Diverged:
    """The error for a step with a NaN or infinite loss or gradient."""
    what = f"The loss is {loss}" if not math.isfinite(loss) else "The gradients are not finite"
    where = f", caused by the images {', '.join(wrong[:8])}{', ...' * (len(wrong) > 8)}" if wrong else ""
    return Diverged(
        f"{what} at step {step}{where}.",
        f"Look at them, or lower train.learning_rate ({recipe.train.learning_rate}); the best weights so far are kept.",
    )


@dataclass(frozen=True)
class SplitAccuracy:
    """How often the best label is correct on a split."""

    accuracy: Rate | None
    """None if the split has no readable image."""
    unreadable: list[str]
    """One sentence for each image that can't be read; each counts as wrong."""


def accuracy_on(
    split: Split, tuned: Tuned, question: Question, recipe: Recipe, processes: Processes | None = None
) -> SplitAccuracy:
    """The accuracy on a split, each process scoring its part. Only the best label of each image is searched for.

    Raises:
        ImageError: one can't be read, and the recipe says to stop.
    """
    if not len(split):
        return SplitAccuracy(None, [])
    processes, network = processes or Processes(), tuned.model.network
    training = network.training
    network.eval()
    size = recipe.evaluate.batch_size
    classifier = Classifier(tuned.model, question, tuned.head, top=1, tolerance=1, batch_size=size)
    items = split.items(recipe.data.max_pixels, tuned.model.sufficient_size)
    predictions = list(predict(classifier, islice(items, processes.rank, None, processes.count)))
    network.train(training)
    require_readable(predictions, recipe.data.unreadable)
    correct = sum(processes.all([sum(map(metrics.is_right, predictions))]))
    errors = processes.all(p.error for p in predictions if p.error)
    # If no image can be read, every accuracy is 0 and means nothing.
    return SplitAccuracy(metrics.wilson(correct, len(split)) if len(errors) < len(split) else None, errors)
