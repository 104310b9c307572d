"""The plain forward pass: transformers' own code and attention, one sequence at a time. The reference for all else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lensmith.engine.question import Prompt
from lensmith.models.attention import ATTENTION
from lensmith.models.base import Model

PATCH = 16


def log_probability(model: Model, prompt: Prompt, image: Tensor, answer: Sequence[int], smooth: float = 0.0) -> Tensor:
    """Log-probability of an answer to the question about a (3, H, W) image, with gradients. With `smooth`, minus the
    training loss with label smoothing over the vocabulary."""
    network: Any = model.network
    text = network.model.language_model
    text.set_attn_implementation("eager")
    rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
    image_ids = [network.config.image_token_id] * (rows * columns // 4)
    ids = torch.tensor([[*prompt.before, *image_ids, *prompt.after, *answer]])
    values = (image.float() / 255 - 0.5) / 0.5
    patches = values.view(3, rows, PATCH, columns, PATCH).permute(1, 3, 2, 4, 0).reshape(1, rows * columns, -1)
    logits = network(
        input_ids=ids,
        pixel_values=patches,
        spatial_shapes=torch.tensor([[rows, columns]]),
        pixel_attention_mask=torch.ones(1, rows * columns, dtype=torch.long),
    ).logits
    text.set_attn_implementation(ATTENTION)
    n = len(answer)
    return -torch.nn.functional.cross_entropy(
        logits[0, -n - 1 : -1], ids[0, -n:], reduction="sum", label_smoothing=smooth
    )
