"""OpenAI's chat completions with one image: `client.chat.completions.create(model=..., messages=[...])`.

The answer is the class: as JSON if `response_format` asks for it, else as plain text. Classes that the schema lists in
an `enum` are the only possible ones. The probabilities of all classes are in the extra field `probabilities`.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.pictures import encoded
from lensmith.serve.refusal import Refusal
from lensmith.serve.service import Answer, Service, body_of

UNUSED = ("tools", "functions", "audio", "prediction")
"""Fields that ask for something that a classifier can't do."""
CERTAINTY = ("confidence", "probability", "score")
"""Properties of a schema that are filled with the probability of the answer."""


def routes(service: Service) -> list[Route]:
    """`POST /v1/chat/completions`."""

    async def complete(request: Request) -> Response:
        try:
            body = await body_of(request)
            image, shape = _image(body, service), _shape(body)
            answer = await service.classify(image, body.get("model"))
            answer = answer.among(shape.labels) if shape.labels else answer
            return _response(answer, shape, body)
        except Refusal as refusal:
            status = 400 if refusal.status == 422 else refusal.status
            kind = "invalid_request_error" if status < 500 else "server_error"
            error = {"message": refusal.message, "type": kind, "param": None, "code": None}
            return JSONResponse({"error": error}, status, refusal.headers)

    return [Route("/v1/chat/completions", complete, methods=["POST"])]


class _Shape:
    """What the content of the answer looks like.

    Args:
        label: the property with the class; empty for plain text.
        certainty: the property with its probability; empty for none.
        labels: the only possible classes; empty for all.
    """

    def __init__(self, label: str = "", certainty: str = "", labels: tuple[str, ...] = ()) -> None:
        self.label, self.certainty, self.labels = label, certainty, labels

    def content(self, answer: Answer) -> str:
        """The text of an answer."""
        if not self.label:
            return answer.label
        values: dict[str, Any] = {self.label: answer.label}
        if self.certainty:
            values[self.certainty] = answer.probabilities[answer.label]
        return json.dumps(values, ensure_ascii=False)


def _image(body: Any, service: Service) -> bytes:
    """The only image in the messages."""
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise Refusal(400, "`messages` must be a list.")
    if named := [name for name in UNUSED if body.get(name)]:
        raise Refusal(400, f"A classifier has no {named[0]}.")
    if body.get("n") not in (None, 1):
        raise Refusal(400, "There is one answer: `n` must be 1.")
    parts = [
        part
        for message in body["messages"]
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict) and part.get("type") == "image_url"
    ]
    if len(parts) != 1:
        raise Refusal(400, f"A request needs one image, as a part of type image_url; this one has {len(parts)}.")
    url = parts[0].get("image_url")
    url = url.get("url") if isinstance(url, Mapping) else url
    if not isinstance(url, str):
        raise Refusal(400, "`image_url` needs a `url`.")
    return encoded(url, service.limits)


def _shape(body: dict[str, Any]) -> _Shape:
    """What `response_format` asks for."""
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return _Shape()
    if kind == "json_object":
        return _Shape("label")
    schema = form.get("json_schema") if isinstance(form, dict) and kind == "json_schema" else None
    schema = schema.get("schema") if isinstance(schema, dict) else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not all(isinstance(value, dict) for value in properties.values()):
        raise Refusal(400, "`response_format` must be text, json_object, or a json_schema of an object.")
    certain = [name for name, value in properties.items() if value.get("type") == "number" and name in CERTAINTY]
    labels = [name for name, value in properties.items() if value.get("type", "string") == "string"]
    if len(labels) != 1 or len(certain) > 1 or len(properties) != 1 + len(certain):
        raise Refusal(
            400,
            "The schema needs one property of type string for the class, and may have one of type number called "
            f"{', '.join(CERTAINTY)} for its probability.",
        )
    allowed = properties[labels[0]].get("enum", [])
    if not isinstance(allowed, list) or not all(isinstance(label, str) for label in allowed):
        raise Refusal(400, "The `enum` must be a list of strings.")
    return _Shape(labels[0], certain[0] if certain else "", tuple(allowed))


def _response(answer: Answer, shape: _Shape, body: dict[str, Any]) -> Response:
    content, streamed = shape.content(answer), body.get("stream") is True
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice["delta" if streamed else "message"] = {"role": "assistant", "content": content, "refusal": None}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [_token(content, answer, shape, body)], "refusal": None}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    record: dict[str, Any] = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if streamed else "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [choice],
        "probabilities": answer.probabilities,
    }
    if not streamed:
        return JSONResponse(record | {"usage": usage})
    return Response(f"data: {json.dumps(record)}\n\ndata: [DONE]\n\n", media_type="text/event-stream")


def _token(content: str, answer: Answer, shape: _Shape, body: dict[str, Any]) -> dict[str, Any]:
    """The whole answer as one token, with as many alternatives as `top_logprobs` asks for."""
    most = body.get("top_logprobs") or 0
    if not isinstance(most, int) or not 0 <= most <= 20:
        raise Refusal(400, "`top_logprobs` must be an integer from 0 to 20.")

    def token(text: str, probability: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(max(probability, 1e-38)), "bytes": list(text.encode())}

    pairs = list(answer.probabilities.items())[:most]
    others = [token(shape.content(answer.among([label])), value) for label, value in pairs]
    return token(content, answer.probabilities[answer.label]) | {"top_logprobs": others}
