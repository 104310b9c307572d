"""This process among those that train together on one machine: `torchrun --standalone -m -- lensmith train ...`.

Accelerate makes the group and passes lists about. Each process has its own share of every batch and all gradients are
summed once a step, so the step is that of one process (dropout aside, and mixing where images of several sizes are in a
batch: partners are of one process). Without torchrun there is one process and nothing to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Processes:
    """`rank` of `count`; the `main` one, rank 0, writes the run folder and speaks."""

    def __init__(self) -> None:
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.cuda.is_available())
            self.count, self.rank = self._state.num_processes, self._state.process_index
        self.main = self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of n things in order; even numbers, so that pairs of a batch stay together."""
        bounds = [2 * round(i * n / (2 * self.count)) for i in range(self.count)] + [n]
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def sum_gradients(self, weights: Sequence[nn.Parameter], more: Tensor) -> Tensor:
        """Sum the weights' gradients over the processes, where they stand, and `more` (a few numbers), which is given
        back. One message for all."""
        if self.count == 1:
            return more
        for weight in weights:  # a process may have had nothing to learn from
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        grads = [cast(Tensor, weight.grad) for weight in weights]
        flat = torch.cat([more.float().to(grads[0].device), *(grad.float().flatten() for grad in grads)])
        flat = flat.to(self._state.device)  # where the group talks
        torch.distributed.all_reduce(flat)
        first, *rest = flat.split([len(more), *(grad.numel() for grad in grads)])
        for grad, value in zip(grads, rest, strict=True):
            grad.copy_(value.view_as(grad))
        return cast(Tensor, first.to(more.device))

    def all(self, items: Iterable[Any]) -> list[Any]:
        """The items of all processes."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        return list(gather_object(list(items)))

    def agree(self, value: Any) -> Any:
        """The main process's value, for all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def close(self) -> None:
        """Wait for all, and leave the group: what comes after is for the main process alone."""
        if self.count > 1:
            self._state.wait_for_everyone()
            self._state.destroy_process_group()
