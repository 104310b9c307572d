"""LoRA's layer with its three products in one operation.

PEFT's layer multiplies LoRA's part by its scale and adds it to the base's, each in a pass over the complete result, and
keeps both for the backward pass, which makes the same passes again. Here the second product of LoRA adds to the base's
result as it is computed, and the scale is applied to the narrow side; the input's gradient is summed in the same way.
Weights, names and files are PEFT's own.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class LoraLinear(Linear):  # type: ignore[misc]
    """PEFT's LoRA on a linear layer; see the module's text. Whatever isn't plain LoRA (DoRA, dropout, several adapters,
    merged weights, a quantised base) is left to PEFT."""

    def forward(self, x: Tensor, *args: Any, **named: Any) -> Tensor:
        """(..., inputs) -> (..., outputs), in the type in which the base layer answers."""
        base = self.base_layer
        if not self._plain or args or named:
            out: Tensor = super().forward(x, *args, **named)
            return out
        (name,) = self.active_adapters
        first, second = self.lora_A[name].weight, self.lora_B[name].weight
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.weight.dtype
        # Casts are made here, where they have gradients of their own, and not inside the operation.
        operands = (t.to(dtype) for t in (x, base.weight, first, second))
        bias = None if base.bias is None else base.bias.to(dtype)
        result: Tensor = _Sum.apply(*operands, bias, float(self.scaling[name]))  # type: ignore[no-untyped-call]
        return result

    @property
    def _plain(self) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or self.lora_variant:
            return False
        name = self.active_adapters[0]
        if name not in self.lora_A or self.lora_A[name].bias is not None or self.lora_B[name].bias is not None:
            return False
        dropout = self.lora_dropout[name]
        return type(self.base_layer) is nn.Linear and (isinstance(dropout, nn.Identity) or not self.training)


def speed_up(network: nn.Module) -> None:
    """Make every layer to which PEFT has added LoRA a `LoraLinear`. Layers of other types, such as those of a quantised
    base, are left as they are."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = LoraLinear


class _Sum(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T for inputs x (..., i), W (o, i), A (r, i) and B (o, r), all of one type."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = (flat @ first.T).mul_(scale)
        out = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        out.addmm_(narrow, second.T)
        ctx.save_for_backward(flat, weight, first, second, narrow)
        ctx.shape, ctx.scale = x.shape, scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, first, second, narrow = ctx.saved_tensors
        of_x, of_weight, of_first, of_second, of_bias, _ = ctx.needs_input_grad
        out = grads[0].reshape(-1, weight.shape[0])
        inner = (out @ second).mul_(ctx.scale)
        grad_x = (out @ weight).addmm_(inner, first).view(ctx.shape) if of_x else None
        return (
            grad_x,
            out.T @ flat if of_weight else None,
            inner.T @ flat if of_first else None,
            out.T @ narrow if of_second else None,
            out.sum(0) if of_bias else None,
            None,
        )
