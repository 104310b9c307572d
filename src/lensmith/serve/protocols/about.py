"""What the server says of itself: `/v1/models`, in a form that OpenAI's and TypeSafe's clients read, and `/health`."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.service import Service


def routes(service: Service) -> list[Route]:
    """`GET /v1/models` and `GET /health`."""
    started = int(time.time())

    async def models(_: Request) -> Response:
        data = [
            {"id": name, "object": "model", "created": started, "owned_by": "lensmith"}
            | {"labels": list(worker.classifier.labels)}
            for name, worker in service.workers.items()
        ]
        date = time.strftime("%Y-%m-%d", time.gmtime(started))
        described = [
            {"name": name, "description": f"{len(worker.classifier.labels)} classes", "release_date": date}
            for name, worker in service.workers.items()
        ]
        return JSONResponse({"object": "list", "data": data, "models": described})

    async def health(_: Request) -> Response:
        waiting = sum(worker.waiting for worker in service.workers.values())
        status = "ok" if service.open else "stopping"
        return JSONResponse({"status": status, "waiting": waiting}, 200 if service.open else 503)

    return [Route("/v1/models", models), Route("/health", health)]
