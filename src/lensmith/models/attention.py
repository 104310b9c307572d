"""The decoder's attention: to what all rows of a branch share, kept once, and to each row's own past, as one softmax.

`attend` looks at what is shared with the queries of all rows in one matrix product and at each row's own past in
another, and joins the two softmaxes (as Juravsky et al., Hydragen, 2402.05099, do). It is registered with transformers
under the name `ATTENTION`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "lensmith"
"""The attention implementation that a decoder must be set to (`set_attn_implementation`) to be grown on."""

Shared = dict[int, tuple[Tensor, Tensor]]
"""Layer -> (1, heads, tokens, size) keys and values that all rows of a branch see."""

# A model hands its attention queries, keys and values of its own rows and no more that is alike in every family.
shared_past: ContextVar[Shared] = ContextVar("shared_past")


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
    shared = shared_past.get({}).get(module.layer_idx)
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
