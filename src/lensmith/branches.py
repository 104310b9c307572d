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
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicCache

ATTENTION = "lensmith"
"""The attention implementation that a decoder must be set to (`set_attn_implementation`) to be grown on."""

Shared = dict[int, tuple[Tensor, Tensor]]
"""Layer -> (1, heads, tokens, size) keys and values that all rows of a branch see."""

# A model hands its attention queries, keys and values of its own rows and no more that is alike in every family.
_shared: ContextVar[Shared] = ContextVar("_shared")


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
    seen = _shared.set(branch.shared)
    try:
        output = language_model(
            inputs_embeds=embeddings, position_ids=places, past_key_values=branch.cache, use_cache=True
        )
    finally:
        _shared.reset(seen)
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


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None = None,
    scaling: float = 1.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention to what all rows share and to each row's own past, as one softmax over both.

    Args:
        module: the attention layer; its `layer_idx` finds what is shared.
        query: (rows, heads, tokens, size).
        key: (rows, key heads, own tokens, size); the last `tokens` of them are the queries' own.
        value: like `key`.
        scaling: of the scores.
        sliding_window: a token sees only so many, itself included; None sees all.

    Returns:
        (rows, tokens, heads, size), and None for the weights, which are not kept.
    """
    rows, heads, tokens, size = query.shape
    groups, own = key.shape[1], key.shape[2]
    shared = _shared.get({}).get(module.layer_idx)
    if sliding_window and own + (shared[0].shape[2] if shared else 0) > sliding_window:
        return _windowed(query, key, value, shared, scaling, sliding_window), None
    if shared is None and tokens == own > 1:  # nothing lies before, so PyTorch's own kernel has it all
        key, value = (x.to(query.dtype).repeat_interleave(heads // groups, 1) for x in (key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
    query = query.reshape(rows, groups, heads // groups * tokens, size)
    near = (query @ key.transpose(-1, -2) * scaling).float()
    if tokens > 1:
        later = torch.ones(tokens, own, dtype=torch.bool, device=near.device).triu(own - tokens + 1)
        near = near.masked_fill(later.repeat(heads // groups, 1), float("-inf"))
    if shared is None:
        out = near.softmax(-1).to(value.dtype) @ value
    else:
        keys, values = shared
        flat = query.transpose(0, 1).reshape(1, groups, -1, size)
        # Autocast does not reach the backward pass, so what meets there is of one type from the beginning.
        kind = flat.device.type
        dtype = torch.get_autocast_dtype(kind) if kind not in FUSED and torch.is_autocast_enabled(kind) else flat.dtype
        far = _Far.apply(flat.to(dtype), keys.to(dtype), values.to(dtype), scaling)  # type: ignore[no-untyped-call]
        seen, weight = cast(tuple[Tensor, Tensor], far)
        seen, weight = (x.view(groups, rows, -1, x.shape[-1]).transpose(0, 1) for x in (seen, weight[..., None]))
        share = torch.sigmoid(weight - near.logsumexp(-1, keepdim=True)).to(value.dtype)
        out = share * seen + (1 - share) * (near.softmax(-1).to(value.dtype) @ value)
    return out.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


def _windowed(
    query: Tensor, key: Tensor, value: Tensor, shared: tuple[Tensor, Tensor] | None, scaling: float, window: int
) -> Tensor:
    """Attention to the last tokens only; arguments and result as of `attend`.

    So few that what is shared is copied to the rows. A layer's cache keeps the last `window` - 1 tokens; should some
    be gone between those shared and a row's own, all shared ones are out of sight too.
    """
    rows, heads, tokens, _ = query.shape
    if shared is not None:
        near = (past[:, :, -window:].expand(rows, -1, -1, -1) for past in shared)
        key, value = (torch.cat([past.to(x.dtype), x], 2) for past, x in zip(near, (key, value), strict=True))
    key, value = (x[:, :, -(tokens + window - 1) :] for x in (key, value))
    place = torch.arange(key.shape[2], device=key.device)
    asked = place[-tokens:, None]
    seen = (place <= asked) & (place > asked - window)
    key, value = (x.to(query.dtype).repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
    return out.transpose(1, 2).contiguous()


FUSED = {"cpu"}
"""Devices whose fused attention gives the log-sums."""


class _Far(torch.autograd.Function):
    """Attention of all queries to all keys: (1, heads, queries, size), and each softmax's (1, heads, queries) log-sum.

    Scores are never kept: what the backward pass needs of them it makes again, a block of queries at a time (Dao et
    al., FlashAttention, 2205.14135), where PyTorch's own kernels pass no gradient through the log-sums.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
        if query.device.type in FUSED:
            out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
        else:
            outs, totals = [], []
            for q in query.split(_block(query, key), 2):
                with torch.autocast(query.device.type, enabled=False):
                    scores = (q @ key.transpose(-1, -2)).float() * scaling
                    outs.append(scores.softmax(-1).to(value.dtype) @ value)
                totals.append(scores.logsumexp(-1))
            out, total = torch.cat(outs, 2), torch.cat(totals, 2)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.scaling = scaling
        return out, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out, total = ctx.saved_tensors
        to_out, to_total = grads
        to_query = torch.empty_like(query)
        to_key, to_value = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))
        # A softmax's gradient less its mean, and that of its log-sum, which is the softmax.
        offset = to_total - (to_out * out).sum(-1, dtype=torch.float32)
        parts = (x.split(_block(query, key), 2) for x in (query, to_query, to_out, total, offset))
        for q, to_q, g, t, o in zip(*parts, strict=True):
            share = ((q @ key.transpose(-1, -2)).float() * ctx.scaling - t[..., None]).exp_()
            if ctx.needs_input_grad[2]:
                to_value += share.to(g.dtype).transpose(-1, -2) @ g
            to_scores = share.mul_((g @ value.transpose(-1, -2)).float().add_(o[..., None])).to(q.dtype)
            to_q.copy_(to_scores @ key * ctx.scaling)
            if ctx.needs_input_grad[1]:
                to_key += to_scores.transpose(-1, -2) @ q * ctx.scaling
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None


def _block(query: Tensor, key: Tensor) -> int:
    """Queries whose scores are made at once: 4 MB of them, which a processor keeps in its cache, or 256 on a GPU."""
    most = 1 << (20 if query.device.type == "cpu" else 26)
    return max(1, most // (query.shape[1] * key.shape[2]))


AttentionInterface.register(ATTENTION, attend)


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
