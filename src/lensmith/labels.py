"""The label set as a token trie, scored exactly.

A label's score is the log-probability of its tokens and of the end token after them, so that "can" and "can opener"
are different answers. Labels that begin alike share their beginning's computation: each inner node of the trie runs
once per image, level by level, on branches forked from the image's own past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lensmith.branches import Branch, fork, grow
from lensmith.errors import UserError

if TYPE_CHECKING:
    from lensmith.models.family import Model


@dataclass
class Level:
    """The nodes at one depth: node i hangs on node `parent[i]` of the level above, by the token `token[i]`."""

    parent: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    """The label that ends here, or -1 where the path goes on."""


class LabelTrie:
    """Token sequences of the labels, merged where they begin alike.

    Raises:
        UserError: no labels, or two labels with the same tokens.
    """

    def __init__(self, labels: Sequence[str], sequences: Sequence[Sequence[int]]) -> None:
        if not labels:
            raise UserError("There are no labels to choose from.")
        self.labels = tuple(labels)
        self.levels: list[Level] = []
        # Paths to nodes of the level above, and where each stands among that level's inner nodes.
        places: dict[tuple[int, ...], int] = {(): 0}
        for depth in range(1, max(map(len, sequences)) + 1):
            level, inner = Level(), dict[tuple[int, ...], int]()
            ends: dict[tuple[int, ...], str] = {}
            for index, sequence in enumerate(sequences):
                path = tuple(sequence[:depth])
                if len(sequence) < depth or path in inner:
                    continue
                if path in ends:
                    raise UserError(f"The labels {ends[path]!r} and {labels[index]!r} are the same to the model.")
                level.parent.append(places[path[:-1]])
                level.token.append(path[-1])
                if len(sequence) == depth:
                    ends[path] = labels[index]
                    level.label.append(index)
                else:
                    inner[path] = len(inner)
                    level.label.append(-1)
            self.levels.append(level)
            places = inner

    @property
    def width(self) -> int:
        """The most inner nodes at one depth: how many rows one image needs at once."""
        return max(sum(label < 0 for label in level.label) for level in self.levels) or 1


def score_labels(model: Model, trie: LabelTrie, hidden: Tensor, branch: Branch) -> Tensor:
    """Log-probability of every label, exactly.

    Args:
        model: whose decoder made the branch.
        trie: the labels.
        hidden: (rows, hidden) last hidden state of each row: the one that predicts the answer's first token.
        branch: each row's past, up to and with that state.

    Returns:
        (rows, labels) log-probabilities in float32; their exponentials sum to at most 1 over the labels.
    """
    rows, device = len(hidden), hidden.device
    scores = torch.empty(rows, len(trie.labels), device=device)
    states, past = hidden[:, None], torch.zeros(rows, 1, device=device)  # (rows, inner nodes, ...) of the level above
    for level in trie.levels:
        parent, token = torch.tensor(level.parent, device=device), torch.tensor(level.token, device=device)
        label = torch.tensor(level.label, device=device)
        known = torch.log_softmax(model.logits(states), -1)
        reached = past[:, parent] + known[:, parent, token]
        scores[:, label[label >= 0]] = reached[:, label >= 0]
        inner = (label < 0).nonzero().view(-1)
        if len(inner) == 0:
            break
        nodes = states.shape[1]
        # Row r's node p stands at r * nodes + p in the branch of the level above.
        index = (torch.arange(rows, device=device)[:, None] * nodes + parent[inner]).view(-1)
        # The last level grows on a branch nobody needs again, but a fork is what gives each node its own past.
        branch = fork(branch, index)
        grown, branch = grow(model.decoder, model.embed(token[inner].repeat(rows)[:, None]), branch)
        states, past = grown.view(rows, len(inner), -1), reached[:, inner]
    return scores
