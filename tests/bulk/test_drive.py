"""Every image once, whatever dies; what was done before isn't done again; what can't be done is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from lensmith.bulk import drive as drive_module
from lensmith.bulk.drive import drive
from lensmith.bulk.plan import PART, PARTS, Plan, make_plan
from lensmith.bulk.pool import Event, Lost, Model, Refused
from lensmith.bulk.shard import Task
from lensmith.bulk.storage import Storage
from lensmith.bulk.totals import Totals
from lensmith.errors import UserError
from lensmith.progress import Note
from tests.bulk.conftest import S3, Unreliable, answer

RUN = {"name": "mine", "weights": "0123", "labels": ["circle", "square"]}


class Job:
    """A bulk prediction of a folder, in shards of four images."""

    def __init__(self, pictures: Path, out: str, shard: int = 4) -> None:
        self.out, self.said = Storage(out, wait=30), list[str]()
        manifest = make_plan(self.out, str(pictures), RUN, False, shard, 1 << 30, lambda event: None)
        self.plan = Plan(self.out, manifest)

    def go(self, pool: Any) -> Totals:
        task = Task(self.plan.manifest["kind"], self.out.address, False, 1_000_000, 30)
        tell = lambda event: self.said.append(event.text) if isinstance(event, Note) else None  # noqa: E731
        return drive(self.out, self.plan, pool, Model(None), task, tell, 0.0)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all parts, as any program reads them."""
        found: list[dict[str, Any]] = ds.dataset(self.out.path(PARTS), filesystem=self.out.files).to_table().to_pylist()
        return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(8))
def test_every_image_is_answered_once_whatever_dies(seed: int, pictures: Path, tmp_path: Path) -> None:
    job, pool = Job(pictures, str(tmp_path / "out")), Unreliable(3, death=0.3, seed=seed)
    totals = job.go(pool)
    names = Counter(row["image"] for row in job.rows())
    wanted = {str(file) for file in pictures.rglob("*.png")}
    missing = {str(p.address) for k in totals.set_aside for p in job.plan.pieces(k)}
    assert set(names) == wanted - missing
    assert set(names.values()) == {1}
    assert totals.images == len(names)
    assert all(row["label"] == answer(row["image"]) for row in job.rows())
    assert pool.deaths or seed


@pytest.mark.usefixtures("quick")
def test_a_shard_that_kills_its_worker_each_time_is_set_aside(pictures: Path, tmp_path: Path) -> None:
    job = Job(pictures, str(tmp_path / "out"))
    totals = job.go(Unreliable(poison=[3]))
    assert totals.set_aside == {3: "killed by SIGKILL"}
    assert totals.images == 56
    assert "The shard 3 is set aside: killed by SIGKILL." in job.said
    again = job.go(Unreliable())
    assert not again.set_aside
    assert again.images == 60
    assert again.now == 4, "only what was missing"


@pytest.mark.usefixtures("quick")
def test_a_resumed_job_counts_what_was_there_and_replaces_damaged_parts(pictures: Path, tmp_path: Path) -> None:
    job = Job(pictures, str(tmp_path / "out"))
    job.go(Unreliable())
    (tmp_path / "out" / PART.format(2)).write_bytes(b"PAR1 cut")
    (tmp_path / "out" / PART.format(5)).write_bytes(b"")
    whole = (tmp_path / "out" / PART.format(4)).read_bytes()
    (tmp_path / "out" / PART.format(6)).write_bytes(whole)  # another part under this name
    pool = Unreliable()
    totals = job.go(pool)
    assert sorted(pool.done) == [2, 5, 6]
    assert totals.images == 60
    assert sum(totals.classes.values()) == 60
    assert len({row["image"] for row in job.rows()}) == 60
    assert sum(totals.confidence) == totals.confidence[15] == 60


@pytest.mark.usefixtures("quick")
def test_parts_that_a_store_has_lost_are_written_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, real, lost = Job(pictures, str(tmp_path / "out")), drive_module._present, [3, 7]

    def present(out: Storage, shards: int) -> bytearray:
        if (tmp_path / "out" / PART.format(9)).exists() and lost:  # at the end
            (tmp_path / "out" / PART.format(lost.pop())).unlink()
        return real(out, shards)

    monkeypatch.setattr(drive_module, "_present", present)
    totals = job.go(Unreliable())
    assert any("The storage has lost" in said for said in job.said)
    assert totals.images == len(job.rows()) == 60
    assert sum(totals.classes.values()) == 60


@pytest.mark.usefixtures("quick")
def test_a_store_restarted_in_the_middle_loses_nothing(pictures: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    job, pool = Job(pictures, "s3://bucket/out dir"), Unreliable()
    real, steps = pool.events, []

    def events(seconds: float) -> list[Event]:
        steps.append(1)
        if len(steps) == 8:
            import threading

            s3.stop()
            threading.Timer(1.5, s3.restart).start()
        return real(seconds)

    monkeypatch.setattr(pool, "events", events)
    assert job.go(pool).images == 60
    assert len({row["image"] for row in job.rows()}) == len(job.rows()) == 60


@pytest.mark.usefixtures("quick")
def test_credentials_that_expire_in_the_middle_end_the_job_and_what_is_done_is_kept(pictures: Path, s3: S3) -> None:
    job, pool = Job(pictures, "s3://bucket/out"), Unreliable(1)
    s3.expire(16)
    with pytest.raises(UserError, match=r"refuses access to s3://bucket/out.*Check the credentials"):
        job.go(pool)
    assert 2 <= len(pool.done) < 15, "it was in the middle"
    s3.expire(10**9)  # they are renewed
    second = Unreliable(1)
    assert job.go(second).images == 60
    assert not set(pool.done) & set(second.done)


@pytest.mark.usefixtures("quick")
def test_what_the_user_must_mend_ends_the_job_and_what_is_done_is_kept(pictures: Path, tmp_path: Path) -> None:
    job, pool = Job(pictures, str(tmp_path / "out")), Unreliable()
    real = pool.events
    pool.events = lambda seconds: (  # type: ignore[method-assign]
        [Refused(UserError("The storage refuses.", "Mend it."))] if len(pool.done) > 4 else real(seconds)
    )
    with pytest.raises(UserError, match=r"The storage refuses\."):
        job.go(pool)
    second = Unreliable()
    assert job.go(second).images == 60
    assert len(set(second.done)) == 10


@pytest.mark.usefixtures("quick")
def test_workers_that_never_get_ready_end_the_job(pictures: Path, tmp_path: Path) -> None:
    pool = Unreliable()
    pool.events = lambda seconds: [Lost(99, "it ended with code 1: no module named torch")]  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"Workers don't get as far as to load the model: .*no module named torch"):
        Job(pictures, str(tmp_path / "out")).go(pool)


@pytest.mark.usefixtures("quick")
def test_unreadable_images_are_rows_with_their_error(pictures: Path, tmp_path: Path) -> None:
    job = Job(pictures, str(tmp_path / "out"))
    gone = list(pictures.rglob("*.png"))[:3]
    for file in gone:
        file.unlink()
    totals = job.go(Unreliable())
    rows = [row for row in job.rows() if row["error"]]
    assert {row["image"] for row in rows} == set(map(str, gone))
    assert all(row["label"] is None and row["probability"] is None for row in rows)
    assert totals.errors == {"There is no image file IMAGE": 3}
    assert totals.images == 60
