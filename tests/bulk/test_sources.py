"""The same images from every kind of source, and what isn't whole is said."""

from __future__ import annotations

import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensmith.bulk.sources import Piece, kind_of, module
from lensmith.bulk.storage import is_remote
from lensmith.errors import ImageError, UserError
from tests.bulk.conftest import S3


def contents(address: str) -> dict[str, bytes]:
    """Every image of a source by its name."""
    source = module(kind_of(address))
    found: dict[str, bytes] = {}
    for piece in source.pieces(address):
        for name, load in source.items(piece):
            assert name not in found
            content = load()
            found[name] = content.read_bytes() if isinstance(content, Path) else content
    return found


def as_tar(folder: Path, target: Path, mode: str = "w") -> Path:
    target.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(target, mode) as tar:  # type: ignore[call-overload]
        for file in sorted(folder.rglob("*.png")):
            tar.add(file, file.relative_to(folder).as_posix())
        about = tarfile.TarInfo("x.json")
        tar.addfile(about, io.BytesIO(b""))
    return target


def as_parquet(folder: Path, target: Path, rows: int = 7) -> Path:
    files = sorted(folder.rglob("*.png"))
    cells = [{"bytes": file.read_bytes(), "path": file.relative_to(folder).as_posix()} for file in files]
    target.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table({"image": cells, "label": range(len(cells))}), target, row_group_size=rows)
    return target


def test_every_kind_of_source_has_the_same_images(pictures: Path, tmp_path: Path) -> None:
    expected = sorted(file.read_bytes() for file in pictures.rglob("*.png"))
    (tmp_path / "list.txt").write_text(
        "\n".join(["", *(f"many pictures/{p.relative_to(pictures)}" for p in pictures.rglob("*.png"))])
    )
    sources = {
        "folder": str(pictures),
        "addresses": str(tmp_path / "list.txt"),
        "tar": str(as_tar(pictures, tmp_path / "tars" / "a.tar")),
        "parquet": str(as_parquet(pictures, tmp_path / "tables" / "a.parquet")),
    }
    as_tar(pictures, tmp_path / "zipped.tar.gz", "w:gz")
    for kind, address in sources.items():
        assert kind_of(address) == kind
        assert sorted(contents(address).values()) == expected
    assert kind_of(str(tmp_path / "tars")) == "tar"
    assert kind_of(str(tmp_path / "tables")) == "parquet"
    assert sorted(contents(str(tmp_path / "zipped.tar.gz")).values()) == expected
    assert "a/1.png" in contents(sources["parquet"]), "the path in the table names the image"


def test_sources_are_read_from_an_object_store(pictures: Path, tmp_path: Path, s3: S3) -> None:
    for file in pictures.rglob("*.png"):
        s3.client.upload_file(str(file), "bucket", f"pictures/{file.relative_to(pictures)}")
    s3.client.upload_file(str(as_tar(pictures, tmp_path / "a.tar")), "bucket", "tars/a.tar")
    s3.client.upload_file(str(as_parquet(pictures, tmp_path / "a.parquet")), "bucket", "tables/a.parquet")
    expected = sorted(file.read_bytes() for file in pictures.rglob("*.png"))
    for address in ("s3://bucket/pictures", "s3://bucket/tars", "s3://bucket/tables/a.parquet"):
        found = contents(address)
        assert sorted(found.values()) == expected
    assert all(is_remote(name) for name in contents("s3://bucket/pictures"))
    (tmp_path / "list.txt").write_text("s3://bucket/pictures/a/1.png\ns3://bucket/pictures/a/nothing.png")
    source = module("addresses")
    (_, first), (_, second) = [next(source.items(piece)) for piece in source.pieces(str(tmp_path / "list.txt"))]
    assert first() == (pictures / "a" / "1.png").read_bytes()
    with pytest.raises(ImageError, match=r"There is no image file s3://bucket/pictures/a/nothing\.png"):
        second()


def test_an_archive_in_a_store_takes_few_requests(
    pictures: Path, tmp_path: Path, s3: S3, caplog: pytest.LogCaptureFixture
) -> None:
    archive = as_tar(pictures, tmp_path / "a.tar")
    s3.client.upload_file(str(archive), "bucket", "a.tar")
    with caplog.at_level("INFO", logger="werkzeug"):
        assert len(contents("s3://bucket/a.tar")) == 60
    gets = [record for record in caplog.records if "GET /bucket/a.tar" in record.getMessage()]
    assert 1 <= len(gets) <= 3, "not one for each block of an archive"


def test_images_of_the_web_are_read_from_a_list(pictures: Path, tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/1.png" else 404)
            self.end_headers()
            self.wfile.write((pictures / "a" / "1.png").read_bytes() if self.path == "/1.png" else b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "list.txt").write_text(f"{base}/1.png\n{base}/2.png\n")
        source = module("addresses")
        first, second = [next(source.items(piece))[1] for piece in source.pieces(str(tmp_path / "list.txt"))]
        assert first() == (pictures / "a" / "1.png").read_bytes()
        with pytest.raises(ImageError, match=r"no image at .*2\.png \(HTTP 404\)"):
            second()
        server.shutdown()


def test_a_truncated_archive_is_read_up_to_its_end_and_the_rest_is_an_error(pictures: Path, tmp_path: Path) -> None:
    whole = as_tar(pictures, tmp_path / "a.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: 1024 * 20 + 700])  # in the middle of an image
    items = list(module("tar").items(Piece(str(cut), images=0)))
    assert all(load() for _, load in items[:-1])
    assert 5 < len(items) < 25
    with pytest.raises(ImageError, match=rf"cut\.tar is damaged after {len(items) - 1} images"):
        items[-1][1]()


def test_row_groups_are_pieces_and_a_row_is_named_by_its_place(pictures: Path, tmp_path: Path) -> None:
    files = sorted(pictures.rglob("*.png"))
    table = pa.table({"id": range(60), "picture": [file.read_bytes() for file in files]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=25)
    source = module("parquet")
    pieces = list(source.pieces(str(tmp_path / "a.parquet")))
    assert [(piece.first, piece.images) for piece in pieces] == [(0, 25), (1, 25), (2, 10)]
    assert [name.rpartition("#")[2] for name, _ in source.items(pieces[2])] == [str(k) for k in range(50, 60)]


def test_an_empty_cell_is_one_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x", None]}), tmp_path / "a.parquet")
    (_, first), (_, second) = module("parquet").items(Piece(str(tmp_path / "a.parquet"), 0, 1, 2))
    assert first() == b"x"
    with pytest.raises(ImageError, match="has no bytes"):
        second()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.parquet", b"PAR1nonsense", "isn't a whole Parquet file"),
        ("list.txt", b"\n\n", "has no addresses"),
        ("list.txt", b"\xff\xfe\x00", "isn't text in UTF-8"),
        ("readme.md", b"x", "Can't tell what kind"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        list(module(kind_of(str(tmp_path / name))).pieces(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.txt", "nowhere.tar", "nowhere.parquet"])
def test_sources_that_do_not_exist_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        list(module(kind_of(str(tmp_path / name))).pieces(str(tmp_path / name)))


def test_a_table_of_paths_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"Its columns: path.*\.txt file of addresses"):
        list(module("parquet").pieces(str(tmp_path / "a.parquet")))
