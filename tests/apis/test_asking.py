"""Asking a server with the faults of real ones: every image is answered or listed, and none is paid for twice."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith.apis.asking import Asking, Item, Unanswered
from lensmith.apis.pacing import Pacing
from lensmith.apis.pictures import picture
from lensmith.apis.recording import Recording
from lensmith.apis.sending import Response
from lensmith.errors import UserError
from tests.apis.conftest import ask, items, png
from tests.apis.fake_api import FakeApi, running

Make = Callable[..., Asking]
FAULTS = {"limit": 0.05, "limit_silently": 0.02, "error": 0.05, "hang": 0.02, "cut": 0.03, "garbage": 0.03}
FAULTS |= {"slow": 0.02}


@pytest.mark.long
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_faults_of_the_moment_cost_no_answer(
    provider: str, asking: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith.apis.sending.FIRST_WAIT", 0.1)
    with running(FakeApi(faults=FAULTS, delay=0.01)) as api:
        one = asking(api, provider, timeout=2.0)
        asked = ask(one, items(150))
    with Recording(tmp_path) as recording:
        answers = [recording.get(key) for key in asked.digests.values()]
    assert len(answers) == 150
    assert all(answer and answer.sent == {"width": 12, "height": 8} | answer.sent for answer in answers)
    assert all(answer and answer.kind == "answer" for answer in answers)
    answered = Counter(row["key"] for row in api.log if row["status"] == 200)
    assert set(answered.values()) == {1}, "an image was paid for twice"
    assert {row["status"] for row in api.log} == {0, 200, 429, 503}


def test_faults_of_an_image_are_answers_of_their_kind(asking: Make, tmp_path: Path) -> None:
    faults = {"refuse": 0.15, "chatty": 0.15, "unlisted": 0.15, "loose": 0.15, "reject": 0.15}
    with running(FakeApi(faults=faults, seed=1)) as api:
        ask(asking(api), items(60))
        before = len(api.log)
        ask(asking(api), items(60))  # a second run of the same asks nothing
    assert len(api.log) == before == 60
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {"answer", "refused", "malformed", "unlisted", "rejected"}
    assert {row["detail"] for row in rows if row["kind"] == "unlisted"} == {"a zebra"}
    assert any("can't assist" in row["detail"] for row in rows if row["kind"] == "refused")


def test_the_delay_is_that_of_the_last_attempt_alone(asking: Make, tmp_path: Path) -> None:
    with running(FakeApi(faults={"error": 0.3}, delay=0.1)) as api:
        ask(asking(api, concurrency=8), items(24))
    with Recording(tmp_path) as recording:
        answers = list(recording)
    assert any(len(answer.attempts) > 1 for answer in answers)
    server = statistics.median(row["seconds"] for row in api.log if row["status"] == 200)
    ours = [answer.seconds or 0.0 for answer in answers]
    assert min(ours) >= 0.1
    again = [answer.seconds or 0.0 for answer in answers if len(answer.attempts) > 1]
    assert min(again) < 0.34, "a wait of at least 0.25 s between attempts was counted"
    assert statistics.median(ours) - server < 0.1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        *((401, "OPENAI_API_KEY"), (403, "allowed"), (404, "Check the model's name"), (402, "no credit")),
        (307, "server's address"),
    ],
)
def test_what_every_image_would_be_told_stops_at_once(status: int, words: str, asking: Make) -> None:
    with running(FakeApi(statuses={"completions": status})) as api:
        with pytest.raises(UserError, match="HTTP") as error:
            ask(asking(api), items(200))
        assert words in str(error.value)
        assert f"status {status}" in str(error.value)
        assert len(api.bodies) == 1, "the first request goes alone"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_image_does_not_follow_a_redirect(provider: str, asking: Make) -> None:
    with running(FakeApi()) as elsewhere, running(FakeApi(location=elsewhere.url)) as api:
        with pytest.raises(UserError, match="HTTP 307"):
            ask(asking(api, provider), items(3))
        assert elsewhere.bodies == []


def test_a_key_that_the_api_repeats_is_masked() -> None:
    said = Response(401, json.dumps({"error": {"message": f"Incorrect key: sk-{'a1' * 40}"}}), 0.0).message
    assert said == "Incorrect key: ***."


def test_a_model_that_takes_no_images_says_so_and_nothing_is_kept(asking: Make, tmp_path: Path) -> None:
    with running(FakeApi(statuses={"completions": 400})) as api:
        with pytest.raises(UserError, match="rejected each of the first 3 images: status 400"):
            ask(asking(api), items(200))
        assert len(api.bodies) < 8
    assert (tmp_path / "answers.jsonl").read_text() == ""


def test_a_server_that_never_answers_is_left_and_the_rest_can_be_asked_for(asking: Make, tmp_path: Path) -> None:
    with running(FakeApi()) as api:
        ask(asking(api), items(5))
        api.statuses["completions"] = 503
        with pytest.raises(Unanswered, match=r"got no answer from 127.0.0.1.*HTTP 503"):
            ask_quickly(asking(api), 8)
        api.statuses.clear()
        asked = ask(asking(api), items(8))
    assert len(asked.digests) == 8
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 8


def ask_quickly(asking: Asking, n: int) -> None:
    """Without the waits between attempts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Response, "wait", lambda *_: 0.0)
        ask(asking, items(n))


def test_the_budget_ends_before_it_is_exceeded(asking: Make, tmp_path: Path) -> None:
    # 100 tokens at $1 per million tokens are $0.0001 an image.
    with (
        running(FakeApi(delay=0.01)) as api,
        pytest.raises(UserError, match=r"The budget of \$0.005 allows no further request"),
    ):
        ask(asking(api, budget=0.005), items(200))
    paid = len((tmp_path / "answers.jsonl").read_text().splitlines())
    assert paid * 0.0001 <= 0.005 + 1e-9
    assert paid >= 25


def test_copies_are_asked_about_once(asking: Make) -> None:
    rows: list[Item] = [(f"copy {k}", partial(picture, png(1), "a", 10**6)) for k in range(10)]
    with running(FakeApi(delay=0.02)) as api:
        asked = ask(asking(api), rows)
    assert len(api.bodies) == 1
    assert len(asked.digests) == 10


def test_an_unreadable_image_is_not_sent(asking: Make) -> None:
    with running(FakeApi()) as api:
        asked = ask(asking(api), [("bad", partial(picture, png(1)[:60], "bad.png", 10**6)), *items(2)])
    assert list(asked.unreadable) == ["bad"]
    assert len(api.bodies) == 2


def test_ctrl_c_waits_for_what_is_on_its_way(asking: Make, tmp_path: Path) -> None:
    with running(FakeApi(delay=0.2)) as api:
        one = asking(api, timeout=5.0)

        async def interrupted() -> None:
            task = asyncio.create_task(one.all(items(500), lambda _: None))
            await asyncio.sleep(1.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(interrupted())
        one.close()
        sent = len(api.bodies)
    assert sent == len((tmp_path / "answers.jsonl").read_text().splitlines()) > 5


def test_a_line_cut_by_a_crash_is_asked_again_and_the_next_line_is_whole(asking: Make, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with running(FakeApi()) as api:
        ask(asking(api), items(5))
        path.write_bytes(path.read_bytes()[:-40])
        ask(asking(api), items(6))
        assert len(api.bodies) == 7
    assert all(json.loads(line) for line in path.read_text().splitlines())
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match=r"Line 1 of .* is damaged"):
        Recording(tmp_path)


def test_a_replay_is_marked_and_asks_nothing(asking: Make, tmp_path: Path) -> None:
    from lensmith.apis.recording import earlier

    with running(FakeApi()) as api:
        ask(asking(api), items(4))
        (tmp_path / "first").mkdir()
        (tmp_path / "answers.jsonl").rename(tmp_path / "first" / "answers.jsonl")
        again = asking(api)
        again.earlier = earlier(tmp_path / "first")
        ask(again, items(6))
        assert len(api.bodies) == 6
    with Recording(tmp_path) as recording:
        answers = list(recording)
    assert sum(answer.replayed for answer in answers) == 4
    assert sum(answer.seconds is None for answer in answers) == 4, "a replay has no delay of its own"


def test_the_rate_that_the_api_allows_is_found(asking: Make) -> None:
    with running(FakeApi(delay=0.05, most=6)) as api:
        start = time.perf_counter()
        ask(asking(api, concurrency=64, timeout=5.0), items(200))
        seconds = time.perf_counter() - start
    limited = sum(row["status"] == 429 for row in api.log)
    assert limited < 100
    assert 200 / seconds > 0.2 * 6 / 0.05


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 100))
def test_the_pace_stays_within_its_bounds(answered: list[bool], most: int) -> None:
    pacing = Pacing(most)
    for good in answered:
        pacing.succeeded(0.1) if good else pacing.refused(0.0)
        assert 1 <= pacing.limit <= most


@pytest.mark.parametrize(
    ("headers", "wait"),
    [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "250"}, 0.25), ({"retry-after": "9999999"}, 600.0)],
)
def test_the_wait_that_the_api_names_is_kept(headers: dict[str, str], wait: float) -> None:
    assert Response(429, "", 0.0, headers).wait(3, 600.0) == wait


@pytest.mark.parametrize("said", ["soon", "", "-", "Wed, 99 Foo 2026", "nan"])
def test_a_wait_that_means_nothing_is_ignored(said: str) -> None:
    assert 0 < Response(429, "", 0.0, {"retry-after": said}).wait(0, 600.0) <= 0.5
