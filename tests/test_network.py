"""Nothing but what the user named reaches for the network: with local images and a local model, no socket is opened."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_network")
def test_no_verb_asks_the_network_for_local_things(shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    folder = shapes(circle=40, square=40)
    words = [folder, f"model.base={tiny_folder}", "model.dtype=float32", "train.epochs=1", "train.batch_size=8"]
    ladder = ["data.validation=0.3", "ladder.methods=[zero-shot, neighbours]"]
    commands: list[list[Any]] = [
        ["evaluate", *words, "--run", "zero"],
        ["train", *words, "--run", "lora"],
        ["train", *words, "tune.method=head", "--run", "head"],
        ["probe", *words, "--run", "probe"],
        ["evaluate", "lora", "--run", "again"],
        ["predict", "lora", folder / "circle"],
        ["predict", "probe", folder / "circle"],
        ["compare", "zero", "lora", "--run", "compared"],
        ["report", "lora"],
        ["ladder", *words, *ladder, "--run", "ladder"],
        ["curve", *words, "curve.methods=[neighbours]", "curve.seeds=1", "--run", "curve"],
    ]
    for command in commands:
        code, _, err = run(*command)
        assert code == 0, (command, err)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "adapter_config.json", "lensmith.json"])
def test_a_run_with_lost_files_is_not_looked_for_on_the_hub(
    shapes: Shapes, tiny_folder: Path, run: Run, lost: str
) -> None:
    folder = shapes(circle=20, square=20)
    words = [folder, f"model.base={tiny_folder}", "model.dtype=float32", "train.epochs=1", "--run", "hubby"]
    assert run("train", *words)[0] == 0
    (Path("hubby/adapter") / lost).unlink()
    code, _, err = run("predict", "hubby", folder / "circle")
    assert code == 2
    assert "hubby" in err
