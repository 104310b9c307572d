"""What answers in the decoder's place: a linear layer on one of an image's vectors, or the training images most alike.

A class head that is trained with LoRA, a probe fitted on frozen features and nearest neighbours differ in how they come
about and in which vector they look at (`lensmith.vectors`), and in nothing else: each is one file beside the adapter,
and scores classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ANSWER = "decoder end"
"""The vector of a trained class head: the last hidden state that would begin the answer."""


class Head(nn.Module):
    """Scores classes by one vector of an image: (..., size) -> (..., labels) logits, in float32."""

    def __init__(self, labels: Sequence[str], feature: str) -> None:
        super().__init__()
        self.labels, self.feature = tuple(labels), feature

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        about = {"labels": json.dumps(self.labels), "feature": self.feature, "kind": type(self).__name__}
        save_file({name: t.detach().contiguous() for name, t in self.state_dict().items()}, path, about)


class ClassHead(Head):
    """A linear layer. It starts at zero, where all classes are equally probable."""

    def __init__(self, size: int, labels: Sequence[str], feature: str = ANSWER) -> None:
        super().__init__(labels, feature)
        self.weight = nn.Parameter(torch.zeros(len(labels), size))
        self.bias = nn.Parameter(torch.zeros(len(labels)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Not under autocast, so that close classes don't tie."""
        with torch.autocast(vectors.device.type, enabled=False):
            return nn.functional.linear(vectors.float(), self.weight, self.bias)


class Neighbours(Head):
    """The votes of the k training images whose vectors point most nearly the same way.

    A vote weighs exp(cosine / 0.07), as in Wu et al. (1805.01978); one more vote, of the weight of the nearest, is
    spread evenly, so that no class is impossible.

    Args:
        centre, spread: (size,) mean and standard deviation of the training images' vectors, by which they are scaled:
            else the few values of a decoder's states that are very large would decide alone.
        keys: (images, size) their directions, of length 1.
        owners: (images,) the number of each one's class.
    """

    TEMPERATURE = 0.07
    centre: Tensor
    spread: Tensor
    keys: Tensor
    owners: Tensor
    k: Tensor

    def __init__(
        self,
        centre: Tensor,
        spread: Tensor,
        keys: Tensor,
        owners: Tensor,
        k: int,
        labels: Sequence[str],
        feature: str,
    ) -> None:
        super().__init__(labels, feature)
        buffers = {"centre": centre, "spread": spread, "keys": keys, "owners": owners, "k": torch.tensor(k)}
        for name, value in buffers.items():
            self.register_buffer(name, value)

    @staticmethod
    def direction(vectors: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        """Of vectors, as seen from the centre: (..., size) of length 1."""
        return nn.functional.normalize((vectors.float() - centre) / spread, dim=-1)

    def forward(self, vectors: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            alike = self.direction(vectors, self.centre, self.spread) @ self.keys.float().T
            nearest, which = alike.topk(min(int(self.k), alike.shape[-1]), dim=-1)
            weights = ((nearest - nearest[..., :1]) / self.TEMPERATURE).exp()
            votes = torch.full((*vectors.shape[:-1], len(self.labels)), 1 / len(self.labels), device=vectors.device)
            return votes.scatter_add(-1, self.owners[which], weights).log()


def load_head(path: Path) -> Head:
    """Read what `Head.save` wrote. Raises ValueError, KeyError or RuntimeError if it is something else."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
    labels, feature, state = json.loads(about["labels"]), about.get("feature", ANSWER), load_file(path)
    head: Head
    if about.get("kind") == Neighbours.__name__:
        centre, spread, keys, owners, k = (state[name] for name in ("centre", "spread", "keys", "owners", "k"))
        head = Neighbours(centre, spread, keys, owners, int(k), labels, feature)
    else:
        head = ClassHead(state["weight"].shape[1], labels, feature)
        head.load_state_dict(state)
    return head.requires_grad_(False)
