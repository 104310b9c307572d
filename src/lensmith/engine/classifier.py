"""The only inference loop: from images to the best label and its probability.

The prompt up to the image runs once per `Classifier`, and each batch forks it. Images are read and resized one window
at a time, so memory doesn't depend on their number. A batch holds images of one shape, so no row is padded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lensmith.engine.branches import fork_all, grow
from lensmith.engine.features import PIXELS, extract, feature_names
from lensmith.engine.labels import Scores, search
from lensmith.engine.question import Question
from lensmith.errors import ImageError, UserError
from lensmith.models.base import Model, grouped
from lensmith.models.heads import Head
from lensmith.models.memory import out_of_memory
from lensmith.models.views import Shape, Views, shape_of, stack
from lensmith.records import Calibration, Prediction

MAX_BATCH = 256
"""The largest batch chosen automatically: on two CPU cores, larger ones were no faster."""
CPU_BATCH = 1 << 30
"""Bytes for a batch on a CPU, by the estimate of `Model.memory`. Larger batches are no faster there, and a laptop has
little memory."""
WINDOW = 1 << 30
"""Bytes for the prepared images of a window if all of them are large. With a GPU there are two windows."""
TOLERANCE = 0.01
"""Default tolerance of the best label's probability if not all labels are scored."""

Item = tuple[str, str | None, Callable[[], Image.Image]]
"""A sample's id, its label if known, and a function that reads its image (which may raise ImageError)."""
Prepared = tuple[Item, Views | ImageError]
"""An item with its image's views, or the error that prevented them."""


class Classifier:
    """A model and a question, ready to score images.

    Args:
        head: class head that answers instead of the decoder, from one of the model's features.
        calibration: applied to the scores before they become probabilities.
        top: score only the top k labels exactly; None scores all.
        tolerance: with `top`, the best label's probability must be known to within this; 1 requests only the label.
        batch_size: images scored at once; None chooses it from the free memory.

    Raises:
        UserError: the head was trained on other classes.
    """

    def __init__(
        self,
        model: Model,
        question: Question,
        head: Head | None = None,
        calibration: Calibration | None = None,
        top: int | None = None,
        tolerance: float = TOLERANCE,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.question, self.head = model, question, head
        self.labels, self.prompt = question.labels, question.prompt
        self._label_index = {label: i for i, label in enumerate(self.labels)}
        self.calibration = calibration or Calibration()
        self.top = top if top and top < len(self.labels) else None
        self.tolerance = tolerance
        self.batch_size = batch_size
        if head is not None:
            if head.labels != self.labels:
                raise UserError(
                    "The model answers by a class head, which only knows the classes it was trained on.",
                    f"They are: {', '.join(head.labels)}.",
                )
            self.top = None  # a head scores all labels at once
        with torch.inference_mode(), model.autocast():
            _, self._before = grow(model.decoder, model.embed(self._batch_of_ids(self.prompt.before)))
            self._after = model.embed(self._batch_of_ids(self.prompt.after))
        self._memory = model.free_memory() // 4
        if model.device.type == "cpu":
            self._memory = min(self._memory, CPU_BATCH)

    def _batch_of_ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([ids], device=self.model.device)

    def batch_size_for(self, shape: Shape) -> int:
        """The number of images of this shape that are scored at once."""
        if self.batch_size:
            return self.batch_size
        limit = self._memory // self.model.memory(shape, len(self.prompt.before))
        # A power of two, so that small changes of the free memory rarely change the batch size.
        return 1 << (max(1, min(MAX_BATCH, limit)).bit_length() - 1)

    @torch.inference_mode()
    def score(self, views: Views, encoded: Views | None = None) -> Scores:
        """Score the labels of a batch of images; see `labels.search`.

        Args:
            views: (n, 3, H, W) bytes each, of images of one shape.
            encoded: what the vision tower makes of them (`Model.encode_images`), if it has seen them already.

        Raises:
            UserError: the model's scores are NaN.
        """
        model = self.model
        with model.autocast():
            if self.head is not None:
                return self.score_features(self.features(views, [self.head.feature], encoded))
            image = model.assemble(model.project(encoded or model.encode_images(views)))
            segment = torch.cat([image, self._after.expand(len(image), -1, -1).to(image.dtype)], 1)
            hidden, branch = grow(model.decoder, segment, fork_all(self._before, len(image)))
            return search(model, self.question.trie, hidden[:, -1], branch, self.top, self.tolerance)

    @torch.inference_mode()
    def score_features(self, features: Mapping[str, Tensor]) -> Scores:
        """The head's scores of images whose features have been extracted.

        Raises:
            UserError: they lack the head's feature, or it has another size.
        """
        assert self.head is not None
        feature = features.get(self.head.feature)
        if feature is None or feature.shape[1] != self.head.size:
            raise UserError(
                f"The head was trained on another model than {self.model.options.base}: it needs the feature "
                f"{self.head.feature!r} with {self.head.size} values.",
                "Set model.base to that model.",
            )
        return Scores.of_all(self.head(feature).log_softmax(1))

    @torch.inference_mode()
    def features(self, views: Views, names: Sequence[str], encoded: Views | None = None) -> dict[str, Tensor]:
        """Those of the named features of a batch of images that the model has, given the question; see
        `engine.features`."""
        known = {*feature_names(self.model), PIXELS}
        wanted = [name for name in names if name in known]
        with self.model.autocast():
            return extract(self.model, self._before, self._after, views, wanted, encoded)

    def score_all(self, views: Views, encoded: Views | None = None) -> Iterator[Scores]:
        """As `score`, in batches that fit into memory. A batch that doesn't fit halves the size of all later ones.

        Raises:
            UserError: there is not enough memory for one image, or as `score` does.
        """
        start, n, shape = 0, len(views[0]), tuple(tuple(view.shape[1:]) for view in views)
        while start < n:
            size = min(self.batch_size_for(shape), n - start)
            try:
                part = slice(start, start + size)
                scores = self.score(
                    tuple(view[part] for view in views), encoded and tuple(view[part] for view in encoded)
                )
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                scores = None
            # Outside the handler, because there the traceback still keeps the failed batch in memory.
            if scores is None:
                if size == 1:
                    raise UserError("There is not enough memory to score one image.", "Use a smaller model.")
                self.batch_size = size // 2
                torch.cuda.empty_cache()
                continue
            yield scores
            start += size

    def predictions(self, samples: Sequence[tuple[str, str | None]], scores: Scores) -> list[Prediction]:
        """The predictions for a batch of samples, given as (id, label)."""
        if scores.complete:
            bound = self.calibration.apply(scores.bound)
            low = high = bound.softmax(1)
        else:
            bound, (low, high) = scores.bound, scores.probabilities()
        best = bound.argmax(1)
        raw = scores.bound.masked_fill(~scores.exact, float("nan"))
        low, high = (p.gather(1, best[:, None])[:, 0] for p in (low, high))
        indices = torch.tensor([self._label_index.get(str(label), -1) for _, label in samples], device=bound.device)
        true = indices.clamp(min=0)[:, None]
        score, before = bound.gather(1, true), torch.arange(bound.shape[1], device=bound.device) < true
        # Ties are broken as argmax does: the first label counts as better.
        ranks = 1 + ((bound > score) | ((bound == score) & before)).sum(1)
        ranked = (indices >= 0) & scores.exact.gather(1, true)[:, 0] & (ranks <= (self.top or bound.shape[1]))
        columns = (best, low, high, ranks, ranked, raw)
        return [
            Prediction(
                name,
                label,
                self.labels[i],
                (lower + upper) / 2,
                rank if known else None,
                None,
                lower,
                upper,
                tuple(values),
            )
            for (name, label), i, lower, upper, rank, known, values in zip(
                samples, *(column.tolist() for column in columns), strict=True
            )
        ]

    def probabilities(self, prediction: Prediction) -> list[float]:
        """The calibrated probability of each label, from the scores of a prediction that scored all of them."""
        probabilities: list[float] = (
            self.calibration.apply(torch.tensor(prediction.scores)[None])[0].softmax(0).tolist()
        )
        return probabilities


def windows(
    classifier: Classifier, items: Iterable[Item], size: int | None = None
) -> Generator[list[Prediction], None, None]:
    """Predictions of the items in their order, in lists of `size`.

    An image that can't be read is never dropped: its prediction has an `error` and no label.

    Args:
        size: items in a window; None takes four batches of the first image's shape, but no more than fit into `WINDOW`.
    """
    rest = iter(items)
    with _Reader(classifier.model) as reader:
        first = reader.read(list(islice(rest, 1)))
        if not first:
            return
        ((_, views),) = first
        batch = MAX_BATCH if isinstance(views, ImageError) else classifier.batch_size_for(shape_of(views))
        size = size or max(1, min(4 * batch, WINDOW // classifier.model.photo_bytes()))
        window = first + reader.read(list(islice(rest, size - 1)))
        while window:
            next_window = reader.start(list(islice(rest, size)))
            yield _score_window(classifier, window)
            window = next_window()


def predict(
    classifier: Classifier, items: Iterable[Item], progress: Callable[[int], Any] | None = None
) -> Iterator[Prediction]:
    """As `windows`, one prediction at a time. `progress` is called with the number of images done."""
    done = 0
    for window in windows(classifier, items):
        done += len(window)
        if progress:
            progress(done)
        yield from window


def require_readable(predictions: Iterable[Prediction], unreadable: str) -> None:
    """Stop at an image that could not be read, if the recipe's `data.unreadable` is "stop".

    Raises:
        ImageError: for the first such image.
    """
    error = next((p.error for p in predictions if p.error), None)
    if error and unreadable == "stop":
        raise ImageError(error, "Or set data.unreadable=skip to list such images and continue.")


class _Reader:
    """Reads and prepares the images of a window.

    With a GPU, one window is read while the previous one is scored. On a CPU, reading would only compete with the model
    for the cores. Several threads read if an image takes milliseconds. Small images are read faster by one thread,
    because threads pass the interpreter lock back and forth (28-pixel PNGs: 170 us per image with one thread, 340 with
    two).
    """

    SLOW, TRIED = 0.002, 4
    """Seconds per image above which several threads are faster, and the number of images timed to find out."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "lensmith-read")
        self.background = ThreadPoolExecutor(1, "lensmith-background") if model.device.type != "cpu" else None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in filter(None, (self.background, self.pool)):
            pool.shutdown(cancel_futures=True)

    def start(self, items: list[Item]) -> Callable[[], list[Prepared]]:
        """Start reading in the background if there is a GPU. The returned function gives the window."""
        return self.background.submit(self.read, items).result if self.background else partial(self.read, items)

    def read(self, items: list[Item]) -> list[Prepared]:
        """Each item with its views, or with the error that prevented them."""
        start, prepared = time.perf_counter(), list[Prepared]()
        # Time only as many images as needed to decide: the other threads are idle meanwhile.
        while len(prepared) < min(self.TRIED, len(items)) and time.perf_counter() - start <= self.SLOW * self.TRIED:
            prepared.append(self._prepare(items[len(prepared)]))
        slow = time.perf_counter() - start > self.SLOW * len(prepared)
        return prepared + list((self.pool.map if slow else map)(self._prepare, items[len(prepared) :]))

    def _prepare(self, item: Item) -> Prepared:
        _, _, read_image = item
        try:
            return item, self.model.prepare(read_image())
        except ImageError as error:
            return item, error


def _score_window(classifier: Classifier, window: Sequence[Prepared]) -> list[Prediction]:
    predictions: dict[int, Prediction] = {}
    readable: dict[int, Views] = {}
    for i, ((name, label, _), views) in enumerate(window):
        if isinstance(views, ImageError):
            predictions[i] = Prediction(name, label, error=str(views))
        else:
            readable[i] = views
    indices = list(readable)
    for group in grouped(map(shape_of, readable.values())):
        rest = iter([indices[k] for k in group])
        for scores in classifier.score_all(stack([readable[indices[k]] for k in group])):
            batch = list(islice(rest, len(scores.low)))
            samples = [(name, label) for (name, label, _), _ in (window[i] for i in batch)]
            predictions |= zip(batch, classifier.predictions(samples, scores), strict=True)
    return [predictions[i] for i in range(len(window))]
