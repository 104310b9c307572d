"""Storage: whole files or none, on a disk and in an object store, also when the store is away for a while."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lensmith.bulk import storage as storage_module
from lensmith.bulk.storage import Denied, Storage, patiently
from lensmith.errors import UserError
from tests.bulk.conftest import S3


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_files_are_written_read_and_listed(place: str, tmp_path: Path, s3: S3) -> None:
    storage = Storage(str(tmp_path / "a b") if place == "disk" else "s3://bucket/a b")
    assert storage.sizes() == {}
    assert not storage.exists()
    storage.write("x.bin", b"12345")
    storage.write("inner/y.bin", b"1")
    storage.write("x.bin", b"123")
    (tmp_path / "big").write_bytes(bytes(20_000_000))
    storage.put("big", tmp_path / "big")
    assert storage.read("x.bin") == b"123"
    assert storage.sizes() == {"x.bin": 3, "big": 20_000_000}
    storage.get("big", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == 20_000_000
    assert sorted(name.rpartition("/")[2] for name, _ in storage.walk()) == ["big", "x.bin", "y.bin"]
    with pytest.raises(FileNotFoundError):
        storage.read("z")
    assert not list(tmp_path.rglob("*.part"))


def test_a_store_that_is_away_for_a_while_is_waited_for(s3: S3) -> None:
    storage = Storage("s3://bucket/x", wait=60)
    storage.write("a", b"1")
    s3.stop()
    threading.Timer(2, s3.restart).start()
    began = time.monotonic()
    storage.write("b", b"22")
    assert time.monotonic() - began > 1
    assert storage.read("b") == b"22"


def test_a_store_that_stays_away_ends_in_a_sentence(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage("s3://bucket/x", wait=1)
    s3.stop()
    with pytest.raises(UserError, match=r"s3://bucket/x/a doesn't respond: .*\. .*what is done is kept"):
        storage.write("a", b"1")


def test_a_write_that_was_acknowledged_and_lost_is_repeated(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, lost = Storage("s3://bucket/x"), [True, True, False]
    monkeypatch.setattr(storage_module, "PAUSE", 0.01)
    real = storage.files.open_output_stream

    class Files:
        """The store, which loses the first two objects."""

        def __getattr__(self, name: str) -> Any:
            return getattr(Storage("s3://bucket/x").files, name)

        def open_output_stream(self, path: str) -> Any:
            return real("bucket/elsewhere" if lost.pop(0) else path)

    storage.files = Files()
    storage.write("a", b"123")
    assert lost == []
    assert Storage("s3://bucket/x").read("a") == b"123"


def test_a_store_that_refuses_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise OSError("When getting information for key 'x' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject")

    with pytest.raises(Denied, match=r"refuses access to s3://b/x.*credentials"):
        patiently(action, "s3://b/x")
    for told in (
        "AWS Error EXPIRED_TOKEN: The provided token has expired",
        "google::cloud::Status(UNAUTHENTICATED: no credentials)",
    ):
        with pytest.raises(Denied):
            patiently(lambda told=told: (_ for _ in ()).throw(OSError(told)), "s3://b/x")  # type: ignore[misc]
    assert len(calls) == 1


def test_a_bucket_that_does_not_exist_is_said(s3: S3) -> None:
    with pytest.raises(UserError, match=r"There is no such storage: s3://nowhere/x/a"):
        Storage("s3://nowhere/x", wait=1).write("a", b"1")


def test_damage_is_not_taken_for_an_outage() -> None:
    with pytest.raises(OSError, match="Corrupt"):
        patiently(lambda: (_ for _ in ()).throw(OSError("Corrupt snappy compressed data.")), "/tmp/x")


@pytest.mark.parametrize(("address", "sentence"), [("s3://", "names no bucket"), ("ftp://x/y", "can't read ftp://")])
def test_addresses_that_mean_nothing_are_refused(address: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Storage(address)


def test_azure_needs_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    storage_module._made.cache_clear()
    with pytest.raises(UserError, match="AZURE_STORAGE_ACCOUNT"):
        Storage("az://container/x")


def test_other_stores_have_their_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "someone")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    assert Storage("az://container/a/").root == "container/a"
    assert Storage("az://container/a").files.type_name == "abfs"
    assert Storage("gs://bucket/a").files.type_name == "gcs"
    assert Storage("hf://datasets/a/b").files.type_name.startswith("py::fsspec")
    storage_module._made.cache_clear()
