"""Products of the vision tower in eight bits, on a CPU (`model.quantize=int8`).

Weights are rounded once, with a scale for each output; inputs at each product, with one scale for the batch (dynamic
quantisation). Everything between the products stays as it is. The tower is frozen then.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lensmith.errors import UserError

LAYER = re.compile(r"\.\d+\.")
"""What is in the name of every module of a tower's layers, and not in that of its patch embedding."""


class Int8Linear(nn.Module):
    """A frozen linear layer whose weights are kept and multiplied in eight bits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zero = torch.zeros_like(scale, dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # the Python side of quantisation moves elsewhere
            rounded = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(rounded, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs) of the same type."""
        # Inputs in seven bits: sums of two products of eight would overflow where the processor adds them in 16.
        out: Tensor = torch.ops.quantized.linear_dynamic(x.float().contiguous(), self.packed, True)
        return out.to(x.dtype)

    def content(self) -> Iterator[Tensor]:
        """The tensors that the result depends on: (outputs, inputs) integers, (outputs,) scales, and any bias."""
        rounded, bias = torch.ops.quantized.linear_unpack(self.packed)
        yield from (rounded.int_repr(), rounded.q_per_channel_scales())
        if bias is not None:
            yield bias


def quantise_tower(network: Any, tower: str) -> None:
    """Replace the linear layers of a vision tower.

    Args:
        tower: prefix of the tower's modules' names.

    Raises:
        UserError: this build of PyTorch has no products in eight bits.
    """
    if torch.backends.quantized.engine == "none" or not hasattr(torch.ops.quantized, "linear_dynamic"):
        raise UserError("This build of PyTorch can't multiply in eight bits.", "Use model.quantize=none.")
    found = [
        (name, module)
        for name, module in network.named_modules()
        if name.startswith(f"{tower}.") and LAYER.search(name) and type(module) is nn.Linear
    ]
    for name, module in found:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, Int8Linear(module))


def in_eight_bits(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the contents of all layers in eight bits, which aren't parameters."""
    for name, module in network.named_modules():
        if isinstance(module, Int8Linear):
            for i, tensor in enumerate(module.content()):
                yield f"{name}.{i}", tensor
