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

from lensmith.engine.blend import Blend
from lensmith.engine.branches import copied, fork, fork_all, grow
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import extract
from lensmith.models import tower_attention
from lensmith.models.attention import ATTENTION, attend, attend_plainly
from lensmith.models.heads import Head
from lensmith.models.views import changed


class Graph(nn.Module):
    """(n, 3, H, W) float32 views of whole numbers in 0..255 -> (n, labels) calibrated log-probabilities, and
    probabilities."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.scores = BlendScores(classifier) if isinstance(classifier, Blend) else Scores(classifier)
        self.calibration = classifier.calibration

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Score the labels of n images of one shape."""
        logs = torch.log_softmax(self.calibration.apply(self.scores(view)), 1)
        return logs, logs.exp()


class BlendScores(nn.Module):
    """Views -> (n, labels) weighted sum of the calibrated log-probabilities of a blend's parts, under their looks.

    The features that heads on the base model need are extracted together, so that its tower runs once for each look.
    """

    def __init__(self, blend: Blend) -> None:
        super().__init__()
        self.looks = list(dict.fromkeys(look for part in blend.parts for look in part.looks))
        self.base, heads, scores = Scores(blend), dict[str, Head](), dict[str, Scores]()
        self.parts = {str(k): part for k, part in enumerate(blend.parts)}  # names of modules can't have every character
        for name, part in self.parts.items():
            if part.classifier.head is not None and part.classifier.model is blend.model:
                heads[name] = part.classifier.head
            else:
                scores[name] = Scores(part.classifier)
        self.heads, self.scores = nn.ModuleDict(heads), nn.ModuleDict(scores)

    def forward(self, view: Tensor) -> Tensor:
        """Score the labels of n images of one shape."""
        total = view.new_zeros(())
        for look in self.looks:
            parts = {name: part for name, part in self.parts.items() if look in part.looks}
            (shown,) = changed((view,), look)
            features = {str(self.heads[name].feature): None for name in parts if name in self.heads}
            found = self.base.extracted(shown, list(features)) if features else {}
            for name, part in parts.items():
                if name in self.heads:
                    scores = self.heads[name](found[str(self.heads[name].feature)])
                else:
                    scores = self.scores[name](shown)
                logs = part.classifier.calibration.apply(scores).log_softmax(1)
                total = total + part.weight / len(part.looks) * logs
        return total


class Scores(nn.Module):
    """Views -> (n, labels) log-probabilities of one classifier, not calibrated."""

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

    def forward(self, view: Tensor) -> Tensor:
        """Score the labels of n images of one shape."""
        if self.head is not None:
            (feature,) = self.extracted(view, [self.head.feature]).values()
            scores: Tensor = self.head(feature)
            return scores.log_softmax(1)
        return self._answers(self.classifier.model.embed_images((view,)))

    def extracted(self, view: Tensor, features: list[str]) -> dict[str, Tensor]:
        """(n, size) of each feature, by its name."""
        return extract(self.classifier.model, self.before, self.after, (view,), features)

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
