"""Model folders, and the other formats of the shipped model: what other programs' loaders expect, and their answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoTokenizer

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.errors import UserError
from lensmith.export.llama import Llama
from lensmith.export.original import answers, decoded, open_original
from lensmith.verbs.use.export import export
from tests.export.conftest import made
from tests.models.fed import patches

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(nano_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "weights"
    record = export(nano_run, "weights", out, "float32")
    assert record["proven"]
    assert record["proofs"][0]["changed"] == 0
    return out


def test_transformers_own_forward_gives_the_same_scores(folder: Path, nano_run: Path, plain: Path) -> None:
    original = open_original(nano_run)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    network, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    model, prompt = original.model, original.classifier.prompt
    for label, i in (("circle", 0), ("square", 1), ("big star", 2)):
        image = (plain / label / f"{i}.png").read_bytes()
        views = model.prepare(decoded(original, image))
        pixels = torch.stack(patches(model, views))
        grid = torch.tensor([[side // model.patch_side for side in views[0].shape[1:]]])
        tokens = model.tokens(tuple(tuple(view.shape) for view in views))
        image_id = network.config.image_token_id
        question = [*prompt.before, *[image_id] * tokens, *prompt.after]
        totals = []
        for ((*answer,),) in prompt.answers:
            ids = torch.tensor([[*question, *answer]])
            with torch.no_grad():
                logits = network(
                    input_ids=ids,
                    pixel_values=pixels,
                    spatial_shapes=grid,
                    pixel_attention_mask=torch.ones(1, pixels.shape[1], dtype=torch.long),
                ).logits[0, len(question) - 1 : -1]
            totals.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
        scores = original.classifier.calibration.apply(torch.stack(totals)[None]).log_softmax(1)[0]
        assert torch.allclose(scores, torch.tensor(answers(original, original.classifier, image)), atol=1e-4)


def test_names_and_fields_are_those_that_loaders_ask_for(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert "model.language_model.embed_tokens.weight" in names
    assert not any(".lora_" in name or name.startswith("model.vision_tower.encoder") for name in names)
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    wanted = {"block_dim", "block_ff_dim", "conv_dim", "conv_dim_out", "full_attn_idxs", "rope_theta"}
    wanted |= {"block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of", "layer_types"}
    assert wanted <= text.keys()
    assert text["full_attn_idxs"] == [1, 3]
    assert config["image_token_index"] == config["image_token_id"]
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    nested = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    assert settings["max_image_tokens"] == nested["max_image_tokens"] == 8
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "circle, " in card
    assert str(folder.parent) not in card  # where images lie is nobody's business


def test_a_limit_on_image_tokens_is_in_the_exported_settings(vl_folder: Path) -> None:
    options = ModelOptions(base=str(vl_folder), image_tokens=64, dtype="float32", device="cpu")
    settings = models.load_base(options).settings
    assert (settings["max_image_tokens"], settings["do_image_splitting"]) == (64, False)


def test_the_decision_pipeline_asks_the_question_that_was_taught(plain: Path, tmp_path: Path) -> None:
    """Its inputs and scores; images can't be given here, since transformers' own processor needs torchvision."""
    decision = pytest.importorskip("transformers.decision", reason="transformers 5.23 or later has it")
    run = made(tmp_path / "codes", "train", plain, "question.answers=codes", "train.epochs=1", "train.batch_size=8")
    export(run, "weights", tmp_path / "out", "float32", drift=0.2)
    original = open_original(run)
    config = decision.DecisionConfig.from_pretrained(tmp_path / "out")
    assert config.temperature["choice"] == pytest.approx(original.classifier.calibration.temperature)
    tokenizer, prompt = AutoTokenizer.from_pretrained(tmp_path / "out"), original.classifier.prompt
    ids = decision.label_token_ids(tokenizer, tuple(config.labels["choice"]))
    assert [[(token,)] for token in ids] == [list(map(tuple, answers)) for answers in prompt.answers]
    question = {"type": "choice", "instructions": "", "criteria": dict.fromkeys(original.labels)}
    request = {"state": "the image", "questions": {"what": question}}
    ((inputs, (asked,)),) = config.prepare_inputs(request, tokenizer)
    start, end = (tokenizer.encode(text, add_special_tokens=False) for text in original.model.image_frame)
    before, after = list(prompt.before)[: -len(start)], list(prompt.after)[len(end) :]
    image = tokenizer.convert_tokens_to_ids("<image>")  # which the processor replaces by the frame and the embeddings
    assert inputs["input_ids"][0].tolist() == [*before, image, *after]
    assert inputs["marks"].tolist() == [len(before) + 1 + len(after)]
    assert asked.options == list(original.labels)


@pytest.mark.parametrize("numbers", ["f16", "q8_0"])
def test_llama_cpp_answers_as_the_run(numbers: str, nano_run: Path, tmp_path: Path) -> None:
    record = export(nano_run, "gguf", tmp_path / "out", numbers, drift=0.2)
    chat, scores = record["proofs"]
    assert chat["changed"] == scores["changed"] == 0
    assert scores["largest"] < (0.2 if numbers == "f16" else 1)
    decoder = gguf.GGUFReader(tmp_path / "out" / f"model-{numbers}.gguf")
    mmproj = gguf.GGUFReader(tmp_path / "out" / f"mmproj-{numbers}.gguf")
    # As many as llama.cpp's own converter writes for this model (build 11434).
    assert (len(decoder.tensors), len(mmproj.tensors)) == (40, 91)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in decoder.tensors}
    assert kinds["token_embd.weight"] == numbers.upper()
    assert kinds["blk.0.shortconv.conv.weight"] == kinds["token_embd_norm.weight"] == "F32"
    script = (tmp_path / "out" / "start.sh").read_text()
    assert "--image-min-tokens 4 --image-max-tokens 8" in script
    assert not (tmp_path / "out" / "Modelfile").exists()  # Ollama would not know the limits
    assert (tmp_path / "out" / "labels.gbnf").read_text() == 'root ::= "big star" | "circle" | "square"\n'


@pytest.mark.skipif(importlib.util.find_spec("mlx_vlm") is None, reason="mlx-vlm isn't installed: lensmith[mlx]")
def test_mlx_answers_as_the_run(nano_run: Path, tmp_path: Path) -> None:
    record = export(nano_run, "mlx", tmp_path / "out", "float32", images=4)
    assert record["proofs"][0]["changed"] == 0
    assert record["proofs"][0]["largest"] < 0.05


def test_a_probe_is_a_small_file(probe_run: Path, tmp_path: Path) -> None:
    record = export(probe_run, "npz", tmp_path / "out")
    assert record["proofs"][0]["changed"] == 0
    assert record["proofs"][0]["largest"] < 1e-4
    found: Any = np.load(tmp_path / "out" / "probe.npz")
    assert found["labels"].tolist() == ["big star", "circle", "square"]
    assert found["weight"].shape[0] == 3


def test_a_part_of_the_test_images_is_compared_with_the_runs_own_answers(probe_run: Path, tmp_path: Path) -> None:
    (proof,) = export(probe_run, "npz", tmp_path / "out", images=5)["proofs"]
    assert proof["images"] == 5
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["compared_with"] == "the run's own predictions"


def test_a_reply_of_llama_cpp_without_probabilities_is_asked_for_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen once in a run of these tests: the first reply had none, and nothing was wrong."""
    good = {"completion_probabilities": [{"top_logprobs": [{"id": 7, "logprob": -0.5}]}]}
    replies: list[dict[str, Any]] = [{"content": ""}, good]
    monkeypatch.setattr(Llama, "_post", lambda *_: replies.pop(0))
    llama = Llama.__new__(Llama)
    assert llama._next_tokens("What is it?", "", 1) == {7: -0.5}
    replies[:] = [{"content": ""}] * 2
    with pytest.raises(UserError, match="no probabilities"):
        llama._next_tokens("What is it?", "", 1)
