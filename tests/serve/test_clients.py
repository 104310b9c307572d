"""The real clients of the services that are replaced get the answers that `predict` gives."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient

from lensmith.data import decode_image
from lensmith.engine.classifier import Classifier
from tests.serve.conftest import LABELS, Server, picture

pytestmark = pytest.mark.long


def expected(classifier: Classifier, image: bytes) -> dict[str, float]:
    """The calibrated probabilities, computed in this process."""
    views = classifier.model.prepare(decode_image(image, name="x", enough=classifier.model.sufficient_size))
    (scores,) = classifier.score_all(tuple(view[None] for view in views))
    row = classifier.calibration.apply(scores.bound).softmax(1)[0].tolist()
    return dict(zip(classifier.labels, row, strict=True))


def asked(image: bytes) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return [
        {"role": "system", "content": "You classify."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
            ],
        },
    ]


def schema(**properties: Any) -> Any:
    about = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "label", "strict": True, "schema": about}}


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_openai_gets_the_class_as_text_and_all_probabilities(client: openai.OpenAI, classifier: Classifier) -> None:
    image = picture(1)
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=asked(image))
    truth = expected(classifier, image)
    assert answer.choices[0].message.content == max(truth, key=truth.__getitem__)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "animals"
    assert answer.probabilities == pytest.approx(truth, abs=1e-5)  # type: ignore[attr-defined]
    assert list(answer.probabilities) == sorted(truth, key=lambda label: -truth[label])  # type: ignore[attr-defined]


def test_openai_gets_json_among_the_classes_of_the_schema(client: openai.OpenAI, classifier: Classifier) -> None:
    image = picture(2)
    truth = expected(classifier, image)
    among = sorted(truth, key=truth.__getitem__)[:2]  # the two least probable
    form = schema(kind={"type": "string", "enum": among}, confidence={"type": "number"})
    answer = client.chat.completions.create(model="x", messages=asked(image), response_format=form)
    content = json.loads(answer.choices[0].message.content or "")
    assert content["kind"] == among[1]
    assert content["confidence"] == pytest.approx(truth[among[1]] / sum(truth[label] for label in among), abs=1e-4)
    plain = client.chat.completions.create(model="x", messages=asked(image), response_format={"type": "json_object"})
    assert json.loads(plain.choices[0].message.content or "")["label"] == max(truth, key=truth.__getitem__)


def test_openai_gets_log_probabilities(client: openai.OpenAI, classifier: Classifier) -> None:
    image = picture(3)
    answer = client.chat.completions.create(model="x", messages=asked(image), logprobs=True, top_logprobs=3)
    truth = expected(classifier, image)
    assert answer.choices[0].logprobs
    (token,) = answer.choices[0].logprobs.content or []
    best = sorted(truth, key=lambda label: -truth[label])[:3]
    assert [other.token for other in token.top_logprobs] == best
    assert math.exp(token.logprob) == pytest.approx(truth[best[0]], abs=1e-5)


def test_openai_streams_one_chunk(client: openai.OpenAI, classifier: Classifier) -> None:
    image = picture(4)
    whole = client.chat.completions.create(model="x", messages=asked(image)).choices[0].message.content
    parts = list(client.chat.completions.create(model="x", messages=asked(image), stream=True))
    assert [part.choices[0].delta.content for part in parts] == [whole]


def test_openai_lists_the_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "animals"
    assert model.labels == LABELS  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"response_format": schema(label={"type": "string", "enum": ["cat", "cow"]})}, "'cow'. It knows: cat, dog"),
        ({"response_format": schema(a={"type": "string"}, b={"type": "string"})}, "one property of type string"),
        ({"response_format": {"type": "grammar"}}, "must be text, json_object"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "has no tools"),
        ({"n": 2}, "Input should be 1: n"),
        ({"messages": [{"role": "user", "content": "What?"}]}, "needs one image"),
        ({"messages": asked(picture()) * 2}, "this one has 2"),
        ({"messages": asked(b"no image")}, "can't be decoded"),
        ({"logprobs": True, "top_logprobs": 21}, "less than or equal to 20: top_logprobs"),
    ],
)
def test_openai_is_told_what_can_not_be_answered(client: openai.OpenAI, more: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.chat.completions.create(**({"model": "x", "messages": asked(picture())} | more))


@pytest.mark.parametrize("url", ["https://host/a.png", "file:///etc/passwd", "/etc/passwd", "data:image/png,x"])
def test_addresses_and_paths_are_not_opened(client: openai.OpenAI, url: str) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    with pytest.raises(openai.BadRequestError, match="data: URL"):
        client.chat.completions.create(model="x", messages=messages)


def test_hugging_face_gets_the_most_probable_classes(server: Server, classifier: Classifier) -> None:
    image = picture(5)
    client = InferenceClient(model=server.url)
    truth = expected(classifier, image)
    best = sorted(truth, key=lambda label: -truth[label])
    found = client.image_classification(image)
    assert [entry.label for entry in found] == best
    assert [entry.score for entry in found] == pytest.approx([truth[label] for label in best], abs=1e-5)
    assert [entry.label for entry in client.image_classification(image, top_k=2)] == best[:2]


def test_the_examples_of_the_docs_work_as_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.jpg").write_bytes(picture(7))
    for example in examples:
        exec(example.replace("http://127.0.0.1:8000", server.url), {})
    label, _, probabilities = capsys.readouterr().out.splitlines()[0].partition(" {")
    assert label in LABELS
    assert len(probabilities.split(",")) == len(LABELS)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_example_in_javascript_works_as_written(server: Server, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```javascript\n(.+?)```", page, re.DOTALL)
    (tmp_path / "example.mjs").write_text(example.replace("http://127.0.0.1:8000", server.url), encoding="utf-8")
    (tmp_path / "image.jpg").write_bytes(picture(7))
    done = subprocess.run(["node", "example.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert all(label in done.stdout for label in LABELS)
