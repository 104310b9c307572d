"""System One's typed questions: `POST /v1/systemone`, as TypeSafe's client and its followers send them.

The questions are a map by name. Images arrive in any of the forms in use: as `assets` in the JSON or in parts of a
multipart body, as `images` or `files`, or as `image_url` items anywhere in `state`. The texts of the state and of the
instructions are ignored: the model was taught its question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lensmith.serve.openapi import Operation
from lensmith.serve.pictures import encoded, from_base64
from lensmith.serve.questions import choice, score, yes
from lensmith.serve.refusal import Refusal, shaped
from lensmith.serve.service import Answer, Service, body_of, value_of

PARTS = 16
"""Files of a multipart body."""


class Asset(BaseModel):
    """An image: in base64, or in a part of the multipart body."""

    type: Literal["image"] = "image"
    data_base64: str | None = None
    part: str | None = None


class Asked(BaseModel):
    """A question. Its criteria are classes: a map of options, the true and false ones, or a list of levels."""

    type: Literal["choice", "noul", "boolean", "score"]
    criteria: dict[str, Any] | list[Any] | None = None


class SystemOne(BaseModel):
    """A request."""

    model: str | None = None
    state: str | dict[str, Any] | list[Any]
    questions: Annotated[dict[str, Asked], MinLen(1)]
    assets: dict[str, Asset] | None = None
    images: list[Any] | None = Field(None, description="data: URLs, as text, {url} or {content_type, base64}")
    files: list[Any] | None = Field(None, description="the same as images")


OPERATIONS = {"POST /v1/systemone": Operation("Typed questions about one image, by name", SystemOne)}


def routes(service: Service) -> list[Route]:
    """`POST /v1/systemone`."""

    async def ask(request: Request) -> Response:
        try:
            body, parts = await _read(request, service)
            return JSONResponse(await answered(body, service, parts))
        except Refusal as refusal:
            return refused(refusal)

    return [Route("/v1/systemone", ask, methods=["POST"])]


def refused(refusal: Refusal) -> Response:
    """A refusal as the API's validation errors, which the clients read."""
    detail = [{"loc": ["body", *refusal.where], "msg": refusal.message, "type": "value_error"}]
    return JSONResponse({"detail": detail}, refusal.status, refusal.headers)


async def answered(body: Any, service: Service, parts: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """The answers to a request.

    Args:
        parts: the files of a multipart body, by name.

    Raises:
        Refusal: the request isn't one, has another number of images than one, or asks for what isn't taught.
    """
    asked = shaped(body, SystemOne)
    if len(asked.questions) > service.limits.questions:
        raise Refusal(422, f"A request has at most {service.limits.questions} questions.", where=("questions",))
    images = list(_images(asked, service, parts or {}))
    if len(images) != 1:
        raise Refusal(422, f"A request needs one image; this one has {len(images)}.")
    models = {name: service.model_for(name, asked.model) for name in asked.questions}
    answers = await service.classify_all(images[0], list(models.values()))
    return {
        "model": ",".join(dict.fromkeys(models.values())),
        "answers": {name: _answer(name, question, answers[models[name]]) for name, question in asked.questions.items()},
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _answer(name: str, asked: Asked, answer: Answer) -> dict[str, Any]:
    """The answer to one question."""
    criteria, where = asked.criteria, ("questions", name, "criteria")
    try:
        if asked.type == "choice":
            if not isinstance(criteria, dict | None):
                raise Refusal(422, "The criteria of a choice are a map.")
            chosen = choice(answer, list(criteria or ()))
            found = {"choice": chosen.option, "confidence": chosen.confidence, "probabilities": chosen.probabilities}
        elif asked.type == "score":
            if not isinstance(criteria, list) or not criteria or not all(isinstance(level, str) for level in criteria):
                raise Refusal(422, "The criteria of a score are a list of classes.")
            rated = score(answer, criteria)
            found = {"score": rated.score, "confidence": rated.confidence}
            found |= {"legend": dict(zip(map(str, range(len(criteria))), criteria, strict=True))}
            found |= {"probabilities": {str(i): p for i, p in enumerate(rated.probabilities)}}
        else:
            said = criteria if isinstance(criteria, dict) else {}
            true, false = (value if isinstance(value, str) else None for value in map(said.get, ("true", "false")))
            found = {asked.type: yes(answer, name, true, false)}
    except Refusal as refusal:
        raise Refusal(refusal.status, refusal.message, where=where) from None
    return {"type": asked.type, **found}


async def _read(request: Request, service: Service) -> tuple[Any, dict[str, bytes]]:
    """The JSON of a request, and the files that come with it."""
    if "multipart/form-data" not in request.headers.get("content-type", ""):
        return await body_of(request, service.limits), {}
    try:
        form = await request.form(max_files=PARTS, max_fields=PARTS, max_part_size=service.limits.body)
    except HTTPException as error:
        raise Refusal(error.status_code, "The multipart body can't be read.") from None
    values = [(name, await part.read() if isinstance(part, UploadFile) else part) for name, part in form.multi_items()]
    await form.close()
    if len({name for name, _ in values}) < len(values):
        raise Refusal(422, "Two parts have the same name.")
    parts = dict(values)
    if "request" not in parts:
        raise Refusal(422, "The multipart body has no part called request.")
    said = value_of(parts.pop("request"), service.limits)
    return said, {name: part for name, part in parts.items() if isinstance(part, bytes)}


def _images(asked: SystemOne, service: Service, parts: Mapping[str, bytes]) -> Iterator[bytes]:
    """The encoded images of a request, in whatever form."""
    for name, asset in (asked.assets or {}).items():
        if asset.part is not None:
            if asset.part not in parts:
                raise Refusal(422, "The body has no such part.", where=("assets", name, "part"))
            yield parts[asset.part]
        elif asset.data_base64 is not None:
            yield from_base64(asset.data_base64, service.limits)
        else:
            raise Refusal(422, "An asset needs data_base64 or part.", where=("assets", name))
    for item in [*(asked.images or ()), *(asked.files or ())]:
        yield _listed(item, service)
    yield from (_listed(url, service) for url in _urls(asked.state))


def _listed(item: Any, service: Service) -> bytes:
    """An image in a list: a data: URL, alone or as `url`; or `base64`."""
    if isinstance(item, dict) and isinstance(item.get("base64"), str):
        return from_base64(item["base64"], service.limits)
    url = item.get("url") if isinstance(item, dict) else item
    if not isinstance(url, str):
        raise Refusal(422, "An image is a data: URL, {url} or {base64}.")
    return encoded(url, service.limits)


def _urls(state: Any) -> Iterator[Any]:
    """What `image_url` items of a state hold, however deep they are."""
    level = [state]
    while level:
        value = level.pop()
        if isinstance(value, dict):
            if value.get("type") in ("image_url", "input_image"):
                yield value.get("image_url")
            else:
                level += value.values()
        elif isinstance(value, list):
            level += value
