"""Hugging Face's image classification: `InferenceClient(model=URL).image_classification(image)`, which posts to `/`.

The body is an encoded image, or JSON: `{"inputs": BASE64, "parameters": {"top_k": 5}}`. The answer is a list of
`{"label", "score"}`, the most probable first.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.openapi import Operation
from lensmith.serve.pictures import from_base64
from lensmith.serve.refusal import Refusal, shaped
from lensmith.serve.service import Service, body_of

TOP = 5
"""Classes in an answer, if the request doesn't say."""


class Parameters(BaseModel):
    """Of a request."""

    top_k: Annotated[int, Ge(1)] | None = None


class Inputs(BaseModel):
    """A request: an image in base64."""

    inputs: str
    parameters: Parameters | None = None


OPERATIONS = {
    name: Operation("The most probable classes of one image", Inputs, raw=True, integers=("top_k",))
    for name in ("POST /", "POST /models/{name}")
}


def routes(service: Service) -> list[Route]:
    """`POST /` and `POST /models/NAME`."""

    async def classify(request: Request) -> Response:
        try:
            image, top = await _asked(request, service)
            answer = await service.classify(image, request.path_params.get("name"))
        except Refusal as refusal:
            return JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)
        pairs = list(answer.probabilities.items())[:top]
        return JSONResponse([{"label": label, "score": score} for label, score in pairs])

    return [Route(path, classify, methods=["POST"]) for path in ("/", "/models/{name}")]


async def _asked(request: Request, service: Service) -> tuple[bytes, int]:
    """The image and the number of classes that are asked for."""
    if "json" not in request.headers.get("content-type", ""):
        asked = shaped(dict(request.query_params), Parameters)
        return await request.body(), asked.top_k or TOP
    inputs = shaped(await body_of(request, service.limits), Inputs)
    return from_base64(inputs.inputs, service.limits), (inputs.parameters or Parameters()).top_k or TOP
