"""Bodies that callers compress with zstd, as TypeSafe's client does."""

from __future__ import annotations

import io
import sys

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
"""The window is memory that the sender chooses: 8 MiB is what all decoders should have (RFC 8878)."""
SAID = {
    400: "The body isn't valid zstd.",
    413: "The body is too large when unpacked.",
    415: "Bodies may be packed with zstd, and in no other way.",
}


class Unpacking:
    """Replaces a compressed body by what it contains, if that isn't larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, or refuse it: 413 if it is too large, 415 if it is packed in another way."""
        headers = MutableHeaders(scope=scope) if scope["type"] == "http" else MutableHeaders()
        packing = headers.get("content-encoding", "identity").casefold()
        if packing == "identity":
            await self.app(scope, receive, send)
            return
        status, body = self._unpacked(await Request(scope, receive).body()) if packing == "zstd" else (415, b"")
        if status:
            error = {"error": {"message": SAID[status], "type": "refused"}, "detail": SAID[status]}
            await JSONResponse(error, status)(scope, receive, send)
            return
        del headers["content-encoding"]
        headers["content-length"] = str(len(body))
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def unpacked() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, unpacked, send)

    def _unpacked(self, body: bytes) -> tuple[int, bytes]:
        """A status (0: none), and the contents."""
        try:
            with zstd.ZstdFile(io.BytesIO(body), options=WINDOW) as file:
                contents = file.read(self.limit + 1)
        except (zstd.ZstdError, EOFError):
            return 400, b""
        return (413, b"") if len(contents) > self.limit else (0, contents)
