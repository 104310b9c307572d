"""What looks on while a server answers: the log, the metrics, and the watch for drift."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2 as httpx
import pytest

from lensmith.engine.classifier import Classifier
from lensmith.engine.panel import Panel
from lensmith.errors import UserError
from lensmith.measure.drift import Drift
from lensmith.progress import Advance, Note
from lensmith.serve.service import Answer, Service
from lensmith.serve.watchers.drift import WINDOW, DriftWatch
from lensmith.serve.watchers.log import Log, read_log
from tests.serve.conftest import picture, serving


def answer(label: str = "cat", probability: float = 0.9) -> Answer:
    return Answer("m", {label: probability, "rest": 1 - probability})


def notes(into: list[str]) -> object:
    def tell(event: Note | Advance) -> None:
        assert isinstance(event, Note)
        into.append(event.text)

    return tell


@pytest.mark.long
def test_answers_are_logged_and_counted_without_their_images(classifier: Classifier, tmp_path: Path) -> None:
    service = Service([Panel({"animals": classifier})])
    service.watchers.append(Log(tmp_path / "log.jsonl", notes([])))  # type: ignore[arg-type]
    with serving(service, token="s3cret") as server:
        headers = {"Authorization": "Bearer s3cret"}
        found = httpx.post(server.url, content=picture(1), headers=headers).json()[0]
        httpx.post(server.url, content=b"no image", headers=headers)
        httpx.post(f"{server.url}/anything?x=1", headers=headers)
        text = httpx.get(f"{server.url}/metrics", headers=headers).text
        assert httpx.get(f"{server.url}/metrics").status_code == 401
    (entry,) = read_log(tmp_path / "log.jsonl")
    assert (entry["model"], entry["label"]) == ("animals", found["label"])
    assert entry["probability"] == pytest.approx(found["score"], abs=1e-6)
    assert entry["ms"] > 0
    assert "s3cret" not in (tmp_path / "log.jsonl").read_text()
    assert 'lensmith_requests_total{path="/",status="200"} 1.0' in text
    assert 'lensmith_requests_total{path="/",status="422"} 1.0' in text
    assert 'lensmith_requests_total{path="other",status="404"} 1.0' in text
    assert f'lensmith_answers_total{{label="{found["label"]}",model="animals"}} 1.0' in text
    assert 'lensmith_batch_size_sum{model="animals"} 1.0' in text
    assert 'lensmith_confidence_count{model="animals"} 1.0' in text
    assert "lensmith_waiting 0.0" in text


def test_a_log_that_can_not_be_written_is_said_once_and_answers_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    log = Log(Path("/dev/full"), notes(said))  # type: ignore[arg-type]
    log.answered(answer())
    log.answered(answer())
    log.close()
    assert len(said) == 1
    assert "No space left" in said[0]
    with pytest.raises(UserError, match=r"The log .* can't be written: Is a directory"):
        Log(tmp_path, notes(said))  # type: ignore[arg-type]


def test_a_log_is_read_without_its_unfinished_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path, notes([]))  # type: ignore[arg-type]
    log.answered(answer())
    log.close()
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert len(list(read_log(path))) == 1
    path.write_text(json.dumps({"time": "x"}) + "\n" + whole)
    with pytest.raises(UserError, match=r"Line 1 of .* isn't an answer"):
        list(read_log(path))


def test_windows_are_compared_once_each_and_drift_is_said() -> None:
    said: list[str] = []
    found: list[tuple[str, Drift]] = []
    proven = [("cat", 0.9)] * 150 + [("other", 0.6)] * 150
    watch = DriftWatch({"m": proven}, notes(said), lambda name, drift: found.append((name, drift)))  # type: ignore[arg-type]
    for k in range(2 * WINDOW + 10):
        watch.answered(answer("cat", 0.9) if k % 2 or k >= WINDOW else answer("other", 0.6))
        watch.answered(Answer("unknown", {"cat": 1.0}))
    watch.close()
    assert [(name, drift.found) for name, drift in found] == [("m", False), ("m", True)]
    assert len(said) == 1
    assert "the classes and the confidence of the last 200 answers are not those of the test images" in said[0]
