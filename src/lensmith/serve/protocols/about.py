"""What the server says of itself: its models, in a form that OpenAI's and TypeSafe's clients read; how it is; metrics;
and its own description."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.openapi import Operation, described
from lensmith.serve.service import Service

OPERATIONS = {
    "GET /v1/models": Operation("The models and their classes"),
    "GET /health": Operation("Whether the server answers: 503 while it is loading or stopping"),
    "GET /metrics": Operation("Metrics for Prometheus"),
}


def routes(service: Service) -> list[Route]:
    """`GET /v1/models`, `/health`, `/metrics` and `/openapi.json`."""
    started = int(time.time())

    async def models(_: Request) -> Response:
        labels = {name: list(service.labels(name)) for name in service.workers}
        corrected = service.corrections.commands if service.corrections else {}
        data = [
            {"id": name, "object": "model", "created": started, "owned_by": "lensmith"}
            | {"labels": labels[name], "corrections": name in corrected}
            for name in labels
        ]
        date = time.strftime("%Y-%m-%d", time.gmtime(started))
        described = [
            {"name": name, "description": f"{len(labels[name])} classes", "release_date": date} for name in labels
        ]
        return JSONResponse({"object": "list", "data": data, "models": described})

    async def health(_: Request) -> Response:
        return JSONResponse(
            {"status": service.state, "waiting": service.waiting},
            200 if service.state == "ok" else 503,
            {} if service.state == "ok" else {"Retry-After": "2"},
        )

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(_: Request) -> Response:
        from lensmith.serve.protocols import all_operations

        return JSONResponse(described(all_operations()))

    paths = {"/v1/models": models, "/health": health, "/metrics": metrics, "/openapi.json": openapi}
    return [Route(path, answer, methods=["GET"]) for path, answer in paths.items()]
