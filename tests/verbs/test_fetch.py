"""Fetching with the hub's real client, from a small hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants as hub_constants
import pytest

import lensmith
from lensmith import cli, models
from lensmith.cli.screen import Screen
from lensmith.data import open_dataset
from lensmith.errors import UserError
from lensmith.progress import Advance, Note, size
from lensmith.verbs.use import fetch as fetching
from tests.data.pictures import png
from tests.data.sources.test_cifar import python_hundred
from tests.verbs.fake_hub import Hub, Repo, running

pytestmark = pytest.mark.long

NAME = "Owner/LFM2-VL-small"
WEIGHTS = "model.safetensors"


def closed() -> str:
    """An address where nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", url)
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with nano's files as a model, beside files that must not be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits a second before it tries again
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):  # the hub is here, but may be busy
        monkeypatch.setattr(hub_constants, name, 300)
        monkeypatch.setenv(name, "300")  # for subprocesses
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running() as server:
        point_at(monkeypatch, server.url)
        files = {path.name: path.read_bytes() for path in models.NANO.iterdir()}
        files |= {"LICENSE": b"a licence", "pytorch_model.bin": b"\x80pickle", "picture.png": png(1)}
        card = {"license": "other", "license_name": "lfm1.0", "license_link": "LICENSE"}
        server.repos[f"models/{NAME}"] = [Repo(files, card)]
        yield server


class Heard(list[Any]):
    """The reported events."""

    def __call__(self, event: Any) -> None:
        self.append(event)

    @property
    def text(self) -> str:
        return "\n".join(event.text for event in self if isinstance(event, Note))


def test_a_model_with_its_plan_licence_and_hashes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    (record,) = lensmith.fetch([NAME], "assets", heard)["fetched"]
    folder = Path(record["folder"])
    assert record["option"] == f"model.base={folder}" == "model.base=assets/LFM2-VL-small"
    assert record["licence"] == f"lfm1.0 ({hub.url}/{NAME}/blob/main/LICENSE)"
    assert record["licence"] in heard[0].text, "licence and size are shown first"
    assert size(record["bytes"]) in heard[0].text
    wanted = {p.name for p in models.NANO.iterdir()} - {"README.md"} | {"LICENSE"}
    assert {p.name for p in folder.rglob("*")} == wanted, "no pickle, no picture, nothing incomplete"
    assert all((folder / n).read_bytes() == (models.NANO / n).read_bytes() for n in wanted - {"LICENSE"})
    assert record["files"] == len(wanted)
    assert record["loaded"] == record["bytes"] == sum(p.stat().st_size for p in folder.iterdir())
    last = [event for event in heard if isinstance(event, Advance)][-1]
    assert (last.done, last.total, last.unit) == (record["bytes"], record["bytes"], "bytes")

    tokens = {name: token for name, _, token in hub.asked}
    assert tokens["config.json"] == "Bearer hf_secret"
    assert tokens[WEIGHTS] == "", "another host doesn't get the token"

    hub.asked.clear()
    (again,) = lensmith.fetch([NAME], "assets", heard)["fetched"]
    assert (again["loaded"], hub.asked) == (0, [])
    assert "all already present" in heard.text
    point_at(monkeypatch, closed())
    assert models.find(str(folder)) == folder
    assert models.read_config(folder, "it")["model_type"]


def test_a_broken_download_resumes_in_the_same_run_and_in_the_next(hub: Hub) -> None:
    hub.cut_once[WEIGHTS] = 3_000_000
    lensmith.fetch([NAME], "once")
    ranges = [r for name, r, _ in hub.asked if name == WEIGHTS]
    assert ranges[0] == ""
    assert 2_000_000 < int(ranges[1].strip("bytes=-")) <= 3_000_000

    hub.asked.clear()
    hub.cut[WEIGHTS] = 3_000_000
    with pytest.raises(
        UserError, match=r"connection broke with 2\.\d MB of 9\.1 MB of model\.safetensors downloaded.*resumes"
    ):
        lensmith.fetch([NAME], "twice")
    assert not Path("twice/LFM2-VL-small", WEIGHTS).exists()
    assert Path("twice/LFM2-VL-small/config.json").exists(), "complete files are kept"
    hub.cut.clear()
    hub.asked.clear()
    heard = Heard()
    (record,) = lensmith.fetch([NAME], "twice", heard)["fetched"]
    assert "already present" in heard.text
    first = next(r for name, r, _ in hub.asked if name == WEIGHTS)
    assert int(first.strip("bytes=-")) > 2_000_000
    assert record["loaded"] < 7_200_000
    assert not list(Path("twice").rglob("*.part"))
    assert Path("twice/LFM2-VL-small", WEIGHTS).read_bytes() == (models.NANO / WEIGHTS).read_bytes()


def test_ctrl_c_keeps_downloaded_data(hub: Hub) -> None:
    def stop(event: Any) -> None:
        heard.append(event)
        if isinstance(event, Advance) and event.done > 4_000_000:
            raise KeyboardInterrupt

    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        lensmith.fetch([NAME], "assets", stop)
    assert "Run the same command again" in heard.text
    (part,) = Path("assets").rglob("*.part")
    begun = part.stat().st_size
    assert begun > 3_000_000
    hub.asked.clear()
    lensmith.fetch([NAME], "assets")
    assert (WEIGHTS, f"bytes={begun}-", "") in hub.asked


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_does_not_match_its_hash_is_removed_and_named(hub: Hub, name: str) -> None:
    hub.spoil.add(name)
    with pytest.raises(UserError, match=f"don't match their published hashes and were removed: {name}"):
        lensmith.fetch([NAME], "assets")
    folder = Path("assets/LFM2-VL-small")
    assert not (folder / name).exists()
    assert not list(folder.glob("*.part"))
    hub.spoil.clear()
    lensmith.fetch([NAME], "assets")
    # Damaged on disk, with the same size.
    (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=name):
        lensmith.fetch([NAME], "assets")
    assert not (folder / name).exists()
    lensmith.fetch([NAME], "assets")
    assert (folder / name).read_bytes() == (models.NANO / name).read_bytes()


def test_another_version_replaces_the_first(hub: Hub) -> None:
    lensmith.fetch([NAME], "assets")
    hub.repos[f"models/{NAME}"][0].files["config.json"] = b'{"model_type": "another one"}'
    heard = Heard()
    lensmith.fetch([NAME], "assets", heard)
    assert "replaces config.json" in heard.text
    assert b"another one" in Path("assets/LFM2-VL-small/config.json").read_bytes()


def dataset_files() -> dict[str, bytes]:
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["ant", "bee"])})
    files = {}
    for part, numbers in {"train": range(12), "test": range(20, 24)}.items():
        rows = {
            "img": [{"bytes": png(k), "path": None} for k in numbers],
            "fine_label": [k % 2 for k in numbers],
        }
        stream = io.BytesIO()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(stream)
        files[f"cifar100/{part}-00000-of-00001.parquet"] = stream.getvalue()
    return files


def test_a_dataset_and_its_parquet_version(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = dataset_files()
    about = {"README.md": b"about", "script.py": b"print()"}
    hub.repos["datasets/uoft-cs/cifar100"] = [Repo(files | about, {"license": ["mit", "cc0-1.0"]})]
    converted = {f"default/{p}/0000.parquet": files[f"cifar100/{p}-00000-of-00001.parquet"] for p in ("train", "test")}
    hub.repos["datasets/owner/zipped"] = [Repo({"all.zip": b"zip"}), Repo(converted, revision=fetching.CONVERTED)]
    hub.repos["datasets/owner/bare"] = [Repo({"all.zip": b"zip"})]
    first, second = lensmith.fetch(["hub:uoft-cs/cifar100", "hub:owner/zipped"], "assets")["fetched"]
    assert (first["option"], first["licence"]) == ("data.uri=hub:assets/cifar100", "mit, cc0-1.0")
    assert second["licence"] == "no stated licence"
    assert not Path("assets/cifar100/script.py").exists()
    assert Path("assets/cifar100/README.md").exists()
    with pytest.raises(UserError, match="no Parquet"):
        lensmith.fetch(["hub:owner/bare"], "assets")
    hub.repos["datasets/other/cifar100"] = hub.repos["datasets/uoft-cs/cifar100"]
    with pytest.raises(UserError, match="would both go to"):
        lensmith.fetch(["hub:uoft-cs/cifar100", "hub:other/cifar100"], "assets")
    point_at(monkeypatch, closed())
    for record in (first, second):
        dataset = open_dataset(record["option"].removeprefix("data.uri="), validation=0)
        assert dataset.labels == ("ant", "bee")
        assert (len(dataset.train), len(dataset.test)) == (12, 4)


def test_gated_missing_and_no_network_are_reported_in_different_sentences(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["models/owner/gated"] = [Repo(hub.repos[f"models/{NAME}"][0].files, gated=True)]
    hub.repos["datasets/owner/gated"] = [Repo(dataset_files(), gated=True)]
    hub.repos["models/owner/pickled"] = [Repo({"config.json": b"{}", "pytorch_model.bin": b"x"})]
    hub.repos["models/owner/other"] = [Repo({"model.safetensors": b"x"})]
    hub.repos["models/owner/evil"] = [Repo({"config.json": b"{}", "../../x.safetensors": b"x"})]

    def fetched(name: str) -> str:
        with pytest.raises(UserError) as caught:
            lensmith.fetch([name], "assets")
        assert not Path("assets").exists()
        return str(caught.value)

    def found(name: str) -> str:
        with pytest.raises(UserError) as caught:
            models.find(name)
        return str(caught.value)

    for said in (fetched("owner/gated"), found("owner/gated")):
        assert f"accepted its licence. Accept it at {hub.url}/owner/gated" in said
        assert "HF_TOKEN" in said
        assert "hf_secret" not in said
    assert f"{hub.url}/datasets/owner/gated" in fetched("hub:owner/gated")
    for said in (fetched("owner/missing"), found("owner/missing")):
        assert "has no model owner/missing, or it is private" in said
    assert "has no dataset owner/missing" in fetched("hub:owner/missing")
    hub.status |= {"models/owner/refused": 401, "models/owner/down": 503}
    assert "doesn't accept the token" in (said := fetched("owner/refused"))
    assert "hf_secret" not in said
    assert "HTTP 503" in fetched("owner/down")
    assert "safetensors" in fetched("owner/pickled")
    assert "config.json" in fetched("owner/other")
    assert "unsafe name" in fetched("owner/evil")
    assert "can't be the name" in fetched("hub:a--b/..")

    models.find(NAME)  # it is kept, and needs no network any more
    point_at(monkeypatch, closed())
    for said in (fetched("owner/model"), found("owner/model")):
        assert "can't be reached" in said
        assert "`lensmith fetch owner/model --to FOLDER`" in said
        assert "model.base=FOLDER/model" in said
    assert "`lensmith fetch hub:owner/data --to FOLDER`" in (said := fetched("hub:owner/data"))
    assert "data.uri=hub:FOLDER/data" in said
    assert models.find(NAME).is_dir()
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "is_offline_mode", lambda: True)
    for said in (fetched("owner/model"), found("owner/model")):
        assert "HF_HUB_OFFLINE is set" in said


def test_too_little_space_is_reported_before_anything_is_downloaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=1_200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 9\.2 MB.*has only 1\.2 MB free"):
        lensmith.fetch([NAME], "a/b/assets")
    assert hub.asked == []
    assert not Path("a").exists()


def test_a_folder_that_cannot_be_written(hub: Hub) -> None:
    Path("taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken.*can't be written"):
        lensmith.fetch([NAME], "taken")


@pytest.fixture
def cifar(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A small archive served in place of the university's."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(python_hundred(tmp_path / "inner"), "cifar-100-python")
    data = stream.getvalue()
    hub.plain["/~kriz/cifar-100-python.tar.gz"] = data
    row = ("cifar-100-python.tar.gz", len(data), hashlib.md5(data).hexdigest())
    monkeypatch.setitem(fetching.CIFAR, "cifar100", row)
    monkeypatch.setattr(fetching, "CIFAR_PAGE", f"{hub.url}/~kriz")
    return data


def test_the_archive_of_cifar(hub: Hub, cifar: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/~kriz/cifar-100-python.tar.gz"
    hub.cut[path] = len(cifar) * 2 // 3
    with pytest.raises(UserError, match="connection broke"):
        lensmith.fetch(["cifar100"], "assets")
    assert not list(Path("assets").glob("*.tar.gz"))
    hub.cut.clear()
    heard = Heard()
    (record,) = lensmith.fetch(["cifar100"], "assets", heard)["fetched"]
    assert "no stated licence" in heard.text
    assert record["option"] == "data.uri=cifar:assets/cifar-100-python.tar.gz"
    assert record["loaded"] < len(cifar)
    assert all(token == "" for _, _, token in hub.asked), "the token is for the hub alone"
    assert Path("assets/cifar-100-python.tar.gz").read_bytes() == cifar
    monkeypatch.setattr(fetching, "CIFAR_PAGE", closed())
    lensmith.fetch(["cifar100"], "assets")  # only checked, so without network too
    assert len(open_dataset(record["option"].removeprefix("data.uri="), validation=0).train) == 40
    with pytest.raises(UserError, match=r"can't be reached.*lensmith fetch cifar100.*cifar:FOLDER/cifar-100-python"):
        lensmith.fetch(["cifar100"], "elsewhere")
    monkeypatch.setattr(fetching, "CIFAR_PAGE", f"{hub.url}/gone")
    with pytest.raises(UserError, match="HTTP 404"):
        lensmith.fetch(["cifar100"], "elsewhere")
    monkeypatch.setattr(fetching, "CIFAR_PAGE", f"{hub.url}/~kriz")
    hub.spoil.add(path)
    with pytest.raises(UserError, match=r"were removed: cifar-100-python\.tar\.gz"):
        lensmith.fetch(["cifar100"], "elsewhere")
    assert not list(Path("elsewhere").iterdir()), "not even the beginning of a file"


def test_the_published_archives_are_those_of_torchvision() -> None:
    assert fetching.CIFAR == {
        "cifar10": ("cifar-10-python.tar.gz", 170498071, "c58f30108f718f92721af3b95e74349a"),
        "cifar100": ("cifar-100-python.tar.gz", 169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
    }
    assert fetching.CIFAR_PAGE == "https://www.cs.toronto.edu/~kriz"


def test_a_recipe_stands_for_its_model_and_data(hub: Hub, cifar: bytes) -> None:
    recipe = Path("mine.yaml")
    recipe.write_text(f"model: {{base: {NAME}}}\ndata: {{uri: 'cifar:assets/cifar-100-python.tar.gz'}}")
    model, data = lensmith.fetch(["mine.yaml", NAME], "assets")["fetched"]
    assert model["name"] == NAME
    assert data["option"] == "data.uri=cifar:assets/cifar-100-python.tar.gz"
    with pytest.raises(UserError, match=r"nothing to fetch for the recipe|demo:fashion"):
        lensmith.fetch(["demo-fashion"], "assets")
    recipe.write_text("model: {base: nano}\ndata: {uri: assets}")
    with pytest.raises(UserError, match=r"nothing to fetch for the recipe .*mine\.yaml: its model is nano"):
        lensmith.fetch([str(recipe)], "assets")
    for name, said in {
        "nano": "is shipped with Lensmith",
        "demo:digits": "is shipped with Lensmith",
        "no.yaml": "There is no recipe",
        "cifar1000": "Did you mean 'cifar100'",
        "neither": "can't be fetched",
        "assets/LFM2-VL-small": "on this machine already",
        "hub:assets": "on this machine already",
    }.items():
        with pytest.raises(UserError, match=said):
            lensmith.fetch([name], "assets")


def test_the_command(hub: Hub, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def go(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lensmith", "fetch", *words]
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    done = go(NAME, "--to", "my assets")
    assert (done.returncode, done.stdout) == (0, "model.base=my assets/LFM2-VL-small\n"), done.stderr
    assert "licence  lfm1.0" in done.stderr
    assert "hf_secret" not in done.stderr
    done = go(NAME, "--to", "my assets", "--json")
    (record,) = json.loads(done.stdout)["fetched"]
    assert record["loaded"] == 0
    assert {"files", "bytes", "licence", "folder", "option"} <= set(record)
    done = go("owner/missing", "--to", "x")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 130), ("", 130), ("no\n", 130)])
def test_a_user_at_a_terminal_is_asked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, code: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert cli.main(["fetch", NAME, "--to", "assets"]) == code
    out, err = capsys.readouterr()
    assert "Continue? [y/N]" in err
    assert err.index("licence") < err.index("Continue?")
    assert "Continue?" not in out
    assert bool(hub.asked) == (code == 0)
    assert Path("assets").exists() == (code == 0)
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert cli.main(["fetch", NAME, "--to", "assets", "--yes"]) == 0
    assert "Continue?" not in capsys.readouterr().err
    assert cli.main(["fetch", NAME, "--to", "assets"]) == 0, "nothing to load, nothing to ask"


def test_bytes_are_shown_in_readable_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert [size(n) for n in (43, 122_781, 9_102_416, 6e9)] == ["43 bytes", "122.8 kB", "9.1 MB", "6.0 GB"]
    screen = Screen()
    screen(Advance("fetching x", 6_000_000_000, 6_000_000_000, 85e6, 0, unit="bytes"))
    screen(Advance("scoring", 2000, 2000, 31.2, 0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["fetching x: 6.0 GB of 6.0 GB, 85.0 MB/s, done", "scoring: 2,000 of 2,000, 31 images/s, done"]
