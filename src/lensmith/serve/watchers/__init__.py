"""What looks on while a server answers: metrics, the log of requests, and the watch for drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lensmith.serve.service import Answer


class Watcher:
    """Is told of answers and batches, in the order in which they are made; must return soon and raise nothing."""

    def answered(self, answer: Answer) -> None:
        """A model has answered, before the request's options narrow the answer. Called in the server's thread."""

    def scored(self, model: str, size: int) -> None:
        """A batch of so many images has been scored. Called in a worker's thread."""

    def close(self) -> None:
        """Nothing more will be reported."""
