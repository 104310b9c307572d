"""The label set as a token trie, searched exactly.

A label's score is the log-probability of its tokens and of the end token after them, so "can" and "can opener" are
different answers. Log-probabilities only fall along a path, so the log-probability of a path is an upper bound for
every answer below it. The search is best-first: it runs the answers with the highest bounds and stops as soon as no
unscored label can change the result.

One step of the search runs one or more complete answers per image, forked from the image's past. It thereby scores
every child of the nodes on those paths. Images that need more steps share decoder calls with each other.
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
"""Answers in one decoder call. Limits the memory of the forked pasts."""
MAX_LOGITS = 1 << 27
"""Logits computed at once on a GPU: half a gigabyte in float32."""
CHUNK = 256
"""Positions whose logits are computed at once on a CPU, so that they are still in its cache when they are summed."""
BAND = math.log(10)
"""In nats. A step of the search runs every answer whose bound is within a factor of ten of the best one's. A confident
model runs one or two, and an unconfident one still needs few steps."""
PADDING = 256
"""Padding tokens that justify another decoder call to avoid them."""
NAN_SCORES = "The model's scores are NaN."
NAN_HINT = "Its weights may be damaged. Try model.dtype=float32."


class LabelTrie:
    """Token sequences of the labels' answers, merged where they share a prefix.

    Answers are sorted by their tokens, so the answers below a node form a range. The children of a node form a range of
    nodes. Node 0 is the root.

    Args:
        labels: the names of the classes.
        answers: the token sequences of each label: one, or several if it has synonyms. Their probabilities add up.

    Raises:
        UserError: there are no labels, a label has no tokens, or two labels have the same tokens.
    """

    def __init__(self, labels: Sequence[str], answers: Sequence[Sequence[Sequence[int]]]) -> None:
        if not labels:
            raise UserError("There are no labels to choose from.", "Give at least one class.")
        label_of: dict[tuple[int, ...], int] = {}
        for i, (label, sequences) in enumerate(zip(labels, answers, strict=True)):
            for sequence in map(tuple, sequences):
                if not sequence:
                    raise UserError(f"The label {label!r} is empty to the model.", "Rename it.")
                if label_of.setdefault(sequence, i) != i:
                    other = labels[label_of[sequence]]
                    raise UserError(
                        f"The labels {other!r} and {label!r} are the same to the model.",
                        "Rename one of them, or set its name with question.names.",
                    )
        ordered = sorted(label_of)
        for shorter, longer in pairwise(ordered):
            if longer[: len(shorter)] == shorter:
                prefix, other = labels[label_of[shorter]], labels[label_of[longer]]
                raise UserError(f"The answer for {prefix!r} is the beginning of the one for {other!r}.")
        depth = max(map(len, ordered))
        self.labels = tuple(labels)
        self.lengths = torch.tensor([len(s) for s in ordered])
        """(answers,) number of tokens, the end token included."""
        self.label_of = torch.tensor([label_of[s] for s in ordered])
        """(answers,) index of the label."""
        self.tokens = torch.tensor([[*s, *[0] * (depth - len(s))] for s in ordered])
        """(answers, depth) token ids, padded with 0."""
        self.path = torch.zeros(len(ordered), depth + 1, dtype=torch.long)
        """(answers, depth + 1) node after each number of tokens, padded with 0."""
        node_token, ranges, first_child, child_count = [0], [range(len(ordered))], [0], [0]
        level = [0]
        for d in range(depth):
            below = []
            for node in level:
                first_child[node] = len(node_token)
                inner = (i for i in ranges[node] if len(ordered[i]) > d)
                for token, group in groupby(inner, key=lambda i: ordered[i][d]):
                    members = list(group)
                    self.path[members, d + 1] = len(node_token)
                    below.append(len(node_token))
                    node_token.append(token)
                    ranges.append(range(members[0], members[-1] + 1))
                    first_child.append(0)
                    child_count.append(0)
                    child_count[node] += 1
            level = below
        self.node_token = torch.tensor(node_token)
        """(nodes,) token that leads to each node."""
        self.first_child, self.child_count = torch.tensor(first_child), torch.tensor(child_count)
        """(nodes,) first child, and number of children: 0 where an answer ends."""
        self.start = torch.tensor([r.start for r in ranges])
        self.stop = torch.tensor([r.stop for r in ranges])
        """(nodes,) range of the answers at or below each node."""

    @cached_property
    def has_synonyms(self) -> bool:
        """Whether some label has more than one answer."""
        return len(self.label_of) != len(self.labels)

    def to(self, device: torch.device) -> LabelTrie:
        """Move the tensors to a device, in place, and return the trie."""
        if self.node_token.device != device:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value.to(device))
        return self


@dataclass(frozen=True)
class Scores:
    """The result of a search for `rows` images."""

    bound: Tensor
    """(rows, labels) log-probability of each label in float32 where `exact`; elsewhere an upper bound on it."""
    exact: Tensor
    """(rows, labels) whether the label was scored."""
    low: Tensor
    """(rows,) lower bound on the log of the sum of all labels' probabilities."""
    high: Tensor
    """(rows,) upper bound on the same."""

    @classmethod
    def of_all(cls, scores: Tensor) -> Scores:
        """From the (rows, labels) log-probabilities of all labels.

        Raises:
            UserError: a score is NaN.
        """
        if scores.isnan().any():
            raise UserError(NAN_SCORES, NAN_HINT)
        total = scores.logsumexp(1)
        return cls(scores, torch.ones_like(scores, dtype=torch.bool), total, total)

    def probabilities(self) -> tuple[Tensor, Tensor]:
        """(rows, labels) lower and upper bounds on each label's probability among the labels."""
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
    """Find the best labels of each image, exactly.

    Args:
        model: the model whose decoder computed the branch.
        trie: the labels.
        hidden: (rows, hidden) last hidden state of each image: the one that predicts the answer's first token.
        branch: each image's past, up to and including that state. It is unchanged.
        top: score only the top k labels exactly, in their order; None scores all.
        tolerance: the best label's probability must be known to within this, in 0..1.

    Returns:
        The scores. The `top` largest bounds of each row are exact.

    Raises:
        UserError: the model's scores are NaN.
    """
    state = _Search(model, trie.to(hidden.device), len(hidden))
    active = torch.arange(len(hidden), device=hidden.device)
    state.update(active, torch.zeros_like(active), 0, hidden[:, None])
    while len(active := active[~state.finished(active, top, tolerance)]):
        only_top = top if top and tolerance >= 1 else None
        for image, answer in state.choose(active, BAND if top else math.inf, only_top):
            length = int(state.trie.lengths[answer].max()) - 1
            # Rows may end in padding, because nothing grows on these branches.
            out, _ = grow(model.decoder, model.embed(trie.tokens[answer, :length]), fork(branch, image))
            state.update(image, answer, 1, out)
    return state.scores()


class _Search:
    """The state of the search: for each image and answer, the deepest node scored and the log-probability up to it.

    An answer is exact once that node is its end. Before that, the log-probability is an upper bound on the sum of the
    probabilities of all answers below the node.
    """

    def __init__(self, model: Model, trie: LabelTrie, rows: int) -> None:
        self.model, self.trie = model, trie
        self.vocabulary = int(model.network.get_output_embeddings().weight.shape[0])
        device, answers = trie.node_token.device, len(trie.label_of)
        self.bound = torch.zeros(rows, answers, device=device)
        self.node = torch.zeros(rows, answers, dtype=torch.long, device=device)

    def exact(self, rows: Tensor) -> Tensor:
        """(rows, answers) whether each answer is exact."""
        return self.trie.child_count[self.node[rows]] == 0

    def pending(self, rows: Tensor) -> Tensor:
        """(rows, answers) true for the first answer of each node whose answers are not exact yet."""
        node = self.node[rows]
        is_first = self.trie.start[node] == torch.arange(node.shape[1], device=node.device)
        return is_first & (self.trie.child_count[node] > 0)

    def update(self, image: Tensor, answer: Tensor, start: int, hidden: Tensor) -> None:
        """Score the children of the nodes on some answers' paths, from the deepest node scored so far.

        Args:
            image: (n,) the image of each row.
            answer: (n,) the answer that was run on it.
            start: number of the answer's tokens before the first hidden state.
            hidden: (n, tokens, hidden) last hidden states, each of which predicts the next token.
        """
        trie, steps = self.trie, start + torch.arange(hidden.shape[1], device=hidden.device)
        depth = (trie.path[answer] == self.node[image, answer][:, None]).int().argmax(1)
        new = (steps >= depth[:, None]) & (steps < trie.lengths[answer][:, None])
        row, step = new.nonzero(as_tuple=True)
        states, step = hidden[row, step], step + start
        parent, token = trie.path[answer[row], step], trie.tokens[answer[row], step]
        # One pair for each (state, child of its node).
        pair, child = _ranges(trie.first_child[parent], trie.child_count[parent])
        path_logs = torch.zeros(new.shape, device=hidden.device)
        child_logs = torch.empty(len(pair), device=hidden.device)
        ends = trie.child_count[parent].cumsum(0).tolist()
        limit = CHUNK if hidden.device.type == "cpu" else MAX_LOGITS // self.vocabulary
        next_logs, first = [], 0
        for chunk in torch.arange(len(row), device=hidden.device).split(limit):
            logits = self.model.logits(states[chunk])  # (chunk, vocabulary)
            total, last = logits.logsumexp(-1), ends[chunk[-1]]
            state = pair[first:last]
            next_logs.append(logits.gather(1, token[chunk][:, None])[:, 0] - total)
            child_logs[first:last] = (
                logits[state - chunk[0], trie.node_token[child[first:last]]] - total[state - chunk[0]]
            )
            first = last
        path_logs[new] = torch.cat(next_logs)
        # Log-probability of each path before each step.
        before = (path_logs.cumsum(1) - path_logs)[new] + self.bound[image, answer][row]
        reached = before[pair] + child_logs
        if reached.isnan().any():
            raise UserError(NAN_SCORES, NAN_HINT)
        # Skip the inner nodes of the path itself. All children off the path, and its end, are new.
        on_path = child == trie.path[answer[row], step + 1][pair]
        passed = on_path & (trie.child_count[child] > 0) & (step[pair] < steps[-1])
        pair, child, reached = pair[~passed], child[~passed], reached[~passed]
        which, below = _ranges(trie.start[child], trie.stop[child] - trie.start[child])
        index = image[row[pair]][which], below
        self.bound[index], self.node[index] = reached[which], child[which]

    def finished(self, rows: Tensor, top: int | None, tolerance: float) -> Tensor:
        """(rows,) whether each image meets the conditions of `search`."""
        if top is None:
            return self.exact(rows).all(1)
        scores = self.scores(rows)
        best = scores.bound.topk(min(top, scores.bound.shape[1]), 1).indices
        low, high = (p.gather(1, best[:, :1])[:, 0] for p in scores.probabilities())
        return scores.exact.gather(1, best).all(1) & (high - low <= 2 * tolerance)

    def choose(self, rows: Tensor, band: float, top: int | None) -> list[tuple[Tensor, Tensor]]:
        """The answers to run next: (images, answers) pairs, one for each decoder call.

        Args:
            rows: the images that are still searched.
            band: run the answers whose bound is within this of the image's highest pending one, in nats.
            top: leave out answers that can't be among the top k labels; None leaves out nothing.
        """
        trie, pending = self.trie, self.pending(rows)
        upper_bound = self.bound[rows].masked_fill(~pending, float("-inf"))
        if top and not trie.has_synonyms:
            exact = self.bound[rows].masked_fill(~self.exact(rows), float("-inf"))
            pending &= upper_bound >= exact.topk(min(top, exact.shape[1]), 1).values[:, -1:]
        pending &= upper_bound >= upper_bound.max(1, keepdim=True).values - band
        row, answer = pending.nonzero(as_tuple=True)
        # Rows are padded to the longest, so answers of similar length go together.
        order = trie.lengths[answer].argsort(stable=True)
        row, answer, lengths = rows[row][order], answer[order], trie.lengths[answer[order]].tolist()
        cuts = [0]
        for i, length in enumerate(lengths):
            if i - cuts[-1] == MAX_ROWS or (i - cuts[-1]) * (length - lengths[i - 1]) > PADDING:
                cuts.append(i)
        sizes = [b - a for a, b in pairwise([*cuts, len(lengths)])]
        return list(zip(row.split(sizes), answer.split(sizes), strict=True))

    def scores(self, rows: Tensor | None = None) -> Scores:
        """The current scores, by label."""
        rows = torch.arange(len(self.node), device=self.node.device) if rows is None else rows
        exact, bound, trie = self.exact(rows), self.bound[rows], self.trie
        # In double precision and relative to the largest, so that only negligible probabilities underflow.
        shift = bound.max(1, keepdim=True).values.double()
        relative = (bound.double() - shift).exp()
        low = (relative * exact).sum(1)
        high = low + (relative * self.pending(rows)).sum(1)
        if trie.has_synonyms:
            sums = torch.zeros(len(rows), len(trie.labels), dtype=torch.double, device=relative.device)
            bound = (sums.index_add(1, trie.label_of, relative).log() + shift).float()
            exact = sums.index_add(1, trie.label_of, (~exact).double()) == 0
        else:
            order = trie.label_of.argsort()
            bound, exact = bound[:, order], exact[:, order]
        return Scores(bound, exact, (low.log() + shift[:, 0]).float(), (high.log() + shift[:, 0]).float())


def _ranges(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenated ranges: for each number, the index of its range and the number itself."""
    which = torch.arange(len(start), device=start.device).repeat_interleave(count)
    return which, torch.arange(len(which), device=start.device) - (count.cumsum(0) - count - start)[which]
