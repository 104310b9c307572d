"""Token segments that share their past: run -> fork -> run.

A classifier's prompts are almost all the same, so a forward pass is a tree and not a list of sequences:

    shared prefix (once) --fork--> image + question end (once per image) --fork--> answers (one per label)

`grow` runs one segment on top of a branch, `fork` makes one row's past the past of several. Gradients flow through
both, so a loss computed this way is the loss of the plain forward pass, and so are its gradients; only the shared work
is done once. `cut` and `hand_on` let what grows on a branch go backwards in parts, and the branch itself once.

All rows of a segment have one length. A row may end in padding if nothing grows on it afterwards: a causal model's
earlier positions never see later ones, so no padding mask is needed anywhere.

The past that all rows have in common is kept once and never copied to the rows: `attend` looks at it with the queries
of all rows in one matrix product and at each row's own past in another, and joins the two softmaxes (as Juravsky et
al., Hydragen, 2402.05099, do). Conv layers keep a state of a few tokens, which is copied.
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
    """What each row has for itself."""
    rows: int
    length: int
    shared: Shared = field(default_factory=dict)
    """What all rows have in common; it comes before their own."""


def grow(language_model: nn.Module, embeddings: Tensor, branch: Branch | None = None) -> tuple[Tensor, Branch]:
    """Run one segment.

    Args:
        language_model: the decoder without its vocabulary projection, its attention set to `ATTENTION`.
        embeddings: (rows, tokens, hidden) input embeddings of the segment.
        branch: the past to go on from, with the same number of rows; it is used up (fork it first to keep it).
            None starts a new one.

    Returns:
        (rows, tokens, hidden) last hidden states, and the longer branch.
    """
    rows, tokens, _ = embeddings.shape
    config = cast(Any, language_model).config
    if config._attn_implementation != ATTENTION:
        raise ValueError(f"The decoder's attention is {config._attn_implementation!r}, not {ATTENTION!r}.")
    if branch is None:
        branch = Branch(DynamicCache(config=config), rows, 0)
    if branch.rows != rows:
        raise ValueError(f"The segment has {rows} rows, the branch {branch.rows}: fork the branch first.")
    places = torch.arange(branch.length, branch.length + tokens, device=embeddings.device)[None]
    seen = shared_past.set(branch.shared)
    try:
        output = language_model(
            inputs_embeds=embeddings, position_ids=places, past_key_values=branch.cache, use_cache=True
        )
    finally:
        shared_past.reset(seen)
    return output.last_hidden_state, Branch(output.past_key_values, rows, branch.length + tokens, branch.shared)


def fork(branch: Branch, index: Tensor) -> Branch:
    """A new branch whose row i goes on from row `index[i]`; the old branch stays as it was.

    Args:
        branch: the past to fork.
        index: (new rows,) integer tensor; repeats make one row's past the past of several.
    """
    cache = copy.copy(branch.cache)
    cache.layers = [_fork_layer(layer, index) for layer in branch.cache.layers]
    return Branch(cache, len(index), branch.length, branch.shared)


def fork_all(branch: Branch, rows: int) -> Branch:
    """The one row of `branch`, forked to `rows` rows: what it has for itself becomes what they share."""
    if branch.rows != 1:
        raise ValueError(f"Only a branch of one row can be forked to all; this one has {branch.rows}.")
    shared, own = dict(branch.shared), copy.copy(branch.cache)
    own.layers = [copy.copy(layer) for layer in branch.cache.layers]
    for i, layer in enumerate(cast(list[Any], own.layers)):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or not keys.numel():
            continue
        before = shared.get(i)
        shared[i] = (torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)) if before else (keys, values)
        layer.keys, layer.values = keys.new_empty(0), values.new_empty(0)
    device = next(t.device for layer in branch.cache.layers for t in _tensors(layer))
    same = torch.zeros(rows, dtype=torch.long, device=device)
    return fork(Branch(own, 1, branch.length, shared), same)


def cut(branch: Branch) -> Branch:
    """A branch of the same values at which gradients stop: its tensors are leaves that gather them.

    What grows on it can be run and sent backwards in parts; `hand_on` then sends the sum through the branch's own
    graph, once.
    """
    floats = [t for t in _held(branch) if t.is_floating_point()]
    # Of a branch without gradients, all tensors gather them: it is run anew to send them on.
    anew = not any(t.requires_grad for t in floats)
    leaves = {id(t): t.detach().requires_grad_(anew or t.requires_grad) for t in floats}
    shared = {i: (leaves.get(id(k), k), leaves.get(id(v), v)) for i, (k, v) in branch.shared.items()}
    cache = copy.copy(branch.cache)
    cache.layers = [_copy_layer(layer, lambda t: leaves.get(id(t), t)) for layer in branch.cache.layers]
    return Branch(cache, branch.rows, branch.length, shared)


def hand_on(leaves: Branch, branch: Branch) -> None:
    """Send the gradients that a cut branch has gathered through the branch it was cut from, or one run anew."""
    pairs = zip(_held(leaves), _held(branch), strict=True)
    sent = [(t, leaf.grad) for leaf, t in pairs if leaf.grad is not None and t.requires_grad]
    torch.autograd.backward([t for t, _ in sent], [grad for _, grad in sent])


def _fork_layer(layer: Any, index: Tensor) -> Any:
    new = _copy_layer(layer, lambda t: t)
    keys = getattr(layer, "keys", None)
    if keys is None or keys.numel():  # what is shared has been taken out of it
        new.reorder_cache(index)
    return new


def _copy_layer(layer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of one layer's cache, its tensors changed; conv states live in containers, which are copied too."""

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


def _held(branch: Branch) -> list[Tensor]:
    """All tensors of a branch, in an order that depends on its shape alone."""
    return [t for pair in branch.shared.values() for t in pair] + [
        t for layer in branch.cache.layers for t in _tensors(layer)
    ]


def _tensors(layer: Any) -> list[Tensor]:
    held: list[Tensor] = []
    for value in vars(layer).values():
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        held += [item for item in items if isinstance(item, Tensor)]
    return held
