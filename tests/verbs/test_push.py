"""Pushing with the hub's real client, to a small hub on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from lensmith.cli.screen import Screen
from lensmith.errors import UserError
from lensmith.verbs.use.export import UNPROVEN, export
from lensmith.verbs.use.push import push
from tests.conftest import Run, Shapes
from tests.verbs.fake_hub import Hub, Repo, running

pytestmark = pytest.mark.long


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running() as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.url)
        yield server


@pytest.fixture
def taught(run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> Path:
    images = shapes("private folder", circle=20, square=20)
    assert run("probe", images, f"model.base={tiny_folder}", "model.dtype=float32", "--run", "mine")[0] == 0
    return tmp_path / "mine"


def test_a_run_is_sent_privately_without_images_or_paths_and_can_be_used(
    hub: Hub, taught: Path, run: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    code, out, err = run("push", "mine", "me/classes", "--yes")
    assert code == 0, err
    assert f"{hub.url}/me/classes" in out
    assert "only you" in err
    (repo,) = hub.repos["models/me/classes"]
    assert repo.private
    assert {"README.md", "recipe.yaml", "adapter/lensmith.json", "adapter/head.safetensors"} <= set(repo.files)
    assert not [name for name in repo.files if name.endswith((".html", ".parquet", ".png", ".jpg"))]
    for name, content in repo.files.items():
        assert b"private folder" not in content, name
        assert str(tmp_path).encode() not in content, name
        assert str(tiny_folder).encode() not in content, name
    card = repo.files["README.md"].decode()
    assert "circle, square" in card
    assert "95 % interval" in card
    assert all(token == "Bearer hf_secret" for _, token in hub.sent)
    assert "hf_secret" not in out + err
    # What was sent predicts as the run does, once the base is named where it lies there.
    fetched = tmp_path / "fetched"
    for name, content in repo.files.items():
        (fetched / name).parent.mkdir(parents=True, exist_ok=True)
        (fetched / name).write_bytes(content)
    task = fetched / "adapter" / "lensmith.json"
    task.write_text(json.dumps(json.loads(task.read_text()) | {"base": str(tiny_folder)}))
    image = next((tmp_path / "private folder" / "circle").iterdir())
    assert run("predict", "fetched", image)[1] == run("predict", "mine", image)[1]


def test_an_export_is_sent_without_its_report_and_an_unproven_one_is_not(hub: Hub, taught: Path) -> None:
    export(taught, "npz")
    folder = taught / "export" / "npz"
    record = push(folder, "me/numbers", public=True, yes=True)
    (repo,) = hub.repos["models/me/numbers"]
    assert not record["private"]
    assert not repo.private
    assert set(repo.files) == {"README.md", "probe.npz", "probe.py", "labels.json"}
    (folder / UNPROVEN).write_text("stopped")
    with pytest.raises(UserError, match="isn't proven"):
        push(folder, "me/others", yes=True)
    assert "models/me/others" not in hub.repos


def test_nothing_is_sent_unasked_or_to_where_everyone_sees_it(
    hub: Hub, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="Nothing was sent"):
        push(taught, "me/classes")
    hub.repos["models/me/open"] = [Repo({})]
    with pytest.raises(UserError, match="everyone would see"):
        push(taught, "me/open", yes=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    class Refusing(Screen):
        def agree(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(taught, "me/classes", tell=Refusing())
    assert hub.sent == []


def test_a_refused_token_is_said_in_a_sentence(hub: Hub, taught: Path) -> None:
    hub.status["models/me/classes"] = 401
    with pytest.raises(UserError, match="token"):
        push(taught, "me/classes", yes=True)


def test_without_a_network_nothing_is_sent(hub: Hub, taught: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match="nothing was sent to me/classes"):
        push(taught, "me/classes", yes=True)
