"""The complete demo on its faster dataset, and the limits of the shipped model."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from safetensors import safe_open

import lensmith
from lensmith import cli, models
from lensmith.errors import Stopped
from lensmith.progress import Advance, Note
from lensmith.runs.folder import verb_of

pytestmark = pytest.mark.long


@pytest.mark.parametrize("size", ["small", pytest.param("whole", marks=pytest.mark.slow)])
def test_the_demo_learns_digits_and_reports_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if size == "small":
        less = ["data.train_limit=300", "data.test_limit=150", "train.epochs=2", "train.batch_size=32"]
        monkeypatch.setattr("lensmith.verbs.see.demo.load_recipe", lambda name: lensmith.load_recipe(name, less))
    assert cli.main(["demo", "--data", "digits", "--run", "a demo", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    zero, pixels, tuned, blend = (record[name] for name in ("zero_shot", "pixels", "tuned", "blend"))
    assert zero["n"] == pixels["n"] == tuned["n"] == blend["n"] > (400 if size == "whole" else 100)
    for rate in (zero, pixels, tuned):
        assert 0 < rate["low"] < rate["accuracy"] < rate["high"] < 1
    # As stated in the model's card, with a margin for the rounding of other processors.
    assert zero["accuracy"] >= 0.6
    assert tuned["accuracy"] >= (0.95 if size == "whole" else 0.8)
    assert record["seconds"] > 0
    page = Path(record["report"]).read_text()
    assert f"{tuned['accuracy'] * 100:.1f}" in page
    assert f"{zero['accuracy'] * 100:.1f}" in page
    assert f"{blend['accuracy'] * 100:.1f}" in page
    assert "The rest of this page is about <b>blend</b>" in page  # whose mistakes it shows
    assert record["blended"].split(",")[0] in " ".join(html.unescape(page).split())  # with narrow spaces
    assert "The rest of this page is about <b>tuned</b>" in Path("a demo/report.html").read_text()
    assert blend["accuracy"] >= tuned["accuracy"] - 0.05


def test_a_stopped_demo_can_be_resumed_as_a_training(tmp_path: Path) -> None:
    def stop(event: Note | Advance) -> None:
        if isinstance(event, Advance) and event.task == "training" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as stopped:
        lensmith.demo("digits", tmp_path / "demo", stop)
    assert stopped.value.folder == tmp_path / "demo"
    assert verb_of(tmp_path / "demo") == "train"
    assert (tmp_path / "demo" / "checkpoint").is_dir()
    assert verb_of(tmp_path / "demo" / "zero-shot") == "evaluate"


def test_the_shipped_model_keeps_within_its_limits() -> None:
    weights = models.NANO / "model.safetensors"
    assert weights.stat().st_size <= 10_000_000
    with safe_open(weights, framework="pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 (not a dict)
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    assert total <= 5_000_000
    config = json.loads((models.NANO / "config.json").read_text())
    assert config["model_type"] == "lfm2_vl"
    vision, text = config["vision_config"], config["text_config"]
    # As llama.cpp's converter requires.
    assert vision["patch_size"] == 16
    assert vision["num_hidden_layers"] >= 3
    assert not vision["vision_use_head"]
    assert text["architectures"] == ["Lfm2ForCausalLM"]
    assert {"conv", "full_attention"} <= set(text["layer_types"])
