"""Token segments that share their past: run -> fork -> run.

The prompts of a classifier are almost identical. A forward pass is therefore a tree, not a list of sequences:

    shared prefix (once) --fork--> image + end of the question (once per image) --fork--> answers (one per label)

`grow` runs one segment on top of a branch. `fork` makes one row's past the past of several rows. Gradients flow through
both, so the loss and its gradients equal those of the plain forward pass; only the shared work is done once. `cut` and
`hand_on` split the backward pass: the segments that grew on a branch run backwards one by one, the branch itself once.

All rows of a segment have the same length. A row may end in padding if nothing grows on it afterwards: in a causal
model, earlier positions never attend to later ones, so no padding mask is needed.

The past that all rows have in common is stored once and never copied to the rows. Attention to it takes the queries of
all rows in one matrix product; see `models.attention`. Conv layers keep a state of a few tokens, which is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from lensmith.models.attention import ATTENTION, Shared, shared_past


@dataclass
class Branch:
    """The past of `rows` token sequences of `length` tokens each: keys and values, and conv states."""

    cache: Cache
    """The local past: what each row stores separately."""
    rows: int
    length: int
    shared: Shared = field(default_factory=dict)
    """The past that all rows have in common. It comes before the local past."""


def grow(language_model: nn.Module, embeddings: Tensor, branch: Branch | None = None) -> tuple[Tensor, Branch]:
    """Run one segment.

    Args:
        language_model: the decoder without its vocabulary projection, its attention set to `ATTENTION`.
        embeddings: (rows, tokens, hidden) input embeddings of the segment.
        branch: the past to continue, with the same number of rows. It is consumed: fork it first to keep it.
            None starts a new branch.

    Returns:
        (rows, tokens, hidden) last hidden states, and the extended branch.

    Raises:
        ValueError: the decoder uses another attention, or the branch has another number of rows.
    """
    rows, tokens, _ = embeddings.shape
    config = cast(Any, language_model).config
    if config._attn_implementation != ATTENTION:
        raise ValueError(f"The decoder's attention is {config._attn_implementation!r}, not {ATTENTION!r}.")
    if branch is None:
        branch = Branch(DynamicCache(config=config), rows, 0)
    if branch.rows != rows:
        raise ValueError(f"The segment has {rows} rows, but the branch has {branch.rows}. Fork the branch first.")
    positions = torch.arange(branch.length, branch.length + tokens, device=embeddings.device)[None]
    token = shared_past.set(branch.shared)
    try:
        output = language_model(
            inputs_embeds=embeddings, position_ids=positions, past_key_values=branch.cache, use_cache=True
        )
    finally:
        shared_past.reset(token)
    return output.last_hidden_state, Branch(output.past_key_values, rows, branch.length + tokens, branch.shared)


def fork(branch: Branch, index: Tensor) -> Branch:
    """A new branch whose row i continues row `index[i]`. The old branch is unchanged.

    Args:
        branch: the past to fork.
        index: (new rows,) integer tensor. A repeated index makes one row's past the past of several.
    """
    cache = copy.copy(branch.cache)
    cache.layers = [_fork_layer(layer, index) for layer in branch.cache.layers]
    return Branch(cache, index.shape[0], branch.length, branch.shared)


def fork_all(branch: Branch, rows: int) -> Branch:
    """Fork a branch of one row into `rows` rows. Its local past becomes part of the shared past.

    Raises:
        ValueError: the branch has more than one row.
    """
    if branch.rows != 1:
        raise ValueError(f"Only a branch of one row can be forked to all; this one has {branch.rows}.")
    shared, local = dict(branch.shared), copy.copy(branch.cache)
    local.layers = [copy.copy(layer) for layer in branch.cache.layers]
    for i, layer in enumerate(cast(list[Any], local.layers)):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or not keys.numel():
            continue
        if i in shared:
            shared_keys, shared_values = shared[i]
            shared[i] = torch.cat([shared_keys, keys], 2), torch.cat([shared_values, values], 2)
        else:
            shared[i] = keys, values
        layer.keys, layer.values = keys.new_empty(0), values.new_empty(0)
    device = next(t.device for layer in branch.cache.layers for t in _layer_tensors(layer))
    row_zero = torch.zeros(rows, dtype=torch.long, device=device)
    return fork(Branch(local, 1, branch.length, shared), row_zero)


def cut(branch: Branch) -> Branch:
    """A copy of the branch at which gradients stop: its tensors are leaves that accumulate them.

    Segments that grow on the copy can be run forwards and backwards one by one. `hand_on` then sends the accumulated
    gradients through the original branch's graph, once.
    """
    floats = [t for t in _tensors(branch) if t.is_floating_point()]
    # If the branch was computed without gradients, all of its tensors accumulate them: the caller runs it a second
    # time, with gradients, before `hand_on`.
    run_twice = not any(t.requires_grad for t in floats)
    leaves = {id(t): t.detach().requires_grad_(run_twice or t.requires_grad) for t in floats}
    return copied(branch, lambda t: leaves.get(id(t), t))


def copied(branch: Branch, change: Callable[[Tensor], Tensor]) -> Branch:
    """A copy of the branch with `change` applied to its tensors."""
    shared = {i: (change(k), change(v)) for i, (k, v) in branch.shared.items()}
    cache = copy.copy(branch.cache)
    cache.layers = [_copy_layer(layer, change) for layer in branch.cache.layers]
    return Branch(cache, branch.rows, branch.length, shared)


def hand_on(leaves: Branch, branch: Branch) -> None:
    """Backpropagate the gradients accumulated by a cut branch.

    Args:
        leaves: what `cut` returned.
        branch: the branch that was cut, or the same one computed a second time with gradients.
    """
    pairs = zip(_tensors(leaves), _tensors(branch), strict=True)
    sent = [(t, leaf.grad) for leaf, t in pairs if leaf.grad is not None and t.requires_grad]
    torch.autograd.backward([t for t, _ in sent], [grad for _, grad in sent])


def _fork_layer(layer: Any, index: Tensor) -> Any:
    new = _copy_layer(layer, lambda t: t)
    keys = getattr(layer, "keys", None)
    if keys is None or keys.numel():  # `fork_all` leaves empty keys, which have no rows to reorder
        new.reorder_cache(index)
    return new


def _copy_layer(layer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of one layer's cache with `change` applied to its tensors, those inside dicts and lists (conv states)
    included."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    new = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(new, name, {key: changed(item) for key, item in value.items()})
        elif isinstance(value, list):
            setattr(new, name, [changed(item) for item in value])
        else:
            setattr(new, name, changed(value))
    return new


def _tensors(branch: Branch) -> list[Tensor]:
    """All tensors of a branch, in an order that depends only on its structure."""
    return [t for pair in branch.shared.values() for t in pair] + [
        t for layer in branch.cache.layers for t in _layer_tensors(layer)
    ]


def _layer_tensors(layer: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    for value in vars(layer).values():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        tensors += [item for item in items if isinstance(item, Tensor)]
    return tensors
