"""What can't be exported is said in a sentence, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lensmith.errors import UserError
from lensmith.export import find, known
from lensmith.verbs.use import export as verb
from lensmith.verbs.use.export import export
from tests.conftest import Run
from tests.export.conftest import Exported
from tests.models import checkpoints

pytestmark = pytest.mark.long


def copy_of(run: Path, folder: Path, **model: object) -> Path:
    shutil.copytree(run, folder)
    recipe = (folder / "recipe.yaml").read_text()
    for key, value in model.items():
        assert f"\n  {key}:" in recipe
        recipe = "".join(
            f"  {key}: {value}\n" if line.startswith(f"  {key}:") else line for line in recipe.splitlines(keepends=True)
        )
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def test_an_unfinished_run(probe_run: Path, run: Run, tmp_path: Path) -> None:
    folder = copy_of(probe_run, tmp_path / "unfinished")
    (folder / "checkpoint").mkdir()
    code, _, err = run("export", folder, "--to", "onnx")
    assert code == 2
    assert f"lensmith resume {folder}" in err
    assert not (folder / "export").exists()


def test_four_bit_weights(probe_run: Path, tmp_path: Path) -> None:
    folder = copy_of(probe_run, tmp_path / "run", quantize="4bit")
    with pytest.raises(UserError, match=r"model\.quantize=4bit, which no format here holds"):
        export(folder, "onnx")


def test_an_unknown_format_or_number_format(probe_run: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'onnx'"):
        export(probe_run, "onx")
    with pytest.raises(UserError, match="float32, int8"):
        export(probe_run, "onnx", numbers="q8_0")
    with pytest.raises(UserError, match="no fraction"):
        export(probe_run, "onnx", drift=5.0)
    assert {"onnx", "web", "weights", "gguf", "mlx", "npz"} <= set(known())
    assert all(find(name).about for name in known())


@pytest.mark.parametrize("to", ["weights", "gguf"])
def test_a_head_has_no_place_in_a_model_folder(to: str, probe_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no place for one") as error:
        export(probe_run, to, tmp_path / "out")
    assert "--to onnx" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_decoder_is_no_probe(lora_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="linear probe"):
        export(lora_run, "npz", tmp_path / "out")


def test_tiles_in_one_graph_and_settings_that_llama_cpp_ignores(
    vl_folder: Path, pictures: Path, run: Run, tmp_path: Path
) -> None:
    options = [f"model.base={vl_folder}", "model.dtype=float32", "train.epochs=1", "train.batch_size=20"]
    assert run("train", pictures, *options, "--run", "tiled")[0] == 0
    with pytest.raises(UserError, match="grid of tiles") as error:
        export(tmp_path / "tiled", "onnx", tmp_path / "out")
    assert "model.image_tokens" in str(error.value)
    settings = json.loads((vl_folder / "preprocessor_config.json").read_text())
    bicubic = tmp_path / "bicubic"
    shutil.copytree(vl_folder, bicubic)
    (bicubic / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    shutil.copytree(tmp_path / "tiled", tmp_path / "other")
    task = tmp_path / "other" / "adapter" / "lensmith.json"
    task.write_text(json.dumps(json.loads(task.read_text()) | {"base": str(bicubic)}))
    with pytest.raises(UserError, match=r"llama\.cpp ignores .*resample=3"):
        export(tmp_path / "other", "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_small_disk_a_taken_folder_and_a_missing_package(
    probe_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export(probe_run, "npz", tmp_path / "taken")
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: free)
        with pytest.raises(UserError, match=r"needs about .* on the disk .* 10 bytes are free"):
            export(probe_run, "npz", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "onnxscript", None)
        with pytest.raises(UserError, match="onnxscript") as error:
            export(probe_run, "onnx", tmp_path / "out")
    assert "lensmith[onnx]" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_converter_that_fails_says_why(probe_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensmith.export import onnx_model

    def fail(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_model, "traced", fail)
    with pytest.raises(UserError, match="converted to ONNX: RuntimeError: no such operator"):
        export(probe_run, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_drift_is_an_error_and_the_folder_is_marked(
    probe_onnx: Exported, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(probe_onnx.folder, out)
    (out / verb.UNPROVEN).write_text("stopped")  # as if the proof had been stopped: it is taken up again
    program = (out / "classify.py").read_text()
    (out / "classify.py").write_text(program.replace("[0][0]\n", "[0][0][::-1]\n"))  # the labels in another order
    code, _, err = run("export", probe_onnx.run, "--to", "onnx", "--out", out)
    assert code == 2
    assert "Not proven" in err
    assert "marked as not proven" in err
    assert "answers changed" in (out / verb.UNPROVEN).read_text()
    proof = json.loads((out / verb.PROOF).read_text())
    assert proof["proven"] is False
    (row,) = proof["proofs"]
    assert row["changed"] == len(row["answers"]) > row["allowed"]
    assert "The answers that changed" in (out / "report.html").read_text()


def test_a_run_without_test_images_is_exported_but_not_proven(
    pictures: Path, tiny_folder: Path, run: Run, tmp_path: Path
) -> None:
    options = [f"model.base={tiny_folder}", "model.dtype=float32", "data.test=0"]
    assert run("probe", pictures, *options, "--run", "untested")[0] == 0
    code, out, _ = run("export", "untested", "--to", "npz")
    assert code == 0
    assert "Not proven: the run has no test images" in out
    assert (tmp_path / "untested" / "export" / "npz" / verb.UNPROVEN).exists()


def test_a_family_that_cant_be_one_graph_is_told_so(pictures: Path, run: Run, tmp_path: Path) -> None:
    base = checkpoints.make("smolvlm", tmp_path / "smol")
    options = [f"model.base={base}", "model.dtype=float32", "model.image_tokens=4096"]
    assert run("probe", pictures, *options, "--run", "mine")[0] == 0
    code, _, err = run("export", "mine", "--to", "onnx")
    assert code == 2
    assert "isn't written as a graph" in err
    assert not (tmp_path / "mine" / "export").exists()
