"""A model of the hub is downloaded once into the storage, and comes from there to every machine."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from lensmith import models
from lensmith.bulk.storage import Storage
from lensmith.places.ray import driver, stored, work
from tests.verbs.fake_hub import Repo, running

NAME = "Owner/LFM2-VL-small"


def test_weights_come_from_the_hub_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "scratch", lambda: tmp_path / "node")
    monkeypatch.setattr(work, "scratch", lambda: tmp_path / "node")
    monkeypatch.chdir(tmp_path)
    storage = Storage(str(tmp_path / "storage"))
    job = {"base": NAME, "name": "j", "uploads": []}
    with running() as hub:
        url = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(hub_constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        files = {path.name: path.read_bytes() for path in models.NANO.iterdir() if path.is_file()}
        hub.repos[f"models/{NAME}"] = [Repo(files)]
        first = driver.with_base(job, storage)
        asked = len(hub.asked)
        assert asked
        assert driver.with_base(job, storage) == first
        assert len(hub.asked) == asked, "not asked again"
    root = work.in_client_folder(first, storage, "actor0")
    try:
        assert not models.on_hub(NAME)
        found = models.find(NAME)
        assert (found / "model.safetensors").read_bytes() == (models.NANO / "model.safetensors").read_bytes()
        assert found.resolve().is_relative_to(root / "cwd")
    finally:
        monkeypatch.undo()


def test_shipped_and_local_models_need_no_hub(tmp_path: Path) -> None:
    for base in ("nano", str(tmp_path)):
        job = {"base": base, "uploads": []}
        assert driver.with_base(job, Storage(str(tmp_path))) == job
