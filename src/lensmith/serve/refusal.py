"""Requests that can't be answered, and why. A refusal never contains a path, an address in memory or a token."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Shape = TypeVar("Shape", bound=BaseModel)


class Refusal(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: one sentence for the caller.
        retry_after: seconds after which trying again makes sense.
        where: the path to the value in the request that is wrong.
    """

    def __init__(
        self, status: int, message: str, retry_after: int | None = None, where: tuple[str | int, ...] = ()
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after, self.where = status, message, retry_after, where

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def shaped(body: Any, shape: type[Shape]) -> Shape:
    """The body of a request as an object of a type. Raises `Refusal` (422) at the first value that doesn't fit."""
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = tuple(first["loc"])
        name = ".".join(map(str, where))
        message = f"{first['msg']}: {name[:200]}" if name else first["msg"]
        raise Refusal(422, f"{message}.", where=where) from None
