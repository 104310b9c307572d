"""Shards: every piece in one of them, in order, within their limits; and a plan that reads back as it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmith.bulk import plan as plan_module
from lensmith.bulk.plan import MANIFEST, Plan, make_plan, read_manifest, same_work, shards
from lensmith.bulk.sources import Piece
from lensmith.bulk.storage import Storage
from lensmith.errors import UserError

RUN = {"name": "mine", "weights": "0123", "labels": ["a", "b"]}
PIECES = st.lists(
    st.builds(Piece, st.text(min_size=1), st.just(0), st.just(0), st.integers(0, 20), st.integers(0, 1000)), max_size=60
)


@given(PIECES, st.integers(1, 30), st.integers(1, 2000))
def test_shards_hold_every_piece_in_order_within_their_limits(pieces: list[Piece], rows: int, size: int) -> None:
    made = list(shards(iter(pieces), rows, size))
    assert [piece for shard in made for piece in shard] == pieces
    for shard in made:
        assert len(shard) == 1 or sum(piece.images for piece in shard) <= rows
        assert len(shard) == 1 or sum(piece.size for piece in shard) <= size


def test_neighbouring_row_groups_are_read_together() -> None:
    groups = [Piece("a.parquet", k, 1, 100, 5000) for k in range(7)] + [Piece("b.parquet", 0, 1, 100, 5000)]
    made = list(shards(iter(groups), 300, 1 << 30))
    assert made[0] == [Piece("a.parquet", 0, 3, 300, 15000)]
    assert made[2] == [Piece("a.parquet", 6, 1, 100, 5000), Piece("b.parquet", 0, 1, 100, 5000)]


def test_a_plan_reads_back_as_it_was_made(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_GROUP", 15)  # several row groups
    out = Storage(str(tmp_path / "out"))
    manifest = make_plan(out, str(pictures), RUN, False, 7, 1 << 30, lambda event: None)
    assert manifest["images"] == 60
    plan = Plan(out, manifest)
    assert plan.shards == 9
    names = [Path(piece.address).relative_to(pictures).as_posix() for k in range(9) for piece in plan.pieces(k)]
    assert len(set(names)) == 60
    assert names[:3] == ["a/1.png", "a/3.png", "a/5.png"]
    assert plan.pieces(2) == plan.pieces(2)
    assert read_manifest(out) == manifest


def test_shards_by_bytes_look_up_the_sizes_of_local_files(pictures: Path, tmp_path: Path) -> None:
    sizes = {file: file.stat().st_size for file in pictures.rglob("*.png")}
    most = 3 * max(sizes.values())
    out = Storage(str(tmp_path / "out"))
    plan = Plan(out, make_plan(out, str(pictures), RUN, False, 1000, most, lambda event: None))
    assert plan.shards > 10
    for k in range(plan.shards):
        assert sum(sizes[Path(piece.address)] for piece in plan.pieces(k)) <= most
    (tmp_path / "list.txt").write_text("https://example.org/a.png\n")
    with pytest.raises(UserError, match=r"The size of https://example\.org/a\.png isn't known\..*--shard-images"):
        make_plan(Storage(str(tmp_path / "o")), str(tmp_path / "list.txt"), RUN, False, 10, 10, lambda event: None)


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    odd = tmp_path / "p" / b"caf\xe9.png".decode("utf-8", "surrogateescape")
    odd.parent.mkdir()
    try:
        odd.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only has names in UTF-8")
    out = Storage(str(tmp_path / "out"))
    plan = Plan(out, make_plan(out, str(tmp_path / "p"), RUN, False, 7, 1 << 30, lambda event: None))
    assert Path(plan.pieces(0)[0].address) == odd


def test_what_was_added_to_the_source_since_is_not_in_the_plan(pictures: Path, tmp_path: Path) -> None:
    out = Storage(str(tmp_path / "out"))
    make_plan(out, str(pictures), RUN, False, 7, 1 << 30, lambda event: None)
    (pictures / "a" / "0.png").write_bytes(b"new")
    manifest = read_manifest(out)
    assert manifest
    assert all("a/0.png" not in piece.address for k in range(9) for piece in Plan(out, manifest).pieces(k))


def test_an_output_folder_of_another_job_is_refused(pictures: Path, tmp_path: Path) -> None:
    out = Storage(str(tmp_path / "out"))
    manifest = make_plan(out, str(pictures), RUN, False, 7, 1 << 30, lambda event: None)
    same_work(out, manifest, RUN | {"name": "renamed"}, str(pictures), False)
    with pytest.raises(UserError, match="another model"):
        same_work(out, manifest, RUN | {"weights": "4567"}, str(pictures), False)
    with pytest.raises(UserError, match=r"another source.*many pictures"):
        same_work(out, manifest, RUN, str(tmp_path), False)
    with pytest.raises(UserError, match="other columns"):
        same_work(out, manifest, RUN, str(pictures), True)


def test_a_folder_with_other_files_is_refused_and_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert read_manifest(Storage(str(out))) is None
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"other files, such as notes\.txt"):
        read_manifest(Storage(str(out)))
    (out / "notes.txt").unlink()
    (out / "parts").mkdir()
    (out / "parts" / "part-000000.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"has parts without their manifest\.json"):
        read_manifest(Storage(str(out)))
    (out / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(Storage(str(out)))
    (out / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(Storage(str(out)))
