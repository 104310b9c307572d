"""OpenAI's chat completions with one image: `client.chat.completions.create(model=..., messages=[...])`.

The answer is the class: as JSON if `response_format` asks for it, else as plain text. Classes that the schema lists in
an `enum` are the only possible ones. The probabilities of all classes are in the extra field `probabilities`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.openapi import Operation
from lensmith.serve.pictures import encoded
from lensmith.serve.refusal import Refusal, shaped
from lensmith.serve.service import Answer, Service, body_of


class Chat(BaseModel):
    """A request. Fields that only matter for text, such as `temperature`, are ignored."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    messages: list[Any]
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    stream: bool | None = None
    n: Literal[1] | None = None


OPERATIONS = {"POST /v1/chat/completions": Operation("The class of one image, as a chat completion", Chat)}
UNUSED = ("tools", "functions", "audio", "prediction")
"""Fields that ask for something that a classifier can't do."""
CERTAINTY = ("confidence", "probability", "score")
"""Properties of a schema that are filled with the probability of the answer."""


def routes(service: Service) -> list[Route]:
    """`POST /v1/chat/completions`."""

    async def complete(request: Request) -> Response:
        try:
            asked = shaped(await body_of(request, service.limits), Chat)
            image, shape = _image(asked, service), _shape(asked)
            answer = await service.classify(image, asked.model)
            answer = answer.among(shape.labels) if shape.labels else answer
            return _response(answer, shape, asked)
        except Refusal as refusal:
            return refused(refusal)

    return [Route("/v1/chat/completions", complete, methods=["POST"])]


def refused(refusal: Refusal) -> Response:
    """A refusal as OpenAI's errors."""
    status = 400 if refusal.status == 422 else refusal.status
    kind = "invalid_request_error" if status < 500 else "server_error"
    param = ".".join(map(str, refusal.where)) or None
    error = {"message": refusal.message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, refusal.headers)


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


def _image(asked: Chat, service: Service) -> bytes:
    """The only image in the messages."""
    if named := [name for name in UNUSED if (asked.model_extra or {}).get(name)]:
        raise Refusal(400, f"A classifier has no {named[0]}.")
    parts = [
        part
        for message in asked.messages
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


def _shape(asked: Chat) -> _Shape:
    """What `response_format` asks for."""
    form = asked.response_format or {}
    kind = form.get("type", "text")
    if kind == "text":
        return _Shape()
    if kind == "json_object":
        return _Shape("label")
    schema = form.get("json_schema") if kind == "json_schema" else None
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


def _response(answer: Answer, shape: _Shape, asked: Chat) -> Response:
    content, streamed = shape.content(answer), asked.stream
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice["delta" if streamed else "message"] = {"role": "assistant", "content": content, "refusal": None}
    if asked.logprobs:
        choice["logprobs"] = {"content": [_token(content, answer, shape, asked.top_logprobs or 0)], "refusal": None}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    record: dict[str, Any] = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion.chunk" if streamed else "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [choice],
        "probabilities": answer.probabilities,
    }
    if not streamed:
        return JSONResponse(record | {"usage": usage})
    return Response(f"data: {json.dumps(record)}\n\ndata: [DONE]\n\n", media_type="text/event-stream")


def _token(content: str, answer: Answer, shape: _Shape, most: int) -> dict[str, Any]:
    """The whole answer as one token, with that many alternatives."""

    def token(text: str, probability: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(max(probability, 1e-38)), "bytes": list(text.encode())}

    pairs = list(answer.probabilities.items())[:most]
    others = [token(shape.content(answer.among([label])), value) for label, value in pairs]
    return token(content, answer.probabilities[answer.label]) | {"top_logprobs": others}
