"""OpenAI's decisions: `client.decisions.create(model=..., input=[...], questions=[...])`.

Others use the same path for System One's requests, which are told apart by their `state`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.openapi import Operation
from lensmith.serve.pictures import encoded
from lensmith.serve.protocols.openai_chat import refused
from lensmith.serve.protocols.system_one import answered as answered_system_one
from lensmith.serve.protocols.system_one import refused as refused_system_one
from lensmith.serve.questions import choice, score, yes
from lensmith.serve.refusal import Refusal, shaped
from lensmith.serve.service import Answer, Service, body_of


class Option(BaseModel):
    """An option of a choice: a class."""

    value: str | bool


class Level(BaseModel):
    """A level of a score: a class."""

    label: str


class Asked(BaseModel):
    """A question. Its options or levels are classes."""

    type: Literal["choice", "predicate", "score"]
    name: str | None = None
    choices: list[Option] | None = None
    levels: list[Level] | None = None


class Decision(BaseModel):
    """A request."""

    model: str | None = None
    input: list[Any]
    questions: Annotated[list[Asked], MinLen(1)]


OPERATIONS = {"POST /v1/decisions": Operation("Typed questions about one image, as a list", Decision)}


def routes(service: Service) -> list[Route]:
    """`POST /v1/decisions`, and `/alpha/decisions` as OpenRouter calls it."""

    async def decide(request: Request) -> Response:
        try:
            body = await body_of(request, service.limits)
        except Refusal as refusal:
            return refused(refusal)
        if isinstance(body, dict) and "state" in body:
            try:
                return JSONResponse(await answered_system_one(body, service))
            except Refusal as refusal:
                return refused_system_one(refusal)
        try:
            return JSONResponse(await _answered(body, service))
        except Refusal as refusal:
            return refused(refusal)

    return [Route(path, decide, methods=["POST"]) for path in ("/v1/decisions", "/alpha/decisions")]


async def _answered(body: Any, service: Service) -> dict[str, Any]:
    if isinstance(body, dict) and "input" not in body:
        raise Refusal(422, "A request needs `input` with a list of questions, or `state` with a map of them.")
    asked = shaped(body, Decision)
    if len(asked.questions) > service.limits.questions:
        raise Refusal(422, f"A request has at most {service.limits.questions} questions.")
    images = [
        part.get("image_url")
        for message in asked.input
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, dict) and part.get("type") == "input_image"
    ]
    if len(images) != 1 or not isinstance(images[0], str):
        raise Refusal(422, f"A request needs one input_image with a data: URL; this one has {len(images)}.")
    models = [service.model_for(question.name, asked.model) for question in asked.questions]
    answers = await service.classify_all(encoded(images[0], service.limits), models)
    nothing = {"cached_tokens": 0, "cache_write_tokens": 0}
    return {
        "model": ",".join(dict.fromkeys(models)),
        "answers": [_answer(q, answers[model]) for q, model in zip(asked.questions, models, strict=True)],
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": nothing,
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
    }


def _answer(asked: Asked, answer: Answer) -> dict[str, Any]:
    about: dict[str, Any] = {"type": asked.type, "name": asked.name}
    if asked.type == "choice":
        values = {_label(option.value, answer): option.value for option in asked.choices or ()}
        chosen = choice(answer, list(values))
        rows = [{"value": values.get(name, name), "probability": p} for name, p in chosen.probabilities.items()]
        option = values.get(chosen.option, chosen.option)
        return about | {"choice": option, "confidence": chosen.confidence, "probabilities": rows}
    if asked.type == "score":
        levels = [level.label for level in asked.levels or ()]
        if not levels:
            raise Refusal(422, "A score needs levels.")
        rated = score(answer, levels)
        rows = [
            {"value": i, "label": label, "probability": p}
            for i, (label, p) in enumerate(zip(levels, rated.probabilities, strict=True))
        ]
        return about | {"score": rated.score, "confidence": rated.confidence, "probabilities": rows}
    return about | {"probability": yes(answer, asked.name)}


def _label(value: str | bool, answer: Answer) -> str:
    """The class that an option means. True and false are classes in whatever case."""
    if isinstance(value, str):
        return value
    return next((label for label in answer.probabilities if label.casefold() == str(value).casefold()), str(value))
