"""The only inference loop: images in, the best label and its probability out.

The prompt up to the image runs once per `Classifier`; each batch forks it. Images are read and resized a window at a
time, so that memory does not depend on how many there are. A batch holds images of one shape, so that no row is padded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lensmith.engine.branches import fork_all, grow
from lensmith.engine.features import extract
from lensmith.engine.labels import Scores, search
from lensmith.engine.question import Question
from lensmith.errors import ImageError, UserError
from lensmith.models.base import Model, grouped
from lensmith.models.heads import Head
from lensmith.models.memory import out_of_memory
from lensmith.models.views import Shape, Views, shape_of, stack
from lensmith.records import Calibration, Prediction

MOST = 256
"""The largest batch that is chosen by itself: on two CPU cores, more were no faster."""
WINDOW = 1 << 30
"""Bytes that the prepared images of a window may take, were they all large; with a GPU there are two windows."""
TOLERANCE = 0.01
"""How closely the best label's probability is known, by default, where not all labels are scored."""

Item = tuple[str, str | None, Callable[[], Image.Image]]
"""A sample's id, its label if known, and how to get its image (may raise ImageError)."""
Ready = tuple[Item, Views | ImageError]
"""An item with its image's views, or why there are none."""


class Classifier:
    """A model and a question, ready to score images.

    Args:
        head: what answers in the decoder's place, on one of the model's features; None for the decoder itself.
        calibration: what is done to the scores before they become probabilities.
        top: search only for so many best labels; None scores all.
        tolerance: how closely the best label's probability must be known then; 1 asks for the label alone.
        batch_size: images scored at once; None chooses by the memory that is free.
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
        self._place = {label: i for i, label in enumerate(self.labels)}
        self.calibration = calibration or Calibration()
        self.top = top if top and top < len(self.labels) else None
        self.tolerance = tolerance
        self.batch_size = batch_size
        if head is not None:
            if head.labels != self.labels:
                raise UserError(
                    "The model answers by a class head, which knows the classes it was taught and no others.",
                    f"They are: {', '.join(head.labels)}.",
                )
            self.top = None  # it scores all of them at once
        with torch.inference_mode(), model.autocast():
            self._before = grow(model.decoder, model.embed(self._ids(self.prompt.before)))[1]
            self._after = model.embed(self._ids(self.prompt.after))
        self._room = model.free_memory() // 4

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([ids], device=self.model.device)

    def fits(self, shape: Shape) -> int:
        """How many images of a shape are scored at once."""
        if self.batch_size:
            return self.batch_size
        most = self._room // self.model.memory(shape, len(self.prompt.before))
        return 1 << (max(1, min(MOST, most)).bit_length() - 1)  # a power of two, so that little changes change nothing

    @torch.inference_mode()
    def score(self, views: Views) -> Scores:
        """Search the labels of a batch of images; see `labels.search`.

        Args:
            views: (n, 3, H, W) bytes each, of images of one shape.
        """
        model = self.model
        with model.autocast():
            if self.head is not None:
                extracted = extract(model, self._before, self._after, views, [self.head.feature])
                return Scores.of_all(self.head(extracted[self.head.feature]).log_softmax(1))
            image = model.embed_images(views)
            segment = torch.cat([image, self._after.expand(len(image), -1, -1).to(image.dtype)], 1)
            hidden, branch = grow(model.decoder, segment, fork_all(self._before, len(image)))
            return search(model, self.question.trie, hidden[:, -1], branch, self.top, self.tolerance)

    @torch.inference_mode()
    def features(self, views: Views, kinds: Sequence[str]) -> dict[str, Tensor]:
        """The images' vectors of these kinds, given the question; see `engine.features`."""
        with self.model.autocast():
            return extract(self.model, self._before, self._after, views, kinds)

    def score_all(self, views: Views) -> Iterator[Scores]:
        """The same in batches that fit into memory; when one doesn't, from then on only half as many are tried at once.

        Raises:
            UserError: there is not enough memory for one image.
        """
        start, n, shape = 0, len(views[0]), tuple(tuple(view.shape[1:]) for view in views)
        while start < n:
            size = min(self.fits(shape), n - start)
            try:
                scores = self.score(tuple(view[start : start + size] for view in views))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                scores = None
            # Here, and not in the handler, where the failed batch is still held by the traceback.
            if scores is None:
                if size == 1:
                    raise UserError("There is not enough memory to score one image.", "Use a smaller model.")
                self.batch_size = size // 2
                torch.cuda.empty_cache()
                continue
            yield scores
            start += size

    def predictions(self, samples: Sequence[tuple[str, str | None]], scores: Scores) -> list[Prediction]:
        """The answers to a batch of samples, given as (id, label)."""
        if scores.complete:
            bound = self.calibration.apply(scores.bound)
            low = high = bound.softmax(1)
        else:
            bound, (low, high) = scores.bound, scores.probabilities()
        best = bound.argmax(1)
        raw = scores.bound.masked_fill(~scores.exact, float("nan"))
        low, high = (p.gather(1, best[:, None])[:, 0] for p in (low, high))
        places = torch.tensor([self._place.get(str(label), -1) for _, label in samples], device=bound.device)
        true = places.clamp(min=0)[:, None]
        score, before = bound.gather(1, true), torch.arange(bound.shape[1], device=bound.device) < true
        # Of equal scores the first counts as better, as it does for the answer itself.
        ranks = 1 + ((bound > score) | ((bound == score) & before)).sum(1)
        ranked = (places >= 0) & scores.exact.gather(1, true)[:, 0] & (ranks <= (self.top or bound.shape[1]))
        columns = (best, low, high, ranks, ranked, raw)
        return [
            Prediction(
                name,
                label,
                self.labels[i],
                (least + most) / 2,
                rank if known else None,
                None,
                least,
                most,
                tuple(values),
            )
            for (name, label), i, least, most, rank, known, values in zip(
                samples, *(column.tolist() for column in columns), strict=True
            )
        ]


def windows(
    classifier: Classifier, items: Iterable[Item], size: int | None = None
) -> Generator[list[Prediction], None, None]:
    """Predictions of the items in their order, in lists of `size`.

    An image that can't be read gives a prediction with its `error` and no answer: never dropped.

    Args:
        size: items of a window; None takes four batches of the first image's size, but no more than fit into `WINDOW`.
    """
    rest = iter(items)
    with _Reader(classifier.model) as reader:
        first = reader.read(list(islice(rest, 1)))
        if not first:
            return
        views = first[0][1]
        batch = MOST if isinstance(views, ImageError) else classifier.fits(shape_of(views))
        size = size or max(1, min(4 * batch, WINDOW // classifier.model.bytes()))
        window = first + reader.read(list(islice(rest, size - 1)))
        while window:
            following = reader.begin(list(islice(rest, size)))
            yield _score_window(classifier, window)
            window = following()


def predict(
    classifier: Classifier, items: Iterable[Item], progress: Callable[[int], Any] | None = None
) -> Iterator[Prediction]:
    """The same one by one; `progress` is called with the number of images done."""
    done = 0
    for window in windows(classifier, items):
        done += len(window)
        if progress:
            progress(done)
        yield from window


def require_readable(predictions: Iterable[Prediction], unreadable: str) -> None:
    """Where the recipe's `data.unreadable` is "stop", an image that could not be read ends the work.

    Raises:
        ImageError: naming the first such image.
    """
    error = next((p.error for p in predictions if p.error), None)
    if error and unreadable == "stop":
        raise ImageError(error, "Or set data.unreadable=skip to list such images and go on.")


class _Reader:
    """Reads and prepares the images of a window.

    With a GPU, one window is read while the one before is scored. On a CPU the model has the cores, and the two would
    only be in each other's way. Several threads read where an image takes milliseconds; small ones are read faster by
    one, because threads hand the interpreter lock to and fro (28-pixel PNGs: 170 us an image by one, 340 by two).
    """

    SLOW, TRIED = 0.002, 4
    """Seconds for an image, from which on threads pay; and how many images tell how long one takes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "lensmith-read")
        self.ahead = ThreadPoolExecutor(1, "lensmith-ahead") if model.device.type != "cpu" else None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in filter(None, (self.ahead, self.pool)):
            pool.shutdown(cancel_futures=True)

    def begin(self, items: list[Item]) -> Callable[[], list[Ready]]:
        """Start reading if that can go on beside the model; the result, when called, gives the window."""
        return self.ahead.submit(self.read, items).result if self.ahead else partial(self.read, items)

    def read(self, items: list[Item]) -> list[Ready]:
        """Each item with its views, or why there are none."""
        start, found = time.perf_counter(), list[Ready]()
        # No more of them than tell that they are slow: meanwhile the other threads are idle.
        while len(found) < min(self.TRIED, len(items)) and time.perf_counter() - start <= self.SLOW * self.TRIED:
            found.append(self._one(items[len(found)]))
        slow = time.perf_counter() - start > self.SLOW * len(found)
        return found + list((self.pool.map if slow else map)(self._one, items[len(found) :]))

    def _one(self, item: Item) -> Ready:
        try:
            return item, self.model.prepare(item[2]())
        except ImageError as error:
            return item, error


def _score_window(classifier: Classifier, window: Sequence[Ready]) -> list[Prediction]:
    found: dict[int, Prediction] = {}
    read: dict[int, Views] = {}
    for place, ((name, label, _), views) in enumerate(window):
        if isinstance(views, ImageError):
            found[place] = Prediction(name, label, error=str(views))
        else:
            read[place] = views
    places = list(read)
    for group in grouped(map(shape_of, read.values())):
        rest = iter([places[k] for k in group])
        for scores in classifier.score_all(stack([read[places[k]] for k in group])):
            batch = list(islice(rest, len(scores.low)))
            samples = [window[place][0][:2] for place in batch]
            found |= zip(batch, classifier.predictions(samples, scores), strict=True)
    return [found[place] for place in range(len(window))]
