"""Archives are read like what is in them, and nothing leaves the temporary folder or remains in it."""

from __future__ import annotations

import gc
import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from lensmith.data import open_dataset
from lensmith.errors import UserError
from tests.data.conftest import Tree
from tests.data.pictures import png


def test_a_sample_says_where_it_was_in_the_archive(tree: Tree, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "zip", tree({"a": 2, "b": 2}))
    dataset = open_dataset(str(tmp_path / "photos.zip"), validation=0, test=0)
    assert [dataset.train.source(i) for i in range(2)] == ["photos.zip/a/0.png", "photos.zip/a/1.png"]
    assert dataset.train.image(0).size == (4, 4)


def test_nothing_unpacked_remains(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "gztar", tree({"a": 2, "b": 2}))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    dataset = open_dataset(str(tmp_path / "photos.tar.gz"))
    gc.collect()
    assert not list((tmp_path / "temporary").rglob("*.png"))
    del dataset


def test_entries_that_lead_outside_and_links_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for seed, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "../out.png", "/tmp/out.png", "b/._2.png"]):
            entry = tarfile.TarInfo(name)
            entry.size = len(png(seed))
            tar.addfile(entry, io.BytesIO(png(seed)))
        link = tarfile.TarInfo("b/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    dataset = open_dataset(str(tmp_path / "photos.tar"), validation=0, test=0)
    assert len(dataset.train) == 3
    assert "Links and other odd entries of the archive, ignored: 3 entries." in dataset.notes


def test_a_damaged_archive_is_refused(tree: Tree, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "zip", tree({"a": 2, "b": 2}))
    whole = (tmp_path / "photos.zip").read_bytes()
    (tmp_path / "photos.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"photos\.zip isn't an archive, or is damaged"):
        open_dataset(str(tmp_path / "photos.zip"))


def test_an_encrypted_archive_is_refused(tree: Tree, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "zip", tree({"a": 2, "b": 2}))
    content = bytearray((tmp_path / "photos.zip").read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # the flag of encryption in the directory
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 4)
    (tmp_path / "photos.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"photos\.zip is encrypted"):
        open_dataset(str(tmp_path / "photos.zip"))


def test_an_archive_in_an_archive_is_refused(tree: Tree, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "in" / "photos"), "zip", tree({"a": 2, "b": 2}))
    shutil.make_archive(str(tmp_path / "outer"), "zip", tmp_path / "in")
    with pytest.raises(UserError, match=r"outer\.zip/photos\.zip is an archive within an archive"):
        open_dataset(str(tmp_path / "outer.zip"))


def test_what_fills_the_disk_is_refused_before_it_is_unpacked(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "zip", tree({"a": 2, "b": 2}))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"photos\.zip doesn't fit into the temporary folder"):
        open_dataset(str(tmp_path / "photos.zip"))


def test_errors_and_missing_images_name_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("train.csv", "path,label\na.png,a\nb.png,b\nc.png,b\n")
        file.writestr("b.png", png(0))
        file.writestr("c.png", png(1))
    with pytest.raises(UserError, match=r"class 'a' can be read, for example photos\.zip/a\.png"):
        open_dataset(str(tmp_path / "photos.zip"))
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as file:
        for name in ("train/a/0.png", "other/a/0.png", "test/a/1.png"):
            file.writestr(name, png(0))
    with pytest.raises(UserError, match=r"^mixed\.zip has both splits"):
        open_dataset(str(tmp_path / "mixed.zip"))
