"""Requests and responses of every provider, against the types of its own SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from lensmith import apis
from lensmith.apis.asking import Asking
from lensmith.apis.pictures import picture
from lensmith.apis.provider import Ask, Malformed, Provider, shares
from lensmith.apis.sending import encoded, sender
from lensmith.config import ApiOptions
from lensmith.errors import UserError
from tests.apis.conftest import ADDRESSES, ASK, ask, items, png
from tests.apis.fake_api import FakeApi, running

SYSTEM = Ask(ASK.text, "Be brief.", ASK.names)


def body_of(provider: Provider, question: Ask = SYSTEM) -> dict[str, Any]:
    return provider.body(question, picture(png(0), "a", 10**6), ApiOptions())


def sdk_openai(url: str, body: dict[str, Any]) -> Any:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
    return (client.decisions if "questions" in body else client.chat.completions).create(**body)


def sdk_anthropic(url: str, body: dict[str, Any]) -> Any:
    from anthropic import Anthropic

    return Anthropic(base_url=url, api_key="k", max_retries=0).messages.create(**body)


def sdk_gemini(url: str, body: dict[str, Any]) -> Any:
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=url)
    config = dict(body["generationConfig"]) | {"systemInstruction": body["systemInstruction"]}
    checked = types.GenerateContentConfig.model_validate(config)
    contents = [types.Content.model_validate(content) for content in body["contents"]]
    client = genai.Client(api_key="k", http_options=options)
    return client.models.generate_content(model="m", contents=contents, config=checked)


def as_google(body: dict[str, Any]) -> Any:
    """Google's SDK writes images in another base64 and some names in another case, which its types read alike."""
    from google.genai import types

    return body | {"contents": [types.Content.model_validate(content) for content in body["contents"]]}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "call"),
    [("openai", sdk_openai), ("openai-decisions", sdk_openai), ("anthropic", sdk_anthropic), ("gemini", sdk_gemini)],
)
@pytest.mark.parametrize("fault", ["", "refuse"])
def test_the_sdk_of_the_provider_sends_and_reads_the_same(
    name: str, call: Callable[[str, dict[str, Any]], Any], fault: str
) -> None:
    with running(FakeApi(faults={fault: 1.0} if fault else {})) as api:
        provider = apis.find(ADDRESSES[name].format(api.url))
        body = body_of(provider)
        response = call(api.url, body)
        # The SDK's request is ours: what it is given through its types is what arrives.
        arrived = json.loads(api.bodies[0])
        assert (as_google(arrived) == as_google(body)) if name == "gemini" else (arrived == body)
        raw = response.to_dict() if hasattr(response, "to_dict") else response.model_dump(by_alias=True, mode="json")
        reply = provider.reply(raw)
        assert (reply.name is None) == bool(fault) == bool(reply.refusal)
        assert (reply.usage.input, reply.model) == (100, "m-1")
        if not fault:
            assert reply.name in ASK.names


def test_system_one_is_what_typesafe_reads() -> None:
    from typesafe_sdk._schemas import models

    body = body_of(apis.find("systemone:m@http://127.0.0.1:1"))
    request: Any = next(
        kind
        for kind in vars(models).values()
        if isinstance(kind, type) and {"state", "questions", "assets"} <= set(getattr(kind, "model_fields", {}))
    )
    assert request.model_validate(body).model_dump(mode="json", exclude_unset=True)["questions"] == body["questions"]


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_what_arrives_is_what_the_digest_is_of(name: str) -> None:
    with running(FakeApi()) as api:
        provider = apis.find(ADDRESSES[name].format(api.url))
        body = body_of(provider) | {"extra": "ä"}

        async def send() -> int:
            async with sender(provider, "key", ApiOptions()) as there:
                return (await there.send(body)).status

        assert asyncio.run(send()) == 200
        assert api.bodies == [encoded(body)]


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_every_provider_answers_refuses_and_counts_tokens(
    name: str, asking: Callable[..., Asking], tmp_path: Any
) -> None:
    with running(FakeApi(faults={"refuse": 0.3})) as api:
        one = asking(api, name)
        ask(one, items(20))
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == ({"answer"} if name == "systemone" else {"answer", "refused"})
    assert all(row["usage"]["input"] == 100 for row in rows)
    probable = [row["probabilities"] for row in rows if row["kind"] == "answer"]
    assert all(bool(p) == one.provider.PROBABILITIES for p in probable)
    assert all(p == {} or sum(p.values()) == pytest.approx(1) for p in probable)


def test_probabilities_that_were_rounded_add_up_to_one() -> None:
    assert shares({"a": 0.33, "b": 0.33, "c": 0.33}) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    for wrong in ({"a": float("nan")}, {"a": -0.1, "b": 1.0}, {"a": 0.0}, {}):
        with pytest.raises(Malformed):
            shares(wrong)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("opnai:m", "Did you mean 'openai'?"),
        ("openai:m@localhost:8000", "isn't the URL"),
        ("openai-decisions:m", "at most 255 classes, and there are 300. Use model.base=openai:m."),
    ],
)
def test_bad_addresses_and_too_many_classes(base: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        apis.find(base).require(Ask("", None, tuple(map(str, range(300)))))
    assert words in str(error.value)


@pytest.mark.parametrize("base", ["nano", "LiquidAI/LFM2-VL-450M", "./openai", "C:/models/x", "/a/b", "D:\\m"])
def test_other_bases_are_no_outside_models(base: str) -> None:
    assert not apis.is_outside(base)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:1/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://192.168.0.4/v1", False),
        ("http://localhost.example.com/v1", False),
    ],
)
def test_only_this_machine_is_local(url: str, local: bool) -> None:
    assert apis.find(f"openai:m@{url}").local == local
