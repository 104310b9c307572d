"""The vision tower's attention: every patch of a view attends to all patches of that view.

On a CPU there are two ways: plain matrix products, or PyTorch's fused kernel, which keeps no scores. Which is faster
depends on the number of patches, on the number format and on whether gradients are wanted (dev/LOG.md), so these
decide, and nothing that changes from run to run: a resumed run computes the same bits. `loading.load` selects it by
name.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

TOWER = "lensmith-tower"
"""The attention implementation of a vision tower on a CPU (`set_attn_implementation`)."""
LONG = 128
"""Patches from which the fused kernel is faster than plain products."""


def fused(tokens: int, dtype: torch.dtype, with_gradients: bool) -> bool:
    """Whether the fused kernel attends to this many patches.

    Its backward pass is the faster one for short segments in float32, and by far the slower one in bfloat16.
    """
    return tokens >= LONG or (with_gradients and dtype == torch.float32)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention among all patches of a view.

    Args:
        module: the attention layer.
        query: (views, heads, patches, size).
        key: (views, key heads, patches, size).
        value: like `key`.
        attention_mask: added to the scores. None in Lensmith, since all views of a batch have the same size;
            transformers' own forward pass has one.
        scaling: factor of the scores; size ** -0.5 if None.
        dropout: probability with which a weight is left out while training.

    Returns:
        (views, patches, heads, size), and None for the attention weights, which are not kept.
    """
    if not fused(query.shape[2], query.dtype, query.requires_grad):
        return attend_plainly(module, query, key, value, attention_mask, scaling, dropout)
    key, value = _for_all_heads(query, key, value)
    dropout = dropout if module.training else 0.0
    out = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def attend_plainly(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """As `attend`, by plain products, which can also be exported for any number of patches."""
    key, value = _for_all_heads(query, key, value)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


def _for_all_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for the heads that share them."""
    times = query.shape[1] // key.shape[1]
    return (key, value) if times == 1 else (key.repeat_interleave(times, 1), value.repeat_interleave(times, 1))


AttentionInterface.register(TOWER, attend)
AttentionMaskInterface.register(TOWER, eager_mask)
