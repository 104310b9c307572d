"""Token segments that share their past: run -> fork -> run.

A classifier's prompts are almost all the same, so a forward pass is a tree and not a list of sequences:

    shared prefix (once) --fork--> image + question end (once per image) --fork--> answers (one per label)

`grow` runs one segment on top of a branch, `fork` copies a branch's past to several rows. Gradients flow through both,
so a loss computed this way is the loss of the plain forward pass, and so are its gradients; only the shared work is
done once. All rows of a segment have one length. A row may end in padding if nothing grows on it afterwards: a causal
model's earlier positions never see later ones, so no attention mask is needed anywhere.

Conv layers keep a state as well as attention layers. `reorder_cache` moves both kinds; `batch_repeat_interleave`
misses the conv layers and `crop` can't bring a conv state back, so a branch is forked and never cut.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache


@dataclass
class Branch:
    """The past of `rows` token sequences of `length` tokens each: keys and values, and conv states."""

    cache: Cache
    rows: int
    length: int


def grow(language_model: nn.Module, embeddings: Tensor, branch: Branch | None = None) -> tuple[Tensor, Branch]:
    """Run one segment.

    Args:
        language_model: the decoder without its vocabulary projection.
        embeddings: (rows, tokens, hidden) input embeddings of the segment.
        branch: the past to go on from, with the same number of rows; it is used up (fork it first to keep it).
            None starts a new one.

    Returns:
        (rows, tokens, hidden) last hidden states, and the longer branch.
    """
    rows, tokens, _ = embeddings.shape
    if branch is None:
        branch = Branch(DynamicCache(config=cast(Any, language_model).config), rows, 0)
    if branch.rows != rows:
        raise ValueError(f"The segment has {rows} rows, the branch {branch.rows}: fork the branch first.")
    output = language_model(inputs_embeds=embeddings, past_key_values=branch.cache, use_cache=True)
    return output.last_hidden_state, Branch(output.past_key_values, rows, branch.length + tokens)


def fork(branch: Branch, index: Tensor) -> Branch:
    """A new branch whose row i goes on from row `index[i]`; the old branch stays as it was.

    Args:
        branch: the past to fork.
        index: (new rows,) integer tensor; repeats make one row's past the past of several.
    """
    cache = copy.copy(branch.cache)
    cache.layers = [_fork_layer(layer, index) for layer in branch.cache.layers]
    return Branch(cache, len(index), branch.length)


def fork_all(branch: Branch, rows: int) -> Branch:
    """The one row of `branch`, forked to `rows` rows."""
    if branch.rows != 1:
        raise ValueError(f"Only a branch of one row can be forked to all; this one has {branch.rows}.")
    device = next(t.device for layer in branch.cache.layers for t in _tensors(layer))
    return fork(branch, torch.zeros(rows, dtype=torch.long, device=device))


def _fork_layer(layer: Any, index: Tensor) -> Any:
    new = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (dict, list)):  # conv states live in containers, which a shallow copy would share
            setattr(new, name, copy.copy(value))
    new.reorder_cache(index)
    return new


def _tensors(layer: Any) -> list[Tensor]:
    held: list[Tensor] = []
    for value in vars(layer).values():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        held += [item for item in items if isinstance(item, Tensor)]
    return held
