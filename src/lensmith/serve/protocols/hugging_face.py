"""Hugging Face's image classification: `InferenceClient(model=URL).image_classification(image)`, which posts to `/`.

The body is an encoded image, or JSON: `{"inputs": BASE64, "parameters": {"top_k": 5}}`. The answer is a list of
`{"label", "score"}`, the most probable first.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.pictures import from_base64
from lensmith.serve.refusal import Refusal
from lensmith.serve.service import Service, body_of

TOP = 5
"""Classes in an answer, if the request doesn't say."""


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

    return [Route("/", classify, methods=["POST"]), Route("/models/{name}", classify, methods=["POST"])]


async def _asked(request: Request, service: Service) -> tuple[bytes, int]:
    """The image and the number of classes that are asked for."""
    if "json" not in request.headers.get("content-type", ""):
        return await request.body(), TOP
    body = await body_of(request)
    parameters = body.get("parameters") or {} if isinstance(body, dict) else {}
    top = parameters.get("top_k", TOP) if isinstance(parameters, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), str):
        raise Refusal(422, "`inputs` must be an image in base64.")
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise Refusal(422, "`top_k` must be a positive integer.")
    return from_base64(body["inputs"], service.limits), top
