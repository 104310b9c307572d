"""A taught classifier as one PyTorch module that can be turned into a graph: views in, log-probabilities out.

It runs the engine's own functions. What the question adds before the image is computed once and stored as constants.
Two things that a graph can't hold are done in another way: the decoder's attention to the shared past is a plain one,
and every answer is run, where the engine searches them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lensmith.engine.branches import copied, fork, fork_all, grow
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import extract
from lensmith.models import tower_attention
from lensmith.models.attention import ATTENTION, attend, attend_plainly


class Graph(nn.Module):
    """(n, 3, H, W) float32 views of whole numbers in 0..255 -> (n, labels) calibrated log-probabilities, and
    probabilities."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier.model.network
        self.head = classifier.head
        self.classifier = classifier
        # Tensors of inference mode can't be traced.
        self.before = copied(classifier._before, Tensor.clone)
        self.after = classifier._after.clone()
        owners = classifier.question.trie.label_of.tolist()
        self.answers_of = [[k for k, owner in enumerate(owners) if owner == i] for i in range(len(classifier.labels))]

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Score the labels of n images of one shape."""
        classifier, model = self.classifier, self.classifier.model
        if self.head is not None:
            (feature,) = extract(model, self.before, self.after, (view,), [self.head.feature]).values()
            scores = self.head(feature).log_softmax(1)
        else:
            scores = self._answers(model.embed_images((view,)))
        logs = torch.log_softmax(classifier.calibration.apply(scores), 1)
        return logs, logs.exp()

    def _answers(self, image: Tensor) -> Tensor:
        """(n, tokens, hidden) embeddings -> (n, labels) log-probabilities of the labels' answers, each run in full."""
        model, trie = self.classifier.model, self.classifier.question.trie
        n, (answers, depth) = image.shape[0], trie.tokens.shape
        segment = torch.cat([image, self.after.expand(n, -1, -1)], 1)
        hidden, past = grow(model.decoder, segment, fork_all(self.before, n))
        scores = model.logits(hidden[:, -1]).log_softmax(-1)[:, trie.tokens[:, 0]]
        if depth > 1:
            rows = torch.arange(n).repeat_interleave(answers)
            said = model.embed(trie.tokens[:, :-1]).repeat(n, 1, 1)
            hidden, _ = grow(model.decoder, said, fork(past, rows))
            following = model.logits(hidden).log_softmax(-1).view(n, answers, depth - 1, -1)
            wanted = trie.tokens[:, 1:, None].expand(n, -1, -1, 1)
            inside = torch.arange(1, depth) < trie.lengths[:, None]
            scores = scores + (following.gather(-1, wanted)[..., 0] * inside).sum(2)
        if not trie.has_synonyms:
            return scores[:, trie.label_of.argsort()]
        return torch.stack([scores[:, answers].logsumexp(1) for answers in self.answers_of], 1)


@contextmanager
def traceable() -> Iterator[None]:
    """Exchange what a graph can't hold, in this process, until the block ends."""
    AttentionInterface.register(ATTENTION, attend_plainly)
    AttentionInterface.register(tower_attention.TOWER, tower_attention.attend_plainly)
    try:
        with torch.no_grad():
            yield
    finally:
        AttentionInterface.register(ATTENTION, attend)
        AttentionInterface.register(tower_attention.TOWER, tower_attention.attend)
