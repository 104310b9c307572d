"""The decoder's attention: one softmax over the past that all rows of a branch share and each row's local past.

The shared past is stored once. `attend` attends to it with the queries of all rows in one matrix product and to each
row's local past in another, and combines the two softmaxes (as Juravsky et al., Hydragen, 2402.05099, do). It is
registered with transformers under the name `ATTENTION`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "lensmith"
"""The attention implementation that `branches.grow` requires of a decoder (`set_attn_implementation`)."""

Shared = dict[int, tuple[Tensor, Tensor]]
"""Layer index -> (1, heads, tokens, size) keys and values that all rows of a branch share."""

# A context variable, because families pass their attention only the queries, keys and values of the rows themselves.
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
    """Causal attention to the shared past and to each row's local past, as one softmax over both.

    Args:
        module: the attention layer. Its `layer_idx` selects the shared keys and values.
        query: (rows, heads, tokens, size).
        key: (rows, key heads, local tokens, size); the last `tokens` of them belong to the queries' tokens.
        value: like `key`.
        scaling: factor of the scores.
        sliding_window: number of tokens that a token attends to, itself included; None for all.

    Returns:
        (rows, tokens, heads, size), and None for the attention weights, which are not kept.
    """
    rows, heads, tokens, size = query.shape
    groups, local_tokens = key.shape[1], key.shape[2]
    shared = shared_past.get({}).get(module.layer_idx)
    shared_tokens = shared[0].shape[2] if shared else 0
    if sliding_window and local_tokens + shared_tokens > sliding_window:
        return _windowed(query, key, value, shared, scaling, sliding_window), None
    if shared is None and tokens == local_tokens > 1:  # there is no past, so PyTorch's own kernel suffices
        key, value = for_all_heads(query, key, value)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
    query = query.reshape(rows, groups, heads // groups * tokens, size)
    local_scores = (query @ key.transpose(-1, -2) * scaling).float()
    if tokens > 1:
        later = torch.ones(tokens, local_tokens, dtype=torch.bool, device=local_scores.device)
        later = later.triu(local_tokens - tokens + 1)
        local_scores = local_scores.masked_fill(later.repeat(heads // groups, 1), float("-inf"))
    if shared is None:
        out = local_scores.softmax(-1).to(value.dtype) @ value
    else:
        keys, values = shared
        flat = query.transpose(0, 1).reshape(1, groups, -1, size)
        # Autocast doesn't reach the backward pass, so its operands are cast to one dtype here.
        device = flat.device.type
        autocast = device not in FUSED and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else flat.dtype
        shared_attention = _SharedAttention.apply(  # type: ignore[no-untyped-call]
            flat.to(dtype), keys.to(dtype), values.to(dtype), scaling
        )
        shared_out, log_sum = cast(tuple[Tensor, Tensor], shared_attention)
        shared_out, log_sum = (
            x.view(groups, rows, -1, x.shape[-1]).transpose(0, 1) for x in (shared_out, log_sum[..., None])
        )
        # Probability mass of the shared past.
        fraction = torch.sigmoid(log_sum - local_scores.logsumexp(-1, keepdim=True)).to(value.dtype)
        out = fraction * shared_out + (1 - fraction) * (local_scores.softmax(-1).to(value.dtype) @ value)
    return out.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None


def _windowed(
    query: Tensor, key: Tensor, value: Tensor, shared: tuple[Tensor, Tensor] | None, scaling: float, window: int
) -> Tensor:
    """Attention to the last `window` tokens only; arguments and result as for `attend`.

    A window is short, so the shared tokens in it are copied to the rows. A layer's cache keeps the last `window` - 1
    tokens. If tokens between the shared past and a row's cache were dropped, all of the shared past is outside the
    window.
    """
    rows, _, tokens, _ = query.shape
    if shared is not None:
        recent = (past[:, :, -window:].expand(rows, -1, -1, -1) for past in shared)
        key, value = (torch.cat([past.to(x.dtype), x], 2) for past, x in zip(recent, (key, value), strict=True))
    key, value = (x[:, :, -(tokens + window - 1) :] for x in (key, value))
    return _masked(query, key, value, scaling, window)


def attend_plainly(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None = None,
    scaling: float = 1.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As `attend`, in one product over the shared and the local past: slower, of operations that can be exported."""
    shared = shared_past.get({}).get(module.layer_idx)
    if shared is not None:
        rows = query.shape[0]
        key, value = (torch.cat([s.expand(rows, -1, -1, -1), x], 2) for s, x in zip(shared, (key, value), strict=True))
    return _masked(query, key, value, scaling, sliding_window), None


def _masked(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
    """Causal attention to the last `window` of the given keys, or to all; shapes as for `attend`."""
    tokens = query.shape[2]
    position = torch.arange(key.shape[2], device=key.device)
    query_position = position[-tokens:, None]
    mask = position <= query_position
    if window:
        mask = mask & (position > query_position - window)
    key, value = for_all_heads(query, key, value)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).contiguous()


def for_all_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values in the query's type, repeated for the heads that share them."""
    times = query.shape[1] // key.shape[1]
    key, value = key.to(query.dtype), value.to(query.dtype)
    return (key, value) if times == 1 else (key.repeat_interleave(times, 1), value.repeat_interleave(times, 1))


FUSED = {"cpu"}
"""Device types whose fused attention kernel returns the log-sums."""


class _SharedAttention(torch.autograd.Function):
    """Attention of all queries to all keys: (1, heads, queries, size), and each softmax's (1, heads, queries) log-sum.

    Scores are not stored: the backward pass recomputes them, one block of queries at a time (Dao et al.,
    FlashAttention, 2205.14135). PyTorch's own kernels pass no gradient through the log-sums.
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
        grad_out, grad_total = grads
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))
        # The gradient of a softmax subtracts its mean; that of its log-sum is the softmax itself.
        offset = grad_total - (grad_out * out).sum(-1, dtype=torch.float32)
        blocks = (x.split(_block(query, key), 2) for x in (query, grad_query, grad_out, total, offset))
        for q, grad_q, g, t, o in zip(*blocks, strict=True):
            probability = ((q @ key.transpose(-1, -2)).float() * ctx.scaling - t[..., None]).exp_()
            if ctx.needs_input_grad[2]:
                grad_value += probability.to(g.dtype).transpose(-1, -2) @ g
            grad_scores = probability.mul_((g @ value.transpose(-1, -2)).float().add_(o[..., None])).to(q.dtype)
            grad_q.copy_(grad_scores @ key * ctx.scaling)
            if ctx.needs_input_grad[1]:
                grad_key += grad_scores.transpose(-1, -2) @ q * ctx.scaling
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None


def _block(query: Tensor, key: Tensor) -> int:
    """Queries whose scores are computed at once: 4 MB of scores on a CPU, which fit its cache, or 256 MB on a GPU."""
    limit = 1 << (20 if query.device.type == "cpu" else 26)
    return max(1, limit // (query.shape[1] * key.shape[2]))


AttentionInterface.register(ATTENTION, attend)
