"""What training makes likely: a label's answer among all that can be said, or the label among the labels.

`tokens` is the cross-entropy summed over the answer's tokens and end token: the negative log-probability of the label,
which is what scoring compares. `labels` is the cross-entropy of a softmax over the labels' log-probabilities: the very
share that a prediction reports. A class head gives such scores directly.

An image may have several labels, each with its share (MixUp, CutMix). It runs once, and its past is forked into what
must be said: its labels' answers, or those of all labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lensmith.config import TrainOptions
from lensmith.engine.branches import Branch, fork, fork_all, grow
from lensmith.engine.question import Prompt
from lensmith.models.base import Model, grouped
from lensmith.models.heads import Head

SoftLabels = Sequence[tuple[int, float]]
"""An image's labels, by number, each with its share; the shares sum to the image's weight."""


class Objective:
    """The loss of images, given the question's past.

    Args:
        prompt: the question's tokens and the labels' answers.
        options: `objective`, `negatives` and `label_smoothing` are used.
        head: what answers in the decoder's place; it learns by the labels, whatever the options say.
    """

    def __init__(self, model: Model, prompt: Prompt, options: TrainOptions, head: Head | None = None) -> None:
        self.model, self.answers, self.options, self.head = model, prompt.answers, options, head
        self.by_labels = options.objective == "labels" or head is not None
        self._after = torch.tensor(prompt.after, device=model.device)
        few = options.negatives if self.by_labels and head is None else None
        self.negatives = few if few and few < len(self.answers) - 1 else None
        """Wrong labels that each image is compared with; None for all."""

    def losses(self, prefix: Branch, seen: Sequence[Tensor], parts: Sequence[SoftLabels], noise: Tensor) -> Tensor:
        """The loss of each image, times its weight.

        Args:
            prefix: one row, the question up to the image.
            seen: (tokens, hidden) embeddings of each image.
            parts: each image's labels.
            noise: (images, labels) uniform numbers in 0..1, by which negatives are drawn.

        Returns:
            (images,) in nats.
        """
        if self.head is not None:
            states = torch.stack([rows[0] for rows in self._run(prefix, seen, [()] * len(seen))])
            return self._among(self.head(states), parts)
        if not self.by_labels and all(len(labels) == 1 for labels in parts):
            # One answer an image rides in the image's own segment.
            said = [self.answers[labels[0][0]][0] for labels in parts]
            states = torch.cat(self._run(prefix, seen, [answer[:-1] for answer in said]))
            owner, tokens = self._flat(said)
            found = self._log_probs(states, torch.arange(len(owner), device=owner.device), tokens)
            share = found.new_tensor([labels[0][1] for labels in parts])
            return -share * torch.zeros_like(share).index_add(0, owner, found)
        out: dict[int, Tensor] = {}
        forked = self._by_labels if self.by_labels else self._by_answers
        # A row that grows further must not end in padding, so images of one length go together.
        for places in grouped(len(image) for image in seen):
            segment = torch.stack([self._with(seen[i], ()) for i in places])
            hidden, branch = grow(self.model.decoder, segment, fork_all(prefix, len(places)))
            loss = forked(hidden[:, -1], branch, [parts[i] for i in places], noise[places])
            out |= zip(places, loss.unbind(), strict=True)
        return torch.stack([out[i] for i in range(len(seen))])

    def _with(self, image: Tensor, answer: Sequence[int]) -> Tensor:
        """An image's embeddings, the question's end, and what is read of an answer: (tokens, hidden)."""
        said = torch.tensor(answer, dtype=torch.long, device=self._after.device)
        text = self.model.embed(torch.cat([self._after, said])[None])[0]
        return torch.cat([image.to(text.dtype), text])

    def _run(self, prefix: Branch, seen: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Each image with what is read of an answer, in one padded segment: the (1 + answer, hidden) states that
        predict its tokens and its end."""
        rows = [self._with(image, answer) for image, answer in zip(seen, answers, strict=True)]
        segment = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden, _ = grow(self.model.decoder, segment, fork_all(prefix, len(rows)))
        sizes = ((len(row), len(answer)) for row, answer in zip(rows, answers, strict=True))
        return [hidden[i, length - said - 1 : length] for i, (length, said) in enumerate(sizes)]

    def _by_answers(self, last: Tensor, branch: Branch, parts: Sequence[SoftLabels], _: Tensor) -> Tensor:
        """Loss of images by the answers of their own labels; `last` and `branch` are the images', as in `_say`."""
        rows = [i for i, labels in enumerate(parts) for _ in labels]
        found = self._say(last, branch, rows, [self.answers[label][0] for labels in parts for label, _ in labels])
        share = found.new_tensor([share for labels in parts for _, share in labels])
        return torch.zeros_like(last[:, 0], dtype=found.dtype).index_add(
            0, torch.tensor(rows, device=last.device), -share * found
        )

    def _by_labels(self, last: Tensor, branch: Branch, parts: Sequence[SoftLabels], noise: Tensor) -> Tensor:
        """Loss of images by their labels' shares among the labels that they are compared with."""
        chosen = self._compared(last, parts, noise)
        said = [
            (row, label, form)
            for row, labels in enumerate(chosen)
            for label in labels
            for form in range(len(self.answers[label]))
        ]
        found = self._say(last, branch, [row for row, _, _ in said], [self.answers[c][form] for _, c, form in said])
        shape = len(parts), len(self.answers), max(map(len, self.answers))
        place = tuple(torch.tensor(said, device=found.device).T)
        scores = found.new_full(shape, float("-inf")).index_put(place, found)
        return self._among(scores.logsumexp(2), parts)  # synonyms' probabilities add up

    @torch.no_grad()
    def _compared(self, last: Tensor, parts: Sequence[SoftLabels], noise: Tensor) -> list[list[int]]:
        """For each image the labels it is compared with: its own, and all others or some.

        Some are drawn without replacement by the probability of how they begin, which is known before anything of
        them is run (by the largest of log-probability and Gumbel noise; Kool et al., 1903.06059).
        """
        if self.negatives is None:
            return [list(range(len(self.answers)))] * len(parts)
        begin = torch.tensor([forms[0][0] for forms in self.answers], device=last.device)
        promise = self.model.logits(last).log_softmax(1)[:, begin] - (-noise.to(last.device).log()).log()
        own = [[label for label, _ in labels] for labels in parts]
        for row, labels in enumerate(own):
            promise[row, labels] = float("-inf")
        others = promise.topk(self.negatives, 1).indices.tolist()
        return [sorted({*mine, *wrong}) for mine, wrong in zip(own, others, strict=True)]

    def _among(self, scores: Tensor, parts: Sequence[SoftLabels]) -> Tensor:
        """Cross-entropy of (images, labels) scores with the images' labels; a score of -inf is left out."""
        inside, smooth = scores > float("-inf"), self.options.label_smoothing
        target = torch.zeros_like(scores)
        for row, labels in enumerate(parts):
            for label, share in labels:
                target[row, label] += share
        even = target.sum(1, keepdim=True) * inside / inside.sum(1, keepdim=True)
        target = (1 - smooth) * target + smooth * even
        return -(target * scores.log_softmax(1).masked_fill(~inside, 0)).sum(1)

    def _say(self, last: Tensor, branch: Branch, rows: Sequence[int], answers: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability of answers on forks of images' pasts.

        Args:
            last: (images, hidden) the state that predicts an answer's first token.
            branch: the images' pasts.
            rows: the image of each answer.
            answers: token ids.

        Returns:
            (answers,)
        """
        row = torch.tensor(rows, device=last.device)
        first = self._log_probs(last, row, torch.tensor([answer[0] for answer in answers], device=last.device))
        longest = max(map(len, answers)) - 1
        if not longest:
            return first
        longest = max(2, longest)  # the kernel of conv layers for single tokens passes no gradient
        padded = torch.tensor([[*a[:-1], *[0] * (longest - len(a) + 1)] for a in answers], device=last.device)
        out, _ = grow(self.model.decoder, self.model.embed(padded), fork(branch, row))
        owner, tokens = self._flat([answer[1:] for answer in answers])
        step = torch.tensor([j for answer in answers for j in range(len(answer) - 1)], device=last.device)
        rest = self._log_probs(out[owner, step], torch.arange(len(owner), device=last.device), tokens)
        return first.index_add(0, owner, rest)

    def _log_probs(self, states: Tensor, which: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of each token by the state it is predicted by; under `tokens`, smoothed."""
        logs = self.model.logits(states).log_softmax(-1)
        found, smooth = logs[which, tokens], 0.0 if self.by_labels else self.options.label_smoothing
        return (1 - smooth) * found + smooth * logs.mean(-1)[which] if smooth else found

    def _flat(self, answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Answers one after another: which one each token is of, and the tokens."""
        owner = [i for i, answer in enumerate(answers) for _ in answer]
        tokens = [token for answer in answers for token in answer]
        both = torch.tensor([owner, tokens], device=self._after.device)
        return both[0], both[1]
