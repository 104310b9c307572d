"""The label set as a token trie, searched exactly.

A label's score is the log-probability of its tokens and of the end token after them, so that "can" and "can opener"
are different answers. Log-probabilities only fall along a path, so a path's own is a bound on everything below it:
the search runs the most promising answers first and stops as soon as no label that was not scored can matter.

One step of the search runs one whole answer per image, forked from the image's past, and so learns the probability of
everything that leaves its path. Images whose search takes longer share the steps of those that are still going on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lensmith.engine.branches import Branch, fork, grow
from lensmith.errors import UserError

if TYPE_CHECKING:
    from lensmith.models.base import Model

MAX_ROWS = 2048
"""Answers of one decoder call: bounds the memory that forked pasts take."""
MAX_LOGITS = 1 << 27
"""Logits made at once on a GPU: half a gigabyte in float32."""
CHUNK = 256
"""Positions whose logits are made at once on a CPU, so that they are still in its cache when they are summed."""
BAND = math.log(10)
"""A step of the search runs all answers that may be a tenth as probable as the most promising one, or more: a sure
model runs one or two, and an unsure one takes few steps all the same."""
PADDING = 256
"""Tokens of padding that are worth another decoder call to save."""
NO_NUMBERS = "The model's scores are not numbers."
NO_NUMBERS_HINT = "Its weights may be damaged; or try model.dtype=float32."


class LabelTrie:
    """Token sequences of the labels' answers, merged where they begin alike.

    Answers are numbered in the order of their tokens, so that those below a node are a range. A node's children are a
    range of nodes. Node 0 is the root.

    Args:
        labels: the names of the classes.
        answers: for each label, the token sequences that say it: one, or several synonyms, whose probabilities add up.

    Raises:
        UserError: no labels, one that is said by no token, or two labels with the same tokens.
    """

    def __init__(self, labels: Sequence[str], answers: Sequence[Sequence[Sequence[int]]]) -> None:
        if not labels:
            raise UserError("There are no labels to choose from.", "Give at least one class.")
        owner: dict[tuple[int, ...], int] = {}
        for i, (label, sequences) in enumerate(zip(labels, answers, strict=True)):
            for sequence in map(tuple, sequences):
                if not sequence:
                    raise UserError(f"The label {label!r} is empty to the model.", "Rename it.")
                if owner.setdefault(sequence, i) != i:
                    other = labels[owner[sequence]]
                    raise UserError(
                        f"The labels {other!r} and {label!r} are the same to the model.",
                        "Rename one, or say how each is called with question.spoken.",
                    )
        ordered = sorted(owner)
        for shorter, longer in pairwise(ordered):
            if longer[: len(shorter)] == shorter:
                names = labels[owner[shorter]], labels[owner[longer]]
                raise UserError(f"The answer for {names[0]!r} is the beginning of the one for {names[1]!r}.")
        depth = max(map(len, ordered))
        self.labels = tuple(labels)
        self.length = torch.tensor([len(s) for s in ordered])
        """(answers,) tokens of each, the end token included."""
        self.owner = torch.tensor([owner[s] for s in ordered])
        """(answers,) index of the label that each says."""
        self.tokens = torch.tensor([[*s, *[0] * (depth - len(s))] for s in ordered])
        """(answers, depth) token ids, padded with 0."""
        self.path = torch.zeros(len(ordered), depth + 1, dtype=torch.long)
        """(answers, depth + 1) the node after each number of tokens, padded with 0."""
        token, ranges, first, count = [0], [range(len(ordered))], [0], [0]
        level = [0]
        for d in range(depth):
            below = []
            for node in level:
                first[node] = len(token)
                inner = (i for i in ranges[node] if len(ordered[i]) > d)
                for said, group in groupby(inner, key=lambda i: ordered[i][d]):
                    members = list(group)
                    self.path[members, d + 1] = len(token)
                    below.append(len(token))
                    token.append(said)
                    ranges.append(range(members[0], members[-1] + 1))
                    first.append(0)
                    count.append(0)
                    count[node] += 1
            level = below
        self.token = torch.tensor(token)
        """(nodes,) token that leads to each."""
        self.first, self.count = torch.tensor(first), torch.tensor(count)
        """(nodes,) first child, and number of children: 0 where an answer ends."""
        self.low = torch.tensor([r.start for r in ranges])
        self.high = torch.tensor([r.stop for r in ranges])
        """(nodes,) range of the answers at or below each."""

    @cached_property
    def plain(self) -> bool:
        """Whether every label has one answer."""
        return len(self.owner) == len(self.labels)

    def to(self, device: torch.device) -> LabelTrie:
        """The trie with its tensors on a device."""
        if self.token.device != device:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value.to(device))
        return self


@dataclass(frozen=True)
class Scores:
    """What a search found for each of `rows` images."""

    bound: Tensor
    """(rows, labels) log-probability of each label in float32, or, where it was not scored, what it can't exceed."""
    exact: Tensor
    """(rows, labels) whether it was scored."""
    low: Tensor
    """(rows,) log of what all labels' probabilities add up to, at least."""
    high: Tensor
    """(rows,) the same, at most."""

    @classmethod
    def of_all(cls, scores: Tensor) -> Scores:
        """From all labels' (rows, labels) log-probabilities.

        Raises:
            UserError: they are no numbers.
        """
        if scores.isnan().any():
            raise UserError(NO_NUMBERS, NO_NUMBERS_HINT)
        total = scores.logsumexp(1)
        return cls(scores, torch.ones_like(scores, dtype=torch.bool), total, total)

    def probabilities(self) -> tuple[Tensor, Tensor]:
        """(rows, labels) bounds, lower and upper, on each label's probability among the labels."""
        low = torch.where(self.exact, (self.bound - self.high[:, None]).exp(), 0)
        return low, (self.bound - self.low[:, None]).exp().clamp(max=1)

    @property
    def complete(self) -> bool:
        """Whether every label of every image was scored."""
        return bool(self.exact.all())


@torch.no_grad()
def search(
    model: Model,
    trie: LabelTrie,
    hidden: Tensor,
    branch: Branch,
    top: int | None = 1,
    tolerance: float = 1.0,
) -> Scores:
    """The best labels of each image, exactly.

    Args:
        model: whose decoder made the branch.
        trie: the labels.
        hidden: (rows, hidden) last hidden state of each image: the one that predicts the answer's first token.
        branch: each image's past, up to and with that state; it is left as it was.
        top: how many of the best labels must be known exactly, in their order; None scores all.
        tolerance: the best label's probability must be known within this, in 0..1.

    Returns:
        The scores; the `top` largest bounds of each row are exact.

    Raises:
        UserError: the model gives no numbers.
    """
    state = _Search(model, trie.to(hidden.device), len(hidden))
    going = torch.arange(len(hidden), device=hidden.device)
    state.learn(going, torch.zeros_like(going), 0, hidden[:, None])
    while len(going := going[~state.finished(going, top, tolerance)]):
        enough = top if top and tolerance >= 1 else None
        for image, answer in state.choose(going, BAND if top else math.inf, enough):
            said = int(state.trie.length[answer].max()) - 1
            # Padding at the end of a row is never looked at, for nothing grows on these branches.
            out, _ = grow(model.decoder, model.embed(trie.tokens[answer, :said]), fork(branch, image))
            state.learn(image, answer, 1, out)
    return state.scores()


class _Search:
    """What is known of each image's answers: each one's deepest node that was reached, and the path's log-probability.

    An answer is exact once that node is its own end; before, the log-probability bounds it and all answers below the
    same node together.
    """

    def __init__(self, model: Model, trie: LabelTrie, rows: int) -> None:
        self.model, self.trie = model, trie
        self.vocabulary = int(model.network.get_output_embeddings().weight.shape[0])
        device, answers = trie.token.device, len(trie.owner)
        self.bound = torch.zeros(rows, answers, device=device)
        self.node = torch.zeros(rows, answers, dtype=torch.long, device=device)

    def exact(self, rows: Tensor) -> Tensor:
        """(rows, answers) whether each is known."""
        return self.trie.count[self.node[rows]] == 0

    def ahead(self, rows: Tensor) -> Tensor:
        """(rows, answers) true for one answer of each node that is still to be run."""
        node = self.node[rows]
        leads = self.trie.low[node] == torch.arange(node.shape[1], device=node.device)
        return leads & (self.trie.count[node] > 0)

    def learn(self, image: Tensor, answer: Tensor, start: int, hidden: Tensor) -> None:
        """Take in the children of the nodes on some answers' paths, from the deepest that was known.

        Args:
            image: (n,) the image of each row.
            answer: (n,) the answer that was run on it.
            start: the first hidden states are those after so many of the answer's tokens.
            hidden: (n, tokens, hidden) last hidden states, each of which predicts the next token.
        """
        trie, steps = self.trie, start + torch.arange(hidden.shape[1], device=hidden.device)
        depth = (trie.path[answer] == self.node[image, answer][:, None]).int().argmax(1)
        new = (steps >= depth[:, None]) & (steps < trie.length[answer][:, None])
        row, step = new.nonzero(as_tuple=True)
        states, step = hidden[row, step], step + start
        parent, token = trie.path[answer[row], step], trie.tokens[answer[row], step]
        pair, child = _ranges(trie.first[parent], trie.count[parent])
        # Log-probabilities of the answer's own next tokens, and of all children.
        own, known = torch.zeros(new.shape, device=hidden.device), torch.empty(len(pair), device=hidden.device)
        ends = trie.count[parent].cumsum(0).tolist()
        limit = CHUNK if hidden.device.type == "cpu" else MAX_LOGITS // self.vocabulary
        said, first = [], 0
        for part in torch.arange(len(row), device=hidden.device).split(limit):
            logits = self.model.logits(states[part])  # (part, vocabulary)
            total, last = logits.logsumexp(-1), ends[part[-1]]
            here = pair[first:last]
            said.append(logits.gather(1, token[part][:, None])[:, 0] - total)
            known[first:last] = logits[here - part[0], trie.token[child[first:last]]] - total[here - part[0]]
            first = last
        own[new] = torch.cat(said)
        # What the paths' log-probabilities were up to each step.
        before = (own.cumsum(1) - own)[new] + self.bound[image, answer][row]
        reached = before[pair] + known
        if reached.isnan().any():
            raise UserError(NO_NUMBERS, NO_NUMBERS_HINT)
        # The path's own inner nodes are gone through; all else that leaves it, and its end, is new knowledge.
        passed = (child == trie.path[answer[row], step + 1][pair]) & (trie.count[child] > 0) & (step[pair] < steps[-1])
        pair, child, reached = pair[~passed], child[~passed], reached[~passed]
        which, told = _ranges(trie.low[child], trie.high[child] - trie.low[child])
        place = image[row[pair]][which], told
        self.bound[place], self.node[place] = reached[which], child[which]

    def finished(self, rows: Tensor, top: int | None, tolerance: float) -> Tensor:
        """(rows,) whether enough is known of each image."""
        if top is None:
            return self.exact(rows).all(1)
        found = self.scores(rows)
        best = found.bound.topk(min(top, found.bound.shape[1]), 1).indices
        low, high = (p.gather(1, best[:, :1])[:, 0] for p in found.probabilities())
        return found.exact.gather(1, best).all(1) & (high - low <= 2 * tolerance)

    def choose(self, rows: Tensor, band: float, enough: int | None) -> list[tuple[Tensor, Tensor]]:
        """The answers to run next: (images, answers) pairs, one for each decoder call.

        Args:
            rows: the images that are still searched.
            band: run what is within this of an image's most probable answer, in nats.
            enough: leave out what can't be among so many best labels; None leaves out nothing.
        """
        trie, ahead = self.trie, self.ahead(rows)
        promise = self.bound[rows].masked_fill(~ahead, float("-inf"))
        if enough and trie.plain:
            known = self.bound[rows].masked_fill(~self.exact(rows), float("-inf"))
            ahead &= promise >= known.topk(min(enough, known.shape[1]), 1).values[:, -1:]
        ahead &= promise >= promise.max(1, keepdim=True).values - band
        row, answer = ahead.nonzero(as_tuple=True)
        # Rows are padded to the longest, so answers of like length go together.
        order = trie.length[answer].argsort(stable=True)
        row, answer, lengths = rows[row][order], answer[order], trie.length[answer[order]].tolist()
        cuts = [0]
        for i, length in enumerate(lengths):
            if i - cuts[-1] == MAX_ROWS or (i - cuts[-1]) * (length - lengths[i - 1]) > PADDING:
                cuts.append(i)
        sizes = [b - a for a, b in pairwise([*cuts, len(lengths)])]
        return list(zip(row.split(sizes), answer.split(sizes), strict=True))

    def scores(self, rows: Tensor | None = None) -> Scores:
        """What is known so far, by label."""
        rows = torch.arange(len(self.node), device=self.node.device) if rows is None else rows
        exact, bound, trie = self.exact(rows), self.bound[rows], self.trie
        # In double precision and relative to the largest, so that only what could never matter underflows.
        shift = bound.max(1, keepdim=True).values.double()
        part = (bound.double() - shift).exp()
        low = (part * exact).sum(1)
        high = low + (part * self.ahead(rows)).sum(1)
        if not trie.plain:
            sums = torch.zeros(len(rows), len(trie.labels), dtype=torch.double, device=part.device)
            bound = (sums.index_add(1, trie.owner, part).log() + shift).float()
            exact = sums.index_add(1, trie.owner, (~exact).double()) == 0
        else:
            order = trie.owner.argsort()
            bound, exact = bound[:, order], exact[:, order]
        return Scores(bound, exact, (low.log() + shift[:, 0]).float(), (high.log() + shift[:, 0]).float())


def _ranges(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Ranges written out one after another: which range each number is of, and the numbers."""
    which = torch.arange(len(start), device=start.device).repeat_interleave(count)
    return which, torch.arange(len(which), device=start.device) - (count.cumsum(0) - count - start)[which]
