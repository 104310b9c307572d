"""Training with several processes on one machine: `torchrun --standalone -m -- lensmith train ...`.

Accelerate sets up the process group and exchanges Python objects. Each process handles a part of every batch, and the
gradients are summed once per step, so a step equals that of a single process. There are two exceptions: dropout, and
mixing of batches with images of several sizes, since an image is only mixed with one of the same process. Without
torchrun there is a single process, and all of these operations do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Processes:
    """This process: number `rank` of `count`. Only the `main` process, rank 0, writes the run folder and messages."""

    def __init__(self) -> None:
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.cuda.is_available())
            self.count, self.rank = self._state.num_processes, self._state.process_index
        self.main = self.rank == 0

    def part_of(self, n: int) -> slice:
        """The slice of n ordered items that this process handles. It starts at an even index, so that pairs of
        neighbouring items, which may be mixed, stay together."""
        bounds = [2 * round(i * n / (2 * self.count)) for i in range(self.count)] + [n]
        return slice(bounds[self.rank], bounds[self.rank + 1])

    def sum_gradients(self, weights: Sequence[nn.Parameter], more: Tensor) -> Tensor:
        """Sum the weights' gradients over the processes, in place, in one message.

        Args:
            more: a few numbers to be summed in the same message.

        Returns:
            The sum of `more`.
        """
        if self.count == 1:
            return more
        for weight in weights:  # a process without readable images has no gradients
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        grads = [cast(Tensor, weight.grad) for weight in weights]
        flat = torch.cat([more.float().to(grads[0].device), *(grad.float().flatten() for grad in grads)])
        flat = flat.to(self._state.device)  # the device that the process group communicates on
        torch.distributed.all_reduce(flat)
        first, *rest = flat.split([len(more), *(grad.numel() for grad in grads)])
        for grad, value in zip(grads, rest, strict=True):
            grad.copy_(value.view_as(grad))
        return cast(Tensor, first.to(more.device))

    def gather(self, items: Iterable[Any]) -> list[Any]:
        """The items of all processes, in one list."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        return list(gather_object(list(items)))

    def broadcast(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def close(self) -> None:
        """Wait for all processes, and leave the group; afterwards only the main process has work to do."""
        if self.count > 1:
            self._state.wait_for_everyone()
            self._state.destroy_process_group()
