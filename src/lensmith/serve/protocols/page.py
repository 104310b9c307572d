"""The page for people, at `/`, and the corrections that it sends: `POST /v1/corrections/NAME?label=...`."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.errors import UserError
from lensmith.pages.page import live_part, render_live
from lensmith.serve.openapi import Operation
from lensmith.serve.pictures import decoded
from lensmith.serve.refusal import Refusal
from lensmith.serve.service import Service

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Nothing may be loaded from elsewhere or sent elsewhere, and no other page may show this one."""
OPERATIONS = {
    "POST /v1/corrections/{name}": Operation(
        "Keep an image with its right class", raw=True, text=("label", "answer", "probability")
    )
}


def routes(service: Service) -> list[Route]:
    """`GET /`, the page's files, and `POST /v1/corrections/{name}`."""

    async def file(request: Request) -> Response:
        # Not `request.url`, which is made of the Host that the caller sends.
        name = request.scope["path"].rpartition("/")[2] or "page.html"
        return Response(_text(name), media_type=TYPES[Path(name).suffix], headers=HEADERS)

    async def correct(request: Request) -> Response:
        try:
            return JSONResponse(await _corrected(request, service))
        except Refusal as refusal:
            return JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)

    shown = [Route(path, file, methods=["GET"]) for path in ("/", "/page.js", "/pictures.css", "/pictures.js")]
    return [*shown, Route("/v1/corrections/{name}", correct, methods=["POST"])]


@cache
def _text(name: str) -> str:
    """One of the page's files."""
    own = Path(__file__).parents[1] / "page"
    if name == "page.html":
        return render_live(own / "page.html.j2")
    return (own / name).read_text(encoding="utf-8") if (own / name).exists() else live_part(name)


async def _corrected(request: Request, service: Service) -> dict[str, object]:
    model, kept = service.named(request.path_params["name"]), service.corrections
    if kept is None or model not in kept.commands:
        raise Refusal(404, "This server keeps no corrections.")
    said = request.query_params
    label = said.get("label", "")
    if label not in service.labels(model):
        raise Refusal(422, f"The model doesn't know the class {label!r}.")
    try:
        probability = float(said.get("probability", 0))
    except ValueError:
        raise Refusal(422, "The probability isn't a number.") from None
    answer = said.get("answer", "")
    if answer not in ("", *service.labels(model)):
        raise Refusal(422, f"The model doesn't know the class {answer!r}.")
    image = await request.body()

    def keep() -> int:
        decoded(image, service.workers[model].panel.model, service.limits)
        return kept.keep(model, image, label, answer, probability)

    try:
        number = await asyncio.get_running_loop().run_in_executor(None, keep)
    except UserError:  # it names a path
        raise Refusal(507, "The correction can't be kept: the server's folder for it can't be written.") from None
    return {"kept": number, "command": kept.command(model)}
