"""Requests that can't be answered, and why. A refusal never contains a path, an address in memory or a token."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: one sentence for the caller.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
