"""The server: all protocols behind the doors, with limits that hold before a body is read."""

from __future__ import annotations

from collections.abc import Collection

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lensmith.serve.doors import Doors
from lensmith.serve.protocols import all_routes
from lensmith.serve.service import Service


def make_app(service: Service, token: str = "", names: Collection[str] = ()) -> Starlette:
    """The application.

    Args:
        token: what callers must send; see `Doors`.
        names: further names of the server; see `Doors`.
    """

    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": {"message": "The server failed.", "type": "server_error"}}, 500)

    return Starlette(
        routes=all_routes(service),
        middleware=[Middleware(Doors, token=token, names=names)],
        exception_handlers={Exception: failed},
        max_body_size=service.limits.body,
    )
