"""The only training loop, in plain view: one step is prefix, fork, image and answer, loss, update.

Written out rather than handed to a trainer, because the step is the point: the shared prefix runs once per batch with
gradients (`branches`), only answer positions reach the vocabulary projection, and the loss covers the answer alone.
The loss of a sample is the cross-entropy summed over its answer's tokens and end token: the negative log-probability
of its label, which is what `labels.score_labels` compares.

A stopped training goes on where it was: a checkpoint holds adapter, optimizer, step and random state, and each epoch's
order follows from the seed alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lensmith import checkpoint
from lensmith.augment import augment
from lensmith.branches import fork_all, grow
from lensmith.config import Recipe, TrainOptions
from lensmith.data import ImageDataset, Split
from lensmith.errors import ImageError, Stopped, UserError
from lensmith.inference import Classifier, predict, require_readable
from lensmith.interrupts import uninterrupted
from lensmith.metrics import accuracy
from lensmith.models.family import Model
from lensmith.models.lora import save_adapter, trainable
from lensmith.question import Prompt, make_prompt
from lensmith.records import Prediction, Rate, append_line, write_json

CACHE_BYTES = 1 << 30
"""Prepared images kept in memory; the others are read again in every epoch."""


@dataclass(frozen=True)
class Progress:
    """Where a training is; given to the callback after every step."""

    step: int
    steps: int
    loss: float
    samples_per_s: float
    seconds_left: float
    validation: Rate | None = None


@dataclass
class Training:
    """What a training did."""

    steps: int
    seconds: float
    best_step: int
    checked_step: int
    """The last step after which the validation images were scored."""
    validation: Rate | None
    unreadable: list[str]
    """One sentence for each training or validation image that could not be read."""
    finished: bool


class Samples:
    """Prepared training images by index, read when first asked for and kept while they fit into `CACHE_BYTES`.

    One that can't be read is listed once and gives None from then on; with `unreadable="stop"` all are read at once
    and the first such image raises.
    """

    def __init__(self, model: Model, split: Split, max_pixels: int, unreadable: str) -> None:
        self.model, self.split, self.max_pixels = model, split, max_pixels
        self.labels = split.labels
        self.errors: dict[int, str] = {}
        self._kept: dict[int, Tensor] = {}
        self._room = CACHE_BYTES
        if unreadable == "stop":
            for i in range(len(split)):
                if self[i] is None:
                    raise ImageError(self.errors[i], "Remove it, or set data.unreadable=skip to leave it out.")
        elif all(self[i] is None for i in range(len(split))):  # ends at the first one that can be read
            raise UserError("There is no readable training image.", *list(self.errors.values())[:1])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> Tensor | None:
        """(3, H, W) bytes, or None."""
        if i in self._kept or i in self.errors:
            return self._kept.get(i)
        try:
            pixels = self.model.prepare(self.split.image(i, self.max_pixels))
        except ImageError as error:
            self.errors[i] = str(error)
            return None
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[i] = pixels
        return pixels


def train(
    model: Model,
    dataset: ImageDataset,
    recipe: Recipe,
    folder: Path,
    progress: Callable[[Progress], Any] | None = None,
    resume: bool = False,
) -> Training:
    """Train the adapter on the model and keep the weights that do best on the validation images.

    Args:
        model: with a fresh adapter (`lora.attach`).
        dataset: train and validation are used; test is never touched.
        recipe: its `train`, `question` and `seed`.
        folder: the run folder; gets metrics.jsonl, adapter/ and, while unfinished, checkpoint/.
        progress: called after every step.
        resume: go on from the folder's checkpoint.

    Raises:
        UserError: no readable image, a loss that isn't finite, or nothing to resume from.
        Stopped: Ctrl-C, after a checkpoint has been written.
    """
    state = Training(0, 0.0, 0, 0, None, [], finished=False)
    if resume and (folder / "training.json").exists():  # stopped after the last step, before the test
        checkpoint.load_adapter_weights(folder / "adapter", model)
        return checkpoint.read_state(folder / "training.json", state)
    options = recipe.train
    samples = Samples(model, dataset.train, recipe.data.max_pixels, recipe.data.unreadable)
    prompt = make_prompt(model, recipe.question, dataset.labels)
    answers = {label: forms[0] for label, forms in zip(dataset.labels, prompt.answers, strict=True)}
    weights = list(trainable(model).values())
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=options.weight_decay)
    batch_size = min(options.batch_size, len(samples))
    steps = max(1, math.ceil(options.epochs * len(samples) / batch_size))
    validate_every = max(1, round(options.validate_every * len(samples) / batch_size))
    torch.manual_seed(recipe.seed)
    if resume:
        checkpoint.load(folder / "checkpoint", model, optimizer, state)
    log = folder / "metrics.jsonl"
    start, before = time.perf_counter(), state.seconds
    saved, first = start, state.steps

    def note(errors: Iterable[str]) -> None:
        state.unreadable = list(dict.fromkeys([*state.unreadable, *errors]))

    def check() -> Rate | None:
        """Validate if a validation is due, and keep the weights if they are the best so far."""
        left = steps - state.steps  # one just before the end would be done again at the end
        due = left == 0 or (state.steps % validate_every == 0 and 2 * left >= validate_every)
        if not due or state.steps <= state.checked_step:
            return None
        predictions = validate(model, dataset, recipe)
        note([p.error for p in predictions if p.error])
        found = accuracy(predictions) if predictions else None
        # Without validation images there is nothing to choose by, and the last weights are the ones to keep.
        best = found is None or state.validation is None or found.accuracy > state.validation.accuracy
        with uninterrupted():
            append_line(log, {"step": state.steps, "validation": asdict(found) if found else None})
            if best:
                keep(model, recipe, dataset, folder)
                state.validation, state.best_step = found, state.steps
            state.checked_step = state.steps
        return found

    try:
        check()  # a stop may have come between a step and its validation
        model.network.train()
        for batch in batches(len(samples), batch_size, recipe.seed, state.steps, steps):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * schedule(state.steps, steps, options.warmup)
            read = [(pixels, answers[samples.labels[i]]) for i in batch if (pixels := samples[i]) is not None]
            note(samples.errors.values())
            with uninterrupted():
                loss = batch_loss(model, prompt, [p for p, _ in read], [a for _, a in read], options)
                if not math.isfinite(loss.item()):
                    raise UserError(
                        f"The loss is {loss.item()} at step {state.steps + 1}.",
                        f"Lower train.learning_rate ({options.learning_rate}); the best weights so far are kept.",
                    )
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(weights, options.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                state.steps += 1
                state.seconds = before + time.perf_counter() - start
                row = {"step": state.steps, "loss": loss.item(), "grad_norm": norm.item()}
                row |= {"learning_rate": optimizer.param_groups[0]["lr"], "seconds": round(state.seconds, 3)}
                append_line(log, row)
            validation = check()
            if time.perf_counter() - saved > 60 * options.checkpoint_minutes:
                with uninterrupted():
                    checkpoint.save(folder / "checkpoint", model, optimizer, state)
                saved = time.perf_counter()
            if progress:
                spent = (time.perf_counter() - start) / (state.steps - first)
                left = spent * (steps - state.steps)
                progress(Progress(state.steps, steps, loss.item(), batch_size / spent, left, validation))
    except KeyboardInterrupt:
        with uninterrupted():
            checkpoint.save(folder / "checkpoint", model, optimizer, state)
        raise Stopped(folder, "train") from None
    state.finished = True
    write_json(folder / "training.json", asdict(state))
    checkpoint.remove(folder / "checkpoint")
    checkpoint.load_adapter_weights(folder / "adapter", model)
    return state


def batches(n: int, size: int, seed: int, first: int, last: int) -> Iterator[list[int]]:
    """Indices of the batches of steps `first`..`last`: each epoch is a permutation that follows from seed and epoch.

    The order is one endless stream of epochs cut into batches of exactly `size`, which is at most n.
    """
    orders: dict[int, list[int]] = {}
    for step in range(first, last):
        batch = []
        for place in range(step * size, (step + 1) * size):
            epoch = place // n
            if epoch not in orders:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
                orders = {e: o for e, o in orders.items() if e >= epoch - 1}
                orders[epoch] = torch.randperm(n, generator=generator).tolist()
            batch.append(orders[epoch][place % n])
        yield batch


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise over the first `warmup` share, then a cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def batch_loss(
    model: Model, prompt: Prompt, images: list[Tensor], answers: Sequence[Sequence[int]], options: TrainOptions
) -> Tensor:
    """Mean over the batch of each sample's negative log-probability of its answer.

    Args:
        images: (3, H, W) bytes each; sizes may differ.
        answers: token ids that say each one's label.
    """
    device = model.device
    if not images:  # a batch of unreadable images teaches nothing
        return torch.zeros((), device=device, requires_grad=True)
    with model.autocast():
        before = torch.tensor([prompt.before], device=device)
        _, prefix = grow(model.decoder, model.embed(before))
        seen = look_at(model, images, options)
        after = torch.tensor(prompt.after, device=device)
        rows = []
        for image, answer in zip(seen, answers, strict=True):
            # The last answer token is predicted, never read.
            said = torch.tensor(answer[:-1], dtype=torch.long, device=device)
            text = model.embed(torch.cat([after, said])[None])[0]
            rows.append(torch.cat([image.to(text.dtype), text]))
        lengths = torch.tensor([len(row) for row in rows], device=device)
        segment = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden, _ = grow(model.decoder, segment, fork_all(prefix, len(rows)))
        spans = [hidden[i, n - len(a) : n] for i, (n, a) in enumerate(zip(lengths.tolist(), answers, strict=True))]
        logits = model.logits(torch.cat(spans))
    targets = torch.tensor([token for answer in answers for token in answer], device=device)
    return F.cross_entropy(logits, targets, reduction="sum") / len(answers)


def look_at(model: Model, images: list[Tensor], options: TrainOptions) -> list[Tensor]:
    """Augmented images to (tokens, hidden) embeddings each; one pass of the vision tower per image size."""
    out: list[Tensor | None] = [None] * len(images)
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(tuple(image.shape), []).append(i)
    for places in sizes.values():
        pixels = torch.stack([images[i] for i in places]).to(model.device)
        for i, embeddings in zip(places, model.look(augment(pixels, options)), strict=True):
            out[i] = embeddings
    return [embeddings for embeddings in out if embeddings is not None]


def validate(model: Model, dataset: ImageDataset, recipe: Recipe) -> list[Prediction]:
    """Predictions of the validation images.

    Raises:
        ImageError: one can't be read, and the recipe says to stop.
    """
    split = dataset.validation
    if not len(split):
        return []
    model.network.eval()
    # Only the answer counts here, so only the best label is searched for.
    size = recipe.evaluate.batch_size
    classifier = Classifier(model, recipe.question, dataset.labels, top=1, tolerance=1, batch_size=size)
    found = list(predict(classifier, split.items(recipe.data.max_pixels)))
    model.network.train()
    require_readable(found, recipe.data.unreadable)
    return found


def keep(model: Model, recipe: Recipe, dataset: ImageDataset, folder: Path) -> None:
    """Save adapter, processor, question and labels: a run folder is all that `predict` needs."""
    with checkpoint.replacing(folder / "adapter") as new:
        save_adapter(model, new)
        task = {"labels": list(dataset.labels), "question": asdict(recipe.question), "base": recipe.model.base}
        (new / "lensmith.json").write_text(json.dumps(task, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
