"""Whatever workers do, every shard is done or set aside, and no worker has more than two."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from lensmith.bulk.schedule import COPIES, IN_FLIGHT, TRIES, Schedule


@given(st.integers(0, 30), st.integers(1, 5), st.data())
def test_every_shard_is_done_once_whatever_workers_do(shards: int, workers: int, data: st.DataObject) -> None:
    schedule = Schedule(iter(range(shards)))
    has = {worker: deque[int]() for worker in range(workers)}
    for worker in has:
        schedule.join(worker)
    born, done, deaths = workers, list[int](), 0
    while not schedule.finished:
        for worker, queue in has.items():
            while (shard := schedule.next_for(worker)) is not None:
                queue.append(shard)
            assert len(queue) <= IN_FLIGHT
            assert len(set(queue)) == len(queue)
        everywhere = [shard for queue in has.values() for shard in queue]
        assert all(everywhere.count(shard) <= COPIES for shard in everywhere)
        worker = data.draw(st.sampled_from([worker for worker, queue in has.items() if queue]))
        what = data.draw(st.sampled_from(["done", "done", "fail", "lose"]))
        shard = has[worker][0]
        if what == "done":
            has[worker].popleft()
            if schedule.done(worker, shard):
                done.append(shard)
        elif what == "fail":
            has[worker].popleft()
            schedule.fail(worker, shard, "it failed")
        else:
            del has[worker]
            schedule.lose(worker, "it died")
            schedule.join(born)
            has[born], born, deaths = deque(), born + 1, deaths + 1
    assert sorted([*done, *schedule.set_aside]) == list(range(shards))


def test_only_the_shard_in_progress_is_blamed_for_a_lost_worker() -> None:
    schedule = Schedule(iter(range(2)))
    for k in range(TRIES):
        schedule.join(k)
        assert [schedule.next_for(k), schedule.next_for(k)] == [0, 1] if k == 0 else True
        while schedule.next_for(k) is not None:
            pass
        schedule.lose(k, "killed")
    assert set(schedule.set_aside) <= {0, 1}
    assert len(schedule.set_aside) <= 1, "each death is one shard's"


def test_the_last_shards_are_done_twice_by_idle_workers() -> None:
    schedule = Schedule(iter(range(1)))
    for worker in range(3):
        schedule.join(worker)
    assert [schedule.next_for(worker) for worker in range(3)] == [0, 0, None]
    assert schedule.done(1, 0)
    assert schedule.finished
    assert not schedule.done(0, 0), "the slow one comes second, and isn't counted"


def test_a_shard_that_fails_each_time_is_set_aside_with_its_reason() -> None:
    schedule = Schedule(iter(range(2)))
    schedule.join(0)
    while not schedule.finished:
        shard = schedule.next_for(0)
        if shard == 0:
            schedule.fail(0, 0, "the file is damaged")
        elif shard == 1:
            schedule.done(0, 1)
    assert schedule.set_aside == {0: "the file is damaged"}


def test_a_copy_that_arrives_after_all_saves_a_shard_that_was_given_up() -> None:
    schedule = Schedule(iter([0]), tries=1)
    schedule.join(0)
    schedule.join(1)
    assert schedule.next_for(0) == schedule.next_for(1) == 0
    assert schedule.fail(0, 0, "no")
    assert schedule.done(1, 0)
    assert schedule.set_aside == {}
