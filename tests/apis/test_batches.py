"""Batch interfaces: submitted once, left, and picked up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensmith.apis import batches
from tests.apis.fake_api import FakeApi, running
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(batches, "PAUSE", 0.01)
    with running(FakeApi(faults={"reject": 0.1, "refuse": 0.1})) as api:
        yield api


def words(shapes: Shapes, api: FakeApi, provider: str) -> list[str | Path]:
    url = api.url if provider == "anthropic" else f"{api.url}/v1"
    base, price = f"model.base={provider}:m@{url}", "api.price={input: 1, output: 1}"
    return ["evaluate", shapes(circle=40, square=40), base, price, "api.batch=true", "data.test=0.5", "--run", "api"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_batch_is_submitted_and_picked_up(provider: str, shapes: Shapes, api: FakeApi, run: Run) -> None:
    code, out, err = run(*words(shapes, api, provider))
    assert code == 0, err
    assert "lensmith attach api" in out
    assert not Path("api/evaluation.json").exists()
    submitted = [row["custom_id"] for batch in api.batches.batches for row in batch]
    code, out, err = run("attach", "api")
    assert code == 0, err
    evaluation = json.loads(Path("api/evaluation.json").read_text())
    assert len(submitted) == len(set(submitted)) == evaluation["accuracy"]["n"]
    assert [row["custom_id"] for batch in api.batches.batches for row in batch] == submitted, "submitted again"
    assert api.bodies == [], "nothing was asked at the full price"
    summary = json.loads(Path("api/api.json").read_text())
    # 110 tokens at a dollar per million, by half; a rejected image costs nothing.
    answered = summary["kinds"]["answer"] + summary["kinds"]["refused"]
    assert summary["dollars"] == pytest.approx(answered * 110e-6 / 2, rel=1e-6)
    assert summary["kinds"]["rejected"] > 0
    assert summary["delay"] == {"n": 0}, "a batch says nothing about delays"
    code, _, err = run("attach", "api")
    assert (code, "no remote job" in err) == (2, True)


def test_resuming_waits_for_the_same_batch(shapes: Shapes, api: FakeApi, run: Run) -> None:
    assert run(*words(shapes, api, "openai"))[0] == 0
    code, _, err = run("resume", "api")
    assert code == 0, err
    assert len(api.batches.batches) == 1


def test_a_batch_can_be_cancelled(shapes: Shapes, api: FakeApi, run: Run) -> None:
    assert run(*words(shapes, api, "openai"))[0] == 0
    code, out, err = run("attach", "api", "--cancel")
    assert (code, "Cancelled: 1 batch of api" in out) == (0, True), err
    assert api.batches.cancelled == 1


def test_large_work_is_several_batches(shapes: Shapes, api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_REQUESTS", 15)
    assert run(*words(shapes, api, "openai"))[0] == 0
    assert [len(batch) for batch in api.batches.batches][:-1] == [15] * (len(api.batches.batches) - 1)
    assert len(api.batches.batches) >= 2
    assert run("attach", "api")[0] == 0


def test_a_batch_that_failed_says_why(shapes: Shapes, api: FakeApi, run: Run) -> None:
    assert run(*words(shapes, api, "openai"))[0] == 0
    api.batches.failed = "line 3 is too long"
    api.batches.looks = 0
    code, _, err = run("attach", "api")
    assert code == 2
    assert "line 3 is too long" in err
    assert Path("api/batch.json").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["api.repeat=0.5"], "A batch asks about each image once"),
        (["api.budget=0.000001"], "the budget is $1e-06"),
        (["model.base=gemini:m@http://127.0.0.1:9"], "gemini has no batch interface"),
    ],
)
def test_bad_input(options: list[str], sentence: str, shapes: Shapes, api: FakeApi, run: Run) -> None:
    code, _, err = run(*words(shapes, api, "openai"), *options)
    assert code == 2
    assert sentence in err
    assert not Path("api").exists()
