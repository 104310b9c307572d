"""The vision tower's attention: every patch of a view attends to all patches of that view.

On a CPU there are two ways: plain matrix products, or PyTorch's fused kernel, which keeps no scores. Which is faster
depends on the number of patches, on the number format and on whether gradients are wanted (dev/LOG.md), so these
decide, and nothing that changes from run to run: a resumed run computes the same bits. `loading.load` selects it by
name.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from lensmith.models.attention import for_all_heads

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
    plainly: bool = False,
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
        plainly: by plain products, however many patches there are.

    Returns:
        (views, patches, heads, size), and None for the attention weights, which are not kept.
    """
    key, value = for_all_heads(query, key, value)
    dropout = dropout if module.training else 0.0
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not plainly and fused(query.shape[2], query.dtype, query.requires_grad):
        out = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
    else:
        scores = query @ key.transpose(-1, -2) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        out = F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout) @ value
    return out.transpose(1, 2).contiguous(), None


attend_plainly = partial(attend, plainly=True)
"""As `attend`, always by plain products, which can be exported for any number of patches."""
AttentionInterface.register(TOWER, attend)
AttentionMaskInterface.register(TOWER, eager_mask)
