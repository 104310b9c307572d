"""The only training loop, written out: read a batch, compute its gradients, sum them over processes, update.

It doesn't use a trainer library, because the step itself is special (`engine.step`): the shared question runs once per
batch with gradients, only answer positions reach the vocabulary projection, and the loss covers only the answer.

A stopped or killed training resumes from its last checkpoint and ends with the same weights: the order of each epoch
and all randomness are functions of (seed, step).
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
from lensmith.learn.augment.randomness import BatchRandomness, vary
from lensmith.learn.batches import batches, class_weights, open_images, soft_labels
from lensmith.learn.learner import Learner
from lensmith.learn.processes import Processes
from lensmith.learn.run_log import RunLog
from lensmith.measure import metrics
from lensmith.models.tuned_files import restore
from lensmith.models.tuning import Tuned, trainable, weight_groups
from lensmith.progress import Advance, Note, Tell, counter, silent
from lensmith.records import Rate, Training
from lensmith.runs.files import recover, write_json
from lensmith.runs.folder import Run
from lensmith.runs.interrupts import uninterrupted


def train(
    learner: Learner,
    run: Run,
    resume: bool = False,
    processes: Processes | None = None,
    on_validation: Callable[[int, int, Rate | None], Any] | None = None,
) -> Training:
    """Train what `prepare` returned, and keep the weights with the best validation accuracy.

    Args:
        run: uses the training and validation images, never the test images. metrics.jsonl, adapter/ and, until the
            training has finished, checkpoint/ are written to the run's folder. `tell` gets an `Advance` after every
            step, and notes.
        resume: continue from the folder's newest checkpoint, or start from the beginning if there is none yet.
        processes: the processes that train together.
        on_validation: called after each validation with the number of steps done, the total number of steps, and the
            accuracy. If it raises an exception, the training ends and the folder keeps its last checkpoint.

    Raises:
        UserError: no image is readable, a class has no image, there is too little memory, the disk is full, or the
            checkpoint is damaged or was written with another recipe.
        Diverged: the loss or a gradient is NaN or infinite.
        Stopped: Ctrl-C, after a checkpoint has been written.
    """
    tuned, question = learner.tuned, learner.question
    model, head, recipe, dataset, folder = tuned.model, tuned.head, run.recipe, run.dataset, run.folder
    processes, options, state = processes or Processes(), recipe.train, Training()
    if resume:
        recover(folder / "adapter")
    if resume and (folder / "training.json").exists():  # training had finished, but not the scoring of the test images
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
    steps = max(options.least_steps or 1, math.ceil(options.epochs * len(images) / batch_size))
    passes = options.passes(len(images))
    validate_every = max(1, round(options.validate_every * passes / options.epochs * len(images) / batch_size))
    index = {label: i for i, label in enumerate(dataset.labels)}
    ids, targets_of = dataset.train.ids, soft_labels(dataset.train, index, weight_of)
    if resume and (warning := checkpoint.load(folder / "checkpoint", weights, optimizer, state, recipe)):
        run.tell(Note(warning))
    log = RunLog(run, tuned, optimizer, state, processes)
    start, seconds_before, first_step = time.perf_counter(), state.seconds, state.steps

    def validate_if_due() -> None:
        """Validate if a validation is due, and keep the weights if they are the best so far."""
        left = steps - state.steps
        # A validation shortly before the end is skipped, since there is always one at the end.
        due = left == 0 or (state.steps % validate_every == 0 and 2 * left >= validate_every)
        if due and state.steps > state.checked_step:
            validation = accuracy_on(dataset.validation, tuned, question, recipe, processes, run.tell)
            with uninterrupted():
                state.note(validation.unreadable)
                log.log_validation(validation.accuracy)
            if on_validation:
                on_validation(state.steps, steps, validation.accuracy)

    try:
        if resume and on_validation and 0 < state.checked_step == state.steps:  # perhaps it was never told of this one
            on_validation(state.steps, steps, log.validation_at(state.steps))
        validate_if_due()  # the training may have been stopped between a step and its validation
        model.network.train()
        for batch in batches(len(images), batch_size, recipe.seed, state.steps, steps):
            if options.patience and state.worse >= options.patience:
                reason = f"{state.worse} validation{'s' if state.worse > 1 else ''} without improvement"
                run.tell(Note(f"Training ends early, after {state.steps} steps: {reason}."))
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(state.steps, steps, options.warmup)
            seed = (recipe.seed * 1_000_003 + state.steps) % 2**62
            randomness = BatchRandomness.draw(len(batch), len(index), recipe.augment, seed)
            mine = range(len(batch))[processes.part_of(len(batch))]
            readable = [(k, image) for k in mine if (image := images[batch[k]]) is not None]
            state.note(images.errors.values())
            with uninterrupted():
                randomness = randomness.of([k for k, _ in readable])
                targets = [targets_of(batch[k]) for k, _ in readable]
                originals = [image for _, image in readable]
                varied, targets = vary(originals, targets, recipe.augment, randomness, model.device)
                losses = step.gradients(varied, targets, randomness.negatives, seed + processes.rank)
                loss = average_gradients(list(weights.values()), losses, targets, processes)
                norm = torch.nn.utils.clip_grad_norm_(weights.values(), options.max_grad_norm).item()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    pairs = zip(readable, losses.tolist(), strict=True)
                    causes = [ids[batch[k]] for (k, _), image_loss in pairs if not math.isfinite(image_loss)]
                    raise not_finite_error(state.steps + 1, loss, processes.gather(causes), recipe)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                state.steps += 1
                state.seconds = seconds_before + time.perf_counter() - start
                rate = optimizer.param_groups[0]["lr"]
                log.log_step({"loss": loss, "grad_norm": norm, "learning_rate": rate, "seconds": state.seconds})
            validate_if_due()
            seconds_per_step = (time.perf_counter() - start) / (state.steps - first_step)
            seconds_left = seconds_per_step * (steps - state.steps)
            speed = batch_size / seconds_per_step
            # The last batch may begin one more epoch.
            seen = min(state.steps * batch_size / len(images), passes)
            epoch = f"epoch {seen:.1f} of {passes:g}"
            run.tell(Advance("training", state.steps, steps, speed, seconds_left, f"{epoch}, loss {loss:.3f}"))
    except KeyboardInterrupt:
        with uninterrupted():
            log.save()
        raise Stopped(folder) from None
    finally:
        log.close()
    state.finished = True
    state.note(processes.gather(images.errors.values()))
    if processes.main:
        write_json(folder / "training.json", asdict(state))
        checkpoint.remove(folder / "checkpoint")
        restore(model, folder / "adapter", head)
    return state


def schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate at a step as a fraction of its peak: linear warm-up, then cosine decay to zero.

    Args:
        step: counted from 0.
        steps: the total number of steps.
        warmup: the fraction of the steps that the warm-up takes.
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def average_gradients(
    weights: Sequence[nn.Parameter], losses: Tensor, targets: Sequence[SoftLabels], processes: Processes
) -> float:
    """Turn each process's summed gradients into the weighted mean over the global batch, in place.

    Args:
        losses: (images,) weighted losses of this process's images.
        targets: the labels of these images with their weights, which sum to the image's weight.

    Returns:
        The weighted mean loss; 0 for a batch of unreadable images, for which the gradients are set to None.
    """
    weight = sum(label_weight for labels in targets for _, label_weight in labels)
    total, count = processes.sum_gradients(weights, torch.tensor([losses.sum().item(), weight])).tolist()
    for w in weights:
        if w.grad is not None:
            w.grad = w.grad.div_(count) if count else None
    return total / count if count else 0.0


def not_finite_error(step: int, loss: float, images: Sequence[str], recipe: Recipe) -> Diverged:
    """The error for a step with a NaN or infinite loss or gradient.

    Args:
        images: ids of the images whose loss is NaN or infinite.
    """
    what = f"The loss is {loss}" if not math.isfinite(loss) else "A gradient is NaN or infinite"
    cause = f", caused by the images {', '.join(images[:8])}{', ...' * (len(images) > 8)}" if images else ""
    lower = f"ower train.learning_rate ({recipe.train.learning_rate}); the best weights so far are kept."
    return Diverged(f"{what} at step {step}{cause}.", f"Check these images, or l{lower}" if images else f"L{lower}")


@dataclass(frozen=True)
class SplitAccuracy:
    """The accuracy on a split."""

    accuracy: Rate | None
    """None if the split has no readable image."""
    unreadable: list[str]
    """One sentence for each image that can't be read. Unreadable images count as incorrect."""


def accuracy_on(
    split: Split,
    tuned: Tuned,
    question: Question,
    recipe: Recipe,
    processes: Processes | None = None,
    tell: Tell = silent,
) -> SplitAccuracy:
    """The accuracy on a split. Each process scores a part of it, searching only for the best label of each image.

    Raises:
        ImageError: an image can't be read, and the recipe says to stop.
    """
    if not len(split):
        return SplitAccuracy(None, [])
    processes, network = processes or Processes(), tuned.model.network
    training = network.training
    network.eval()
    size = recipe.evaluate.batch_size
    classifier = Classifier(tuned.model, question, tuned.head, top=1, tolerance=1, batch_size=size)
    items = split.items(recipe.data.max_pixels, tuned.model.sufficient_size)
    mine = islice(items, processes.rank, None, processes.count)
    progress = counter("validating", -(-len(split) // processes.count), tell)
    progress(0)
    predictions = list(predict(classifier, mine, progress))
    network.train(training)
    require_readable(predictions, recipe.data.unreadable)
    correct = sum(processes.gather([sum(map(metrics.is_correct, predictions))]))
    errors = processes.gather(p.error for p in predictions if p.error)
    # If no image can be read, the accuracy would be a meaningless 0.
    return SplitAccuracy(metrics.wilson(correct, len(split)) if len(errors) < len(split) else None, errors)
