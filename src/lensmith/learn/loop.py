"""The only training loop, in plain view: read a batch, make its gradients, sum them, update.

Written out rather than handed to a trainer, because the step is the point (`step`): the shared question runs once per
batch with gradients, only answer positions reach the vocabulary projection, and the loss covers the answer alone.

A training that was stopped, killed or cut off goes on from its last checkpoint and ends in the same weights: each
epoch's order, and all that is random in a step, follow from seed and step alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.engine.classifier import Classifier, predict, require_readable
from lensmith.engine.objective import Parts
from lensmith.engine.question import make_prompt
from lensmith.engine.step import Step
from lensmith.errors import Diverged, Stopped
from lensmith.learn import checkpoint
from lensmith.learn.batches import batches, class_weights, open_images
from lensmith.learn.processes import Processes
from lensmith.learn.trackers import open_tracker
from lensmith.learn.vary import Chance, vary
from lensmith.measure import metrics
from lensmith.models.base import Model
from lensmith.models.tuning import restore, save_tuned, trainable, weight_groups
from lensmith.progress import Advance, Note, Tell, silent
from lensmith.records import TASK, Rate, Training, percent
from lensmith.runs.files import append_line, read_lines, replacing, write_json, write_lines
from lensmith.runs.interrupts import uninterrupted


def train(
    model: Model,
    dataset: ImageDataset,
    recipe: Recipe,
    folder: Path,
    tell: Tell = silent,
    resume: bool = False,
    processes: Processes | None = None,
    checked: Callable[[int, int, Rate | None], Any] | None = None,
) -> Training:
    """Train what `tuning.attach` has made ready, and keep the weights that do best on the validation images.

    Args:
        model: with something that learns.
        dataset: train and validation are used; test is never touched.
        recipe: its `tune`, `train`, `augment`, `question` and `seed`.
        folder: the run folder; gets metrics.jsonl, adapter/ and, while unfinished, checkpoint/.
        tell: called with an `Advance` after every step, and with notes.
        resume: go on from the folder's newest checkpoint, or begin anew if it has none yet.
        processes: those that train together.
        checked: called after each validation with the steps done, all there are, and what was found. What it raises
            ends the training, whose folder keeps its last checkpoint.

    Raises:
        UserError: no readable image, a class without any, too little memory, a full disk, or a checkpoint that is
            damaged or of another recipe.
        Diverged: a loss that isn't finite.
        Stopped: Ctrl-C, after a checkpoint has been written.
    """
    processes, options, state = processes or Processes(), recipe.train, Training()
    if resume and (folder / "training.json").exists():  # stopped after the last step, before the test
        checkpoint.remove(folder / "checkpoint")
        restore(model, folder / "adapter")
        return checkpoint.read_state(folder / "training.json", state)
    worth = class_weights(dataset.train, dataset.labels, options.class_weights)
    try:
        images, look = open_images(model, dataset, recipe, processes, tell)
    except KeyboardInterrupt:
        raise Stopped(folder, "train") from None
    prompt = make_prompt(model, recipe.question, dataset.labels)
    step = Step(model, prompt, recipe, look, lambda text: tell(Note(text)), images.tokens)
    weights = trainable(model)
    groups = weight_groups(model, recipe.tune, options)
    optimizer = torch.optim.AdamW(groups, fused=model.device.type in ("cpu", "cuda"))
    batch_size = min(options.batch_size, len(images))
    steps = max(1, math.ceil(options.epochs * len(images) / batch_size))
    validate_every = max(1, round(options.validate_every * len(images) / batch_size))
    place = {label: i for i, label in enumerate(dataset.labels)}
    ids, labels = dataset.train.ids, [place[label] for label in dataset.train.labels]
    if resume and (warning := checkpoint.load(folder / "checkpoint", weights, optimizer, state, recipe)):
        tell(Note(warning))
    book = Book(folder, model, dataset, recipe, optimizer, state, processes, tell)
    start, before, first = time.perf_counter(), state.seconds, state.steps

    def check() -> None:
        """Validate if a validation is due, and keep the weights if they are the best so far."""
        left = steps - state.steps  # one just before the end would be done again at the end
        due = left == 0 or (state.steps % validate_every == 0 and 2 * left >= validate_every)
        if due and state.steps > state.checked_step:
            found, errors = validate(model, dataset, recipe, processes)
            with uninterrupted():
                state.note(errors)
                book.validated(found)
            if checked:
                checked(state.steps, steps, found)

    try:
        check()  # a stop may have come between a step and its validation
        model.network.train()
        for batch in batches(len(images), batch_size, recipe.seed, state.steps, steps):
            if options.patience and state.worse >= options.patience:
                tell(Note(f"{state.worse} validations without a better one: training ends after {state.steps} steps."))
                break
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(state.steps, steps, options.warmup)
            seed = (recipe.seed * 1_000_003 + state.steps) % 2**62
            chance = Chance.draw(len(batch), len(place), recipe.augment, seed)
            mine = range(len(batch))[processes.share(len(batch))]
            read = [(k, image) for k in mine if (image := images[batch[k]]) is not None]
            state.note(images.errors.values())
            with uninterrupted():
                chance = chance.of([k for k, _ in read])
                whose: list[Parts] = [[(labels[batch[k]], worth[labels[batch[k]]])] for k, _ in read]
                varied, parts = vary([image for _, image in read], whose, recipe.augment, chance, model.device)
                losses = step.gradients(varied, parts, chance.negatives, seed + processes.rank)
                loss = average(list(weights.values()), losses, parts, processes)
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
                book.stepped({"loss": loss, "grad_norm": norm, "learning_rate": rate, "seconds": state.seconds})
            check()
            spent = (time.perf_counter() - start) / (state.steps - first)
            left = spent * (steps - state.steps)
            tell(Advance("training", state.steps, steps, batch_size / spent, left, f"loss {loss:.3f}"))
    except KeyboardInterrupt:
        with uninterrupted():
            book.save()
        raise Stopped(folder, "train") from None
    finally:
        book.close()
    state.finished = True
    state.note(processes.all(images.errors.values()))
    if processes.main:
        write_json(folder / "training.json", asdict(state))
        checkpoint.remove(folder / "checkpoint")
        restore(model, folder / "adapter")
    return state


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise over the first `warmup` share, then a cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def average(weights: Sequence[nn.Parameter], losses: Tensor, parts: Sequence[Parts], processes: Processes) -> float:
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
    """The sentence for a step whose loss or gradients are no numbers."""
    what = f"The loss is {loss}" if not math.isfinite(loss) else "The gradients are not finite"
    where = f", by the images {', '.join(wrong[:8])}{', ...' * (len(wrong) > 8)}" if wrong else ""
    return Diverged(
        f"{what} at step {step}{where}.",
        f"Look at them, or lower train.learning_rate ({recipe.train.learning_rate}); the best weights so far are kept.",
    )


def validate(
    model: Model, dataset: ImageDataset, recipe: Recipe, processes: Processes
) -> tuple[Rate | None, list[str]]:
    """The validation images' accuracy, each process scoring its share, and a sentence for each that can't be read.

    Raises:
        ImageError: one can't be read, and the recipe says to stop.
    """
    split = dataset.validation
    if not len(split):
        return None, []
    training = model.network.training
    model.network.eval()
    # Only the answer counts here, so only the best label is searched for.
    size = recipe.evaluate.batch_size
    classifier = Classifier(model, recipe.question, dataset.labels, top=1, tolerance=1, batch_size=size)
    items = islice(split.items(recipe.data.max_pixels, model.enough), processes.rank, None, processes.count)
    found = list(predict(classifier, items))
    model.network.train(training)
    require_readable(found, recipe.data.unreadable)
    right = sum(processes.all([sum(map(metrics.is_right, found))]))
    errors = processes.all(p.error for p in found if p.error)
    # Of unreadable images alone, every accuracy is 0 and says nothing.
    return metrics.wilson(right, len(split)) if len(errors) < len(split) else None, errors


class Book:
    """What a training leaves in its run folder while it goes on: log, checkpoints, the best weights. Only the main
    process writes."""

    def __init__(
        self,
        folder: Path,
        model: Model,
        dataset: ImageDataset,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        state: Training,
        processes: Processes,
        tell: Tell,
    ) -> None:
        self.folder, self.model, self.dataset, self.recipe = folder, model, dataset, recipe
        self.optimizer, self.state, self.writes, self.tell = optimizer, state, processes.main, tell
        self.log = folder / "metrics.jsonl"
        if self.writes and self.log.exists():  # what came after the checkpoint comes again
            write_lines(
                self.log,
                (r for r in read_lines(self.log) if r["step"] <= (state.steps if "loss" in r else state.checked_step)),
            )
        kind = recipe.train.tracker if self.writes else "local"
        self.tracker = open_tracker(kind, folder, recipe, lambda text: tell(Note(text)), state.steps)
        self._saved = time.perf_counter()

    def stepped(self, row: dict[str, float]) -> None:
        """Write a step down, and a checkpoint if it is time."""
        self._record(row, row)
        if time.perf_counter() - self._saved >= 60 * self.recipe.train.checkpoint_minutes:
            self.save()

    def validated(self, found: Rate | None) -> None:
        """Write a validation down, and keep the weights if they are the best so far.

        Without validation images there is nothing to choose by, and the last weights are the ones to keep.
        """
        state = self.state
        best = found is None or state.validation is None or found.accuracy > state.validation.accuracy
        state.checked_step, state.worse = state.steps, 0 if best else state.worse + 1
        if found:
            self._record({"validation": asdict(found)}, {"validation_accuracy": found.accuracy})
            self.tell(Note(f"Step {state.steps}: {percent(found)} of the validation images right."))
        if best:
            state.validation, state.best_step = found, state.steps
            if self.writes:
                keep(self.model, self.recipe, self.dataset, self.folder)
            self.save()

    def save(self) -> None:
        """Write a checkpoint."""
        if self.writes:
            weights = trainable(self.model)
            checkpoint.save(self.folder / "checkpoint", weights, self.optimizer, self.state, self.recipe)
            self._saved = time.perf_counter()

    def close(self) -> None:
        """Let go of the tracker."""
        self.tracker.close()

    def _record(self, row: dict[str, Any], tracked: dict[str, float]) -> None:
        if self.writes:
            append_line(self.log, {"step": self.state.steps} | row)
            self.tracker.log(tracked, self.state.steps)


def keep(model: Model, recipe: Recipe, dataset: ImageDataset, folder: Path, name: str = "tuned") -> None:
    """Save what was tuned or fitted, processor, question and labels: a run folder is all that `predict` needs."""
    with replacing(folder / "adapter") as new:
        save_tuned(model, new)
        task: dict[str, Any] = {"name": name, "labels": list(dataset.labels), "question": asdict(recipe.question)}
        task |= {"base": recipe.model.base, "image_tokens": recipe.model.image_tokens}
        (new / TASK).write_text(json.dumps(task, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
