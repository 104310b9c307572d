"""Who may ask: the names by which the server is called, the pages that may call it, and the token."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PUBLIC = frozenset({("GET", path) for path in ("/health", "/", "/page.js", "/pictures.css", "/pictures.js")})
"""What needs no token."""


class Doors:
    """Refuses requests before their body is read.

    A page of a stranger that a browser shows can send requests to this machine. It is told apart by its Origin; and if
    it makes its own name point here (DNS rebinding), by the Host, which then isn't an address or a name of this
    machine.

    Args:
        token: what `Authorization: Bearer` must say; empty if everybody may ask.
        names: further names of this server.
        origins: other sites whose pages may ask: `https://example.org`.
    """

    def __init__(
        self, app: ASGIApp, token: str = "", names: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self.app, self.token, self.origins = app, token, frozenset(origins)
        self.names = {"localhost", socket.gethostname().casefold(), *(name.casefold() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; pass on all others."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, message = self._refused(Headers(scope=scope), (scope["method"], scope["path"]))
        if not status:
            await self.app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await JSONResponse({"error": {"message": message, "type": "refused"}}, status, headers)(scope, receive, send)

    def _refused(self, headers: Headers, asked: tuple[str, str]) -> tuple[int, str]:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "This server isn't called by that name."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host and origin not in self.origins:
            return 403, "Pages of other sites may not ask."
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if self.token and asked not in PUBLIC and not secrets.compare_digest(given.encode(), self.token.encode()):
            return 401, "The token is missing or wrong: Authorization: Bearer TOKEN."
        return 0, ""

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.casefold() in self.names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True
