"""The server: all protocols behind the doors, with limits that hold before a body is read."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lensmith.serve.doors import Doors
from lensmith.serve.protocols import all_routes
from lensmith.serve.service import Service
from lensmith.serve.unpacking import Unpacking
from lensmith.serve.watchers.metrics import Counting


def allow_connections() -> None:
    """Allow as many open connections as the system lets this process have; usual are 1,024, which patient callers of a
    fast model exceed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS refuses what it says that it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Crowded:
    """Refuses images (429) before they are read while no model has room for one: refusing must cost little."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, or refuse it."""
        refusal = self.service.crowded() if scope["type"] == "http" and scope["method"] == "POST" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        error = {"error": {"message": refusal.message, "type": "server_error"}, "detail": refusal.message}
        await JSONResponse(error, refusal.status, refusal.headers)(scope, receive, send)


def make_app(
    service: Service, token: str = "", names: Collection[str] = (), origins: Collection[str] = ()
) -> Starlette:
    """The application.

    Args:
        token: what callers must send; see `Doors`.
        names: further names of the server; see `Doors`.
        origins: other sites whose pages may ask; see `Doors`.
    """

    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": {"message": "The server failed.", "type": "server_error"}}, 500)

    routes = all_routes(service)
    # A browser asks whether it may ask, without a token; so this comes before the doors.
    cors = Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"])
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Counting, metrics=service.metrics, routes=routes),
            *([cors] if origins else []),
            Middleware(Doors, token=token, names=names, origins=origins),
            Middleware(Crowded, service=service),
            Middleware(Unpacking, limit=service.limits.body),
        ],
        exception_handlers={Exception: failed},
        max_body_size=service.limits.body,
    )
