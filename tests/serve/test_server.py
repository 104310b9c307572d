"""Many callers share batches, a full queue and strangers are refused, and no request makes the server fail."""

from __future__ import annotations

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from lensmith.engine.classifier import Classifier
from lensmith.engine.panel import Panel
from lensmith.serve.pictures import Limits
from lensmith.serve.refusal import Refusal
from lensmith.serve.service import Service
from lensmith.serve.worker import Worker
from tests.serve.conftest import LABELS, Server, picture, serving

pytestmark = pytest.mark.long


def test_many_callers_share_batches_and_get_their_own_answers(server: Server, classifier: Classifier) -> None:
    images = [picture(seed, size) for seed in range(12) for size in ((40, 30), (30, 60))]

    def ask(image: bytes) -> Any:
        return httpx.post(server.url, content=image, timeout=60).json()

    alone = [ask(image) for image in images]
    before = len(server.service.workers["animals"].batches)
    with ThreadPoolExecutor(len(images)) as pool:
        together = list(pool.map(ask, images))
    for one, other in zip(alone, together, strict=True):
        assert {e["label"]: e["score"] for e in one} == pytest.approx({e["label"]: e["score"] for e in other}, abs=1e-4)
    sizes = list(server.service.workers["animals"].batches)[before:]
    assert sum(sizes) == len(images)
    assert max(sizes) > 1


def test_a_full_queue_refuses_and_nothing_accepted_is_lost(classifier: Classifier) -> None:
    hold = threading.Event()

    class Slow(Panel):
        def probabilities(self, views: Any, names: Any) -> Any:
            hold.wait(20)
            return super().probabilities(views, names)

    worker = Worker(Slow({"m": classifier}))
    views = partial(classifier.model.prepare, Image.new("RGB", (30, 30)))
    accepted = [worker.submit(views, ["m"]) for _ in range(64)]
    with pytest.raises(Refusal) as refused:
        worker.submit(views, ["m"])
    assert refused.value.status == 429
    assert refused.value.headers == {"Retry-After": "1"}
    accepted[3].cancel()  # a caller that hung up
    closing = threading.Thread(target=worker.close)
    closing.start()
    time.sleep(0.05)
    with pytest.raises(Refusal) as late:
        worker.submit(views, ["m"])
    assert late.value.status == 503
    hold.set()
    closing.join(20)
    answered = [future for future in accepted if not future.cancelled()]
    assert len(answered) >= len(accepted) - 1
    assert all(sum(future.result(1)["m"]) == pytest.approx(1, abs=1e-4) for future in answered)


def test_an_error_while_scoring_reaches_its_callers_only(classifier: Classifier) -> None:
    class Broken(Panel):
        failing = True

        def probabilities(self, views: Any, names: Any) -> Any:
            if self.failing:
                raise RuntimeError("at 0x7f00 in /home/someone")
            return super().probabilities(views, names)

    broken = Broken({"m": classifier})
    with serving(Service([broken])) as server:
        answer = httpx.post(server.url, content=picture())
        assert answer.status_code == 500
        assert "0x" not in answer.text
        assert "home" not in answer.text
        broken.failing = False
        assert httpx.post(server.url, content=picture()).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "192.168.0.5:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:8000"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
    ],
)
def test_strangers_are_refused(server: Server, headers: dict[str, str], status: int) -> None:
    assert httpx.post(server.url, content=picture(), headers=headers).status_code == status


def test_a_token_is_required_where_there_is_one(classifier: Classifier) -> None:
    with serving(Service([Panel({"m": classifier})]), token="s3cret") as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cre"}):
            refused = httpx.post(server.url, content=picture(), headers=headers)
            assert refused.status_code == 401
            assert "s3cret" not in refused.text
        right = {"Authorization": "Bearer s3cret"}
        assert httpx.post(server.url, content=picture(), headers=right).status_code == 200


def test_limits_hold(classifier: Classifier) -> None:
    limits = Limits(body=20_000, image=9_000, pixels=5_000)
    with serving(Service([Panel({"m": classifier})], limits)) as server:
        assert httpx.post(server.url, content=picture(size=(50, 50))).status_code == 200
        assert httpx.post(server.url, content=picture(size=(60, 60))).status_code == 413  # bytes of the image
        assert httpx.post(server.url, content=b"x" * 30_000).status_code == 413
        white = io.BytesIO()
        Image.new("RGB", (200, 200)).save(white, "PNG")
        assert httpx.post(server.url, content=white.getvalue()).status_code == 422  # pixels
        long = base64.b64encode(b"x" * 10_000).decode()
        assert httpx.post(server.url, json={"inputs": long}).status_code == 413


def test_several_models_are_asked_by_name(classifier: Classifier) -> None:
    with serving(Service([Panel({"first": classifier}), Panel({"second": classifier})])) as server:
        assert httpx.post(f"{server.url}/models/second", content=picture()).status_code == 200
        missing = httpx.post(server.url, content=picture())
        assert missing.status_code == 404
        assert missing.json() == {"error": "There is no such model. There are: first, second."}


def test_the_server_says_how_it_is(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "waiting": 0}
    body = httpx.get(f"{server.url}/v1/models").json()
    assert [model["id"] for model in body["data"]] == ["animals"]
    assert [model["name"] for model in body["models"]] == ["animals"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"inputs": NaN}', b"null"])
def test_bodies_that_are_not_json_are_refused(server: Server, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400


def test_labels_are_text_of_any_kind(server: Server) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["labels"] == LABELS
