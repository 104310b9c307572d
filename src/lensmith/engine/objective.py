"""The training loss: a label's answer against the whole vocabulary, or the label against the other labels.

`tokens` is the cross-entropy summed over the answer's tokens and end token: the negative log-probability of the label,
which is what scoring compares. `labels` is the cross-entropy of a softmax over the labels' log-probabilities: the
negative log of the probability that a prediction reports. A class head gives the scores for this softmax directly.

An image may have several labels, each with a weight (MixUp, CutMix). The image runs once, and its past is forked for
each answer: those of its own labels, or those of all labels.
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
"""An image's labels: (label index, weight) pairs. The weights sum to the image's weight."""


class Objective:
    """The loss of images, given the question's past.

    Args:
        prompt: the question's tokens and the labels' answers.
        options: `objective`, `negatives` and `label_smoothing` are used.
        head: class head that answers instead of the decoder. Its objective is always `labels`.
    """

    def __init__(self, model: Model, prompt: Prompt, options: TrainOptions, head: Head | None = None) -> None:
        self.model, self.answers, self.options, self.head = model, prompt.answers, options, head
        self.by_labels = options.objective == "labels" or head is not None
        self._after = torch.tensor(prompt.after, device=model.device)
        negatives = options.negatives if self.by_labels and head is None else None
        self.negatives = negatives if negatives and negatives < len(self.answers) - 1 else None
        """Number of wrong labels that each image is compared with; None for all."""

    def losses(self, prefix: Branch, images: Sequence[Tensor], targets: Sequence[SoftLabels], noise: Tensor) -> Tensor:
        """The loss of each image, times its weight.

        Args:
            prefix: one row, the question up to the image.
            images: (tokens, hidden) embeddings of each image.
            targets: each image's labels.
            noise: (images, labels) uniform numbers in 0..1, used to draw negatives.

        Returns:
            (images,) in nats.
        """
        if self.head is not None:
            states = torch.stack([rows[0] for rows in self._run(prefix, images, [()] * len(images))])
            return self._cross_entropy(self.head(states), targets)
        if not self.by_labels and all(len(labels) == 1 for labels in targets):
            # With one answer per image, the answer runs in the image's segment and nothing is forked.
            answers = [self.answers[label][0] for ((label, _),) in targets]
            states = torch.cat(self._run(prefix, images, [answer[:-1] for answer in answers]))
            owner, tokens = self._flatten(answers)
            logs = self._log_probs(states, torch.arange(len(owner), device=owner.device), tokens)
            weight = logs.new_tensor([weight for ((_, weight),) in targets])
            return -weight * torch.zeros_like(weight).index_add(0, owner, logs)
        losses: dict[int, Tensor] = {}
        loss_of = self._by_labels if self.by_labels else self._by_answers
        # A row that grows further must not end in padding, so images of one length go together.
        for group in grouped(len(image) for image in images):
            segment = torch.stack([self._with_answer(images[i], ()) for i in group])
            hidden, branch = grow(self.model.decoder, segment, fork_all(prefix, len(group)))
            loss = loss_of(hidden[:, -1], branch, [targets[i] for i in group], noise[group])
            losses |= zip(group, loss.unbind(), strict=True)
        return torch.stack([losses[i] for i in range(len(images))])

    def _with_answer(self, image: Tensor, answer: Sequence[int]) -> Tensor:
        """(tokens, hidden) an image's embeddings, the end of the question, and the given tokens of an answer."""
        ids = torch.tensor(answer, dtype=torch.long, device=self._after.device)
        text = self.model.embed(torch.cat([self._after, ids])[None])[0]
        return torch.cat([image.to(text.dtype), text])

    def _run(self, prefix: Branch, images: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Run each image and its answer (without the last token) in one padded segment.

        Returns:
            For each image the (1 + answer, hidden) states that predict the answer's tokens and the one after them.
        """
        rows = [self._with_answer(image, answer) for image, answer in zip(images, answers, strict=True)]
        segment = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden, _ = grow(self.model.decoder, segment, fork_all(prefix, len(rows)))
        sizes = ((len(row), len(answer)) for row, answer in zip(rows, answers, strict=True))
        return [hidden[i, length - answer - 1 : length] for i, (length, answer) in enumerate(sizes)]

    def _by_answers(self, last: Tensor, branch: Branch, targets: Sequence[SoftLabels], _: Tensor) -> Tensor:
        """(images,) loss from the answers of the images' own labels; `last` and `branch` as in `_answer_logs`."""
        rows = [i for i, labels in enumerate(targets) for _ in labels]
        answers = [self.answers[label][0] for labels in targets for label, _ in labels]
        logs = self._answer_logs(last, branch, rows, answers)
        weight = logs.new_tensor([weight for labels in targets for _, weight in labels])
        return torch.zeros_like(last[:, 0], dtype=logs.dtype).index_add(
            0, torch.tensor(rows, device=last.device), -weight * logs
        )

    def _by_labels(self, last: Tensor, branch: Branch, targets: Sequence[SoftLabels], noise: Tensor) -> Tensor:
        """(images,) loss from the probabilities of the images' labels among the labels they are compared with."""
        candidates = [
            (row, label, form)
            for row, labels in enumerate(self._compared(last, targets, noise))
            for label in labels
            for form in range(len(self.answers[label]))
        ]
        answers = [self.answers[label][form] for _, label, form in candidates]
        logs = self._answer_logs(last, branch, [row for row, _, _ in candidates], answers)
        shape = len(targets), len(self.answers), max(map(len, self.answers))
        index = tuple(torch.tensor(candidates, device=logs.device).T)
        scores = logs.new_full(shape, float("-inf")).index_put(index, logs)
        return self._cross_entropy(scores.logsumexp(2), targets)  # synonyms' probabilities add up

    @torch.no_grad()
    def _compared(self, last: Tensor, targets: Sequence[SoftLabels], noise: Tensor) -> list[list[int]]:
        """The labels that each image is compared with: its own, and all others or `negatives` of them.

        Negatives are drawn without replacement, with the probability of their first token, which is known before any
        answer is run (the largest sums of log-probability and Gumbel noise; Kool et al., 1903.06059).
        """
        if self.negatives is None:
            return [list(range(len(self.answers)))] * len(targets)
        first_tokens = torch.tensor([forms[0][0] for forms in self.answers], device=last.device)
        keys = self.model.logits(last).log_softmax(1)[:, first_tokens] - (-noise.to(last.device).log()).log()
        positives = [[label for label, _ in labels] for labels in targets]
        for row, labels in enumerate(positives):
            keys[row, labels] = float("-inf")
        negatives = keys.topk(self.negatives, 1).indices.tolist()
        return [sorted({*right, *wrong}) for right, wrong in zip(positives, negatives, strict=True)]

    def _cross_entropy(self, scores: Tensor, targets: Sequence[SoftLabels]) -> Tensor:
        """(images,) cross-entropy of (images, labels) scores with the targets. A score of -inf leaves a label out."""
        inside, smooth = scores > float("-inf"), self.options.label_smoothing
        target = torch.zeros_like(scores)
        for row, labels in enumerate(targets):
            for label, weight in labels:
                target[row, label] += weight
        uniform = target.sum(1, keepdim=True) * inside / inside.sum(1, keepdim=True)
        target = (1 - smooth) * target + smooth * uniform
        return -(target * scores.log_softmax(1).masked_fill(~inside, 0)).sum(1)

    def _answer_logs(
        self, last: Tensor, branch: Branch, rows: Sequence[int], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """Log-probabilities of answers, run on forks of the images' pasts.

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
        longest = max(2, longest)  # the conv layers' kernel for single tokens passes no gradient
        padded = torch.tensor([[*a[:-1], *[0] * (longest - len(a) + 1)] for a in answers], device=last.device)
        out, _ = grow(self.model.decoder, self.model.embed(padded), fork(branch, row))
        owner, tokens = self._flatten([answer[1:] for answer in answers])
        step = torch.tensor([j for answer in answers for j in range(len(answer) - 1)], device=last.device)
        rest = self._log_probs(out[owner, step], torch.arange(len(owner), device=last.device), tokens)
        return first.index_add(0, owner, rest)

    def _log_probs(self, states: Tensor, which: Tensor, tokens: Tensor) -> Tensor:
        """(tokens,) log-probability of each token from state `which`; smoothed if the objective is `tokens`."""
        logs = self.model.logits(states).log_softmax(-1)
        chosen, smooth = logs[which, tokens], 0.0 if self.by_labels else self.options.label_smoothing
        return (1 - smooth) * chosen + smooth * logs.mean(-1)[which] if smooth else chosen

    def _flatten(self, answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Concatenated answers: for each token, the index of its answer and the token id."""
        owner = [i for i, answer in enumerate(answers) for _ in answer]
        tokens = [token for answer in answers for token in answer]
        both = torch.tensor([owner, tokens], device=self._after.device)
        return both[0], both[1]
