"""Typed questions, as the clients of TypeSafe, OpenAI and others send them, are answered from the taught classes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typesafe_sdk import Choice, Image, Noul, Score, TypeSafeClient, TypeSafeError

from lensmith.engine.classifier import Classifier
from lensmith.engine.panel import Panel
from lensmith.serve import questions
from lensmith.serve.service import Answer, Service
from tests.serve.conftest import LABELS, Server, picture, serving
from tests.serve.test_clients import expected

pytestmark = pytest.mark.long

PNG = picture(11)
TEXT = base64.b64encode(PNG).decode()
URL = f"data:image/png;base64,{TEXT}"


@pytest.fixture(scope="module")
def truth(classifier: Classifier) -> dict[str, float]:
    return expected(classifier, PNG)


@pytest.fixture(scope="module", params=["zstd", False])
def typesafe(server: Server, request: pytest.FixtureRequest) -> Iterator[TypeSafeClient]:
    with TypeSafeClient(base_url=server.url, api_key="none", model="x", compression=request.param) as client:
        yield client


def test_typesafe_gets_typed_answers(typesafe: TypeSafeClient, truth: dict[str, float]) -> None:
    asked: dict[str, Any] = {
        "label": Choice(instructions="What is it?", criteria={"dog": "a canine", "cat": None}),
        "cat": Noul(instructions="Is it a cat?"),
        "size": Score(instructions="How large?", criteria=["cat", "dog", "tree frog"]),
    }
    found = typesafe.system_one(state={"photo": Image(PNG)}, questions=asked)
    assert found.model == "animals"
    two = {label: truth[label] / (truth["cat"] + truth["dog"]) for label in ("cat", "dog")}
    assert found.choices["label"].probabilities == pytest.approx(two, abs=1e-4)
    assert found.choices["label"].choice == max(two, key=two.__getitem__)
    assert found.choices["label"].confidence == pytest.approx(2 * max(two.values()) - 1, abs=1e-4)
    assert found.nouls["cat"].noul == pytest.approx(truth["cat"], abs=1e-5)
    three = [truth[label] for label in ("cat", "dog", "tree frog")]
    assert found.scores["size"].score == pytest.approx((three[1] + 2 * three[2]) / sum(three), abs=1e-4)
    assert found.scores["size"].legend == {0: "cat", 1: "dog", 2: "tree frog"}


def test_typesafe_is_told_which_classes_there_are(typesafe: TypeSafeClient) -> None:
    with pytest.raises(TypeSafeError, match=r"doesn't know the class 'cow'. It knows: cat, dog, tree frog, 猫"):
        typesafe.system_one(state=Image(PNG), questions={"q": Choice(criteria={"cat": None, "cow": None})})
    with pytest.raises(TypeSafeError, match="A yes/no question must be called like a class"):
        typesafe.system_one(state=Image(PNG), questions={"q": Noul(instructions="Is it nice?")})
    with pytest.raises(TypeSafeError, match="needs one image; this one has 0"):
        typesafe.system_one(state="a cat", questions={"q": Choice(criteria={"cat": None})})


def test_typesafe_lists_the_models(typesafe: TypeSafeClient) -> None:
    assert [model.name for model in typesafe.models.list().models] == ["animals"]


QUESTION = {"q": {"type": "choice", "criteria": dict.fromkeys(LABELS)}}


@pytest.mark.parametrize(
    "form",
    [
        {"state": {"photo": "img-1"}, "assets": {"img-1": {"type": "image", "format": "png", "data_base64": TEXT}}},
        {"state": "x", "images": [URL]},
        {"state": "x", "files": [URL]},
        {"state": "x", "images": [{"url": URL, "detail": "low"}]},
        {"state": "x", "images": [{"content_type": "image/png", "base64": TEXT}]},
        {"state": [{"type": "image_url", "image_url": {"url": URL}}]},
        {"state": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]}},
    ],
    ids=["assets", "images", "files", "url", "base64", "state", "messages"],
)
@pytest.mark.parametrize("path", ["/v1/systemone", "/v1/decisions", "/alpha/decisions"])
def test_images_arrive_in_all_forms(server: Server, truth: dict[str, float], form: dict[str, Any], path: str) -> None:
    answer = httpx.post(server.url + path, json=form | {"model": "m", "questions": QUESTION})
    assert answer.status_code == 200, answer.text
    assert answer.json()["answers"]["q"]["probabilities"] == pytest.approx(truth, abs=1e-5)


def test_a_placeholder_may_be_the_name_of_a_class(server: Server) -> None:
    body = {"state": "cat", "assets": {"cat": {"data_base64": TEXT}}, "questions": QUESTION}
    assert httpx.post(f"{server.url}/v1/systemone", json=body).status_code == 200


@pytest.mark.parametrize("url", ["https://host/a.png", "file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:1/a.png"])
def test_nothing_is_fetched(server: Server, url: str) -> None:
    for form in ({"images": [url]}, {"assets": {"a": {"data_base64": url}}}, {"state": [_item(url)]}):
        asked: Any = {"state": "x", "questions": QUESTION} | form
        assert httpx.post(f"{server.url}/v1/systemone", json=asked).status_code == 422
    body = {"input": [{"content": [{"type": "input_image", "image_url": url}]}], "questions": [{"type": "choice"}]}
    assert httpx.post(f"{server.url}/v1/decisions", json=body).status_code == 400


def _item(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([("asset-0", PNG)], "no part called request"),
        ([("request", b"{")], "isn't JSON"),
        ([("request", json.dumps({"state": "x", "questions": QUESTION}).encode())], "this one has 0"),
        ([("request", b"{}"), ("request", b"{}")], "the same name"),
    ],
)
def test_multipart_bodies_that_are_not_requests(server: Server, parts: list[tuple[str, bytes]], says: str) -> None:
    files = [(name, (name, data)) for name, data in parts]
    answer = httpx.post(f"{server.url}/v1/systemone", files=files)
    assert answer.status_code in (400, 422)
    assert says in answer.json()["detail"][0]["msg"]


def test_openai_decides(server: Server, truth: dict[str, float]) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer = client.decisions.create(
        model="gpt-6-luna",
        input=[{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": "auto"}]}],
        questions=[
            {"type": "choice", "name": "label", "choices": [{"value": "cat"}, {"value": "猫"}], "instructions": "?"},
            {"type": "predicate", "name": "dog", "instructions": "Is it a dog?"},
            {"type": "score", "levels": [{"label": "cat"}, {"label": "dog"}], "instructions": "?"},
        ],
    )
    chosen, predicate, rated = (found.to_dict() for found in answer.answers)
    total = truth["cat"] + truth["猫"]
    assert chosen["probabilities"] == [
        {"value": label, "probability": pytest.approx(truth[label] / total, abs=1e-4)} for label in ("cat", "猫")
    ]
    assert chosen["name"] == "label"
    assert predicate["probability"] == pytest.approx(truth["dog"], abs=1e-5)
    assert rated["score"] == pytest.approx(truth["dog"] / (truth["cat"] + truth["dog"]), abs=1e-4)
    with pytest.raises(openai.BadRequestError, match="It knows: cat"):
        client.decisions.create(
            model="x",
            input=[{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": "auto"}]}],
            questions=[{"type": "choice", "choices": [{"value": "cow"}, {"value": "cat"}], "instructions": "?"}],
        )


def test_several_questions_are_answered_by_several_models_that_see_an_image_once(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = classifier.model.encode_images

    def counted(views: Any) -> Any:
        seen.append(len(views[0]))
        return encode(views)

    monkeypatch.setattr(classifier.model, "encode_images", counted)
    with serving(Service([Panel({"animal": classifier, "again": classifier})])) as server:
        both: Any = {"animal": QUESTION["q"], "again": QUESTION["q"]}
        body: Any = {"state": "x", "images": [URL], "questions": both}
        answer = httpx.post(f"{server.url}/v1/systemone", json=body).json()
        assert answer["answers"]["animal"] == answer["answers"]["again"]
        assert answer["model"] == "animal,again"
        assert seen == [1]
        body["questions"] = {"other": QUESTION["q"]}
        assert httpx.post(f"{server.url}/v1/systemone", json=body).status_code == 404


def answer_of(*values: float) -> Answer:
    total = sum(values)
    pairs = sorted(zip("abcdef", values, strict=False), key=lambda pair: -pair[1])
    return Answer("m", {label: value / total for label, value in pairs})


probabilities = st.lists(st.floats(1e-6, 1), min_size=2, max_size=6).map(lambda values: answer_of(*values))


@given(probabilities)
def test_confidence_is_between_0_and_1_and_reaches_both(answer: Answer) -> None:
    labels = sorted(answer.probabilities)
    for found in (questions.choice(answer, labels), questions.score(answer, labels)):
        assert 0 <= found.confidence <= 1 + 1e-9
        assert sum(found.probabilities if isinstance(found, questions.Score) else found.probabilities.values())
    assert questions.choice(answer_of(1, 1, 1), []).confidence == pytest.approx(0)
    assert questions.score(answer_of(1, 1, 1), ["a", "b", "c"]).score == pytest.approx(1)
    assert questions.choice(answer_of(1, 0, 0), []).confidence == questions.choice(answer_of(1), []).confidence == 1
    assert questions.score(answer_of(0, 0, 1), ["a", "b", "c"]) == questions.Score(2.0, 1.0, [0.0, 0.0, 1.0])


def test_yes_is_found_by_description_by_name_and_by_the_classes_own_names() -> None:
    assert questions.yes(answer_of(1, 3, 4), None, "a", "b") == pytest.approx(0.25)
    assert questions.yes(answer_of(1, 3, 4), None, "a", "something else") == pytest.approx(0.125)
    assert questions.yes(answer_of(1, 3, 4), "c") == pytest.approx(0.5)
    assert questions.yes(Answer("m", {"No": 0.75, "Yes": 0.25}), "defect") == 0.25
