"""The description of the server's paths, in OpenAPI's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_STATUSES = {
    "200": "The answer.",
    "400": "The request can't be read.",
    "401": "The token is missing or wrong.",
    "403": "Pages of other sites may not ask.",
    "404": "There is no such model.",
    "413": "The request or an image is too large.",
    "415": "The body is packed in an unknown way.",
    "421": "The server isn't called by that name.",
    "422": "The request can't be answered.",
    "429": "Too many images wait; try again after Retry-After seconds.",
    "503": "The server is loading or stopping; try again after Retry-After seconds.",
}


@dataclass(frozen=True)
class Operation:
    """What a path does.

    Args:
        summary: in a few words.
        body: the type of its JSON body; None if it has none.
        raw: whether the body may also be an encoded image.
        integers, text: names of parameters in the query.
    """

    summary: str
    body: type[BaseModel] | None = None
    raw: bool = False
    integers: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


def described(operations: Mapping[str, Operation]) -> dict[str, Any]:
    """The description of all operations, by method and path: `POST /v1/systemone`."""
    bodies = list(dict.fromkeys(operation.body for operation in operations.values() if operation.body))
    schemas, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for name, operation in operations.items():
        method, path = name.split(" ")
        content: dict[str, Any] = {}
        if operation.body:
            content["application/json"] = {"schema": schemas[operation.body, "validation"]}
        if operation.raw:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        inside = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        parameters = [_parameter(part, "path", {"type": "string"}) for part in inside]
        parameters += [_parameter(part, "query", {"type": "integer", "minimum": 1}) for part in operation.integers]
        parameters += [_parameter(part, "query", {"type": "string"}) for part in operation.text]
        about: dict[str, Any] = {"summary": operation.summary, "parameters": parameters}
        about["responses"] = {status: {"description": text} for status, text in _STATUSES.items()}
        if content:
            about["requestBody"] = {"required": True, "content": content}
        paths.setdefault(path, {})[method.lower()] = about
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lensmith", "version": version("lensmith")},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parameter(name: str, where: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}
