"""Heads: classifiers that answer instead of the decoder, from one feature of an image.

A class head trained with LoRA, a probe fitted on frozen features and nearest neighbours differ only in how they are
made and in which feature they use (`lensmith.engine.features`). Each is one file beside the adapter, and each scores
classes.
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
"""The feature of a trained class head: the decoder's last hidden state before the answer."""


_ABOUT = "head"
"""The key of the metadata."""


class Head(nn.Module):
    """Scores classes from one feature of an image: (..., size) -> (..., labels) logits, in float32."""

    def __init__(self, labels: Sequence[str], feature: str) -> None:
        super().__init__()
        self.labels, self.feature = tuple(labels), feature

    @property
    def size(self) -> int:
        """The size of the feature that the head takes."""
        return int(next(iter(self.state_dict().values())).shape[-1])

    def save(self, path: Path) -> None:
        """Write the head as one safetensors file. Its metadata names the class ("kind"), labels and feature."""
        about = {"labels": self.labels, "feature": self.feature, "kind": type(self).__name__}
        # One key, because safetensors writes several in any order: equal heads must be equal files.
        metadata = {_ABOUT: json.dumps(about)}
        save_file({name: t.detach().contiguous() for name, t in self.state_dict().items()}, path, metadata)


class ClassHead(Head):
    """A linear layer. It starts at zero, where all classes are equally probable."""

    def __init__(self, size: int, labels: Sequence[str], feature: str = ANSWER) -> None:
        super().__init__(labels, feature)
        self.weight = nn.Parameter(torch.zeros(len(labels), size))
        self.bias = nn.Parameter(torch.zeros(len(labels)))

    def forward(self, features: Tensor) -> Tensor:
        """(..., size) -> (..., labels); not under autocast, so that close classes don't tie."""
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.linear(features.float(), self.weight, self.bias)


class Neighbours(Head):
    """k-nearest neighbours: the k training images whose features have the highest cosine similarity vote.

    The weight of a vote is exp(cosine / 0.07), as in Wu et al. (1805.01978). One more vote, with the weight of the
    nearest, is split evenly among the classes, so that no class is impossible.

    Args:
        centre, spread: (size,) mean and standard deviation of the training images' features, which are standardised by
            them. Otherwise the few very large values of a decoder's states would dominate.
        keys: (images, size) the standardised features, normalised to length 1.
        owners: (images,) index of each training image's class.
        k: number of neighbours.
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
        self._nearest = min(int(k), len(keys))  # a graph can't hold a number that it must read from a tensor

    @staticmethod
    def direction(features: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        """(..., size) features, standardised and normalised to length 1."""
        return nn.functional.normalize((features.float() - centre) / spread, dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """(..., size) -> (..., labels) logarithms of the votes' sums."""
        with torch.autocast(features.device.type, enabled=False):
            cosines = self.direction(features, self.centre, self.spread) @ self.keys.float().T
            nearest, which = cosines.topk(self._nearest, dim=-1)
            weights = ((nearest - nearest[..., :1]) / self.TEMPERATURE).exp()
            votes = torch.full((*features.shape[:-1], len(self.labels)), 1 / len(self.labels), device=features.device)
            return votes.scatter_add(-1, self.owners[which], weights).log()


def load_head(path: Path) -> Head:
    """Read what `Head.save` wrote.

    Raises:
        ValueError: its numbers don't fit its labels, or one is NaN or infinite.
        KeyError, RuntimeError: the file is something else.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    # Before version 0.2, each field had a key.
    about = (
        json.loads(metadata[_ABOUT]) if _ABOUT in metadata else metadata | {"labels": json.loads(metadata["labels"])}
    )
    labels, feature, state = about["labels"], about.get("feature", ANSWER), load_file(path)
    head: Head
    if about.get("kind") == Neighbours.__name__:
        centre, spread, keys, owners, k = (state[name] for name in ("centre", "spread", "keys", "owners", "k"))
        fits = len(owners) == len(keys) and bool(((owners >= 0) & (owners < len(labels))).all())
        head = Neighbours(centre, spread, keys, owners, int(k), labels, feature)
    else:
        fits = state["weight"].shape[0] == len(state["bias"]) == len(labels)
        head = ClassHead(state["weight"].shape[1], labels, feature)
    if not fits:
        raise ValueError(f"{path.name} has numbers for other classes than its {len(labels)} labels")
    if not all(value.isfinite().all() for value in state.values()):
        raise ValueError(f"{path.name} contains NaN or infinity")
    head.load_state_dict(state)
    return head.requires_grad_(False)
