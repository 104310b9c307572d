"""The only inference loop: images in, a log-probability for every label out.

The prompt up to the image runs once per `Classifier`; each batch forks it. A batch holds images of one size, so that
no row is padded; images of another size wait for their own batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lensmith.branches import fork_all, grow
from lensmith.config import QuestionOptions
from lensmith.errors import ImageError
from lensmith.labels import LabelTrie, Scores, search
from lensmith.models.family import Model
from lensmith.question import answer_ids, make_prompt
from lensmith.records import Prediction

# Rows of one decoder call while labels are scored: bounds the memory that forked pasts take.
MAX_ROWS = 2048


class Classifier:
    """A model, a question and a label set, ready to score images."""

    def __init__(self, model: Model, question: QuestionOptions, labels: Sequence[str]) -> None:
        self.model = model
        self.labels = tuple(labels)
        self.prompt = make_prompt(model, question, labels)
        self.trie = LabelTrie(labels, [[answer_ids(model, label)] for label in labels])
        with torch.inference_mode(), model.autocast():
            self._before = grow(model.decoder, model.embed(self._ids(self.prompt.before)))[1]
            self._after = model.embed(self._ids(self.prompt.after))

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([ids], device=self.model.device)

    @torch.inference_mode()
    def score(self, pixels: Tensor, top: int | None = None, tolerance: float = 1.0) -> Scores:
        """Search the labels of images; see `labels.search`.

        Args:
            pixels: (n, 3, H, W) bytes, images of one size.
        """
        model = self.model
        with model.autocast():
            seen = model.look(pixels)
            segment = torch.cat([seen, self._after.expand(len(seen), -1, -1).to(seen.dtype)], 1)
            hidden, branch = grow(model.decoder, segment, fork_all(self._before, len(seen)))
            return search(model, self.trie, hidden[:, -1], branch, top, tolerance)


Item = tuple[str, str | None, Callable[[], Image.Image]]
"""A sample's id, its label if known, and how to get its image (may raise ImageError)."""


def predict(
    classifier: Classifier,
    items: Iterable[Item],
    batch_size: int = 64,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[Prediction]:
    """Score images in batches; predictions come in the order of the items.

    An image that can't be read gives a prediction with its `error` and no label: never dropped. `progress` is called
    with the number of images done.
    """
    done = 0
    for window in _windows(items, batch_size * 4):
        found: dict[int, Prediction] = {}
        sizes: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for place, (name, label, read) in enumerate(window):
            try:
                pixels = classifier.model.prepare(read())
            except ImageError as error:
                found[place] = Prediction(id=name, label=label, error=str(error))
            else:
                sizes.setdefault(tuple(pixels.shape), []).append((place, pixels))
        for group in sizes.values():
            for start in range(0, len(group), batch_size):
                batch = group[start : start + batch_size]
                scores = classifier.score(torch.stack([pixels for _, pixels in batch]))
                for (place, _), row in zip(batch, scores.bound, strict=True):
                    name, label, _ = window[place]
                    found[place] = _prediction(classifier.labels, name, label, row)
                done += len(batch)
                if progress:
                    progress(done)
        yield from (found[place] for place in range(len(window)))


def require_readable(predictions: Iterable[Prediction], unreadable: str) -> None:
    """Where the recipe's `data.unreadable` is "stop", an image that could not be read ends the work.

    Raises:
        ImageError: naming the first such image.
    """
    error = next((p.error for p in predictions if p.error), None)
    if error and unreadable == "stop":
        raise ImageError(error, "Or set data.unreadable=skip to list such images and go on.")


def _prediction(labels: Sequence[str], name: str, label: str | None, scores: Tensor) -> Prediction:
    share = torch.softmax(scores, 0)
    best = int(scores.argmax())
    return Prediction(name, label, labels[best], float(share[best]), scores=tuple(scores.tolist()))


def _windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    window: list[Item] = []
    for item in items:
        window.append(item)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
