"""Only the weights that a recipe tunes are trained. They can be saved and loaded, and invalid recipes are refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import lensmith
from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.loading import quantisation
from lensmith.models.tuned_files import load_tuned, save_tuned
from lensmith.models.tuning import Tuned, attach, coverage, coverage_table, trainable, weight_groups
from lensmith.runs.files import read_lines
from lensmith.runs.folder import recipe_for
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long

LABELS = ["circle", "square"]


def tuned_by(tiny_folder: Path, *options: str) -> tuple[Tuned, Recipe]:
    recipe = load_recipe(None, [f"model.base={tiny_folder}", "model.dtype=float32", "model.device=cpu", *options])
    model = models.load_base(recipe.model)
    return attach(model, recipe.tune, LABELS, recipe.seed), recipe


def attached(tiny_folder: Path, *options: str) -> tuple[Model, Recipe]:
    tuned, recipe = tuned_by(tiny_folder, *options)
    return tuned.model, recipe


@pytest.mark.parametrize(
    ("options", "components"),
    [
        (
            ["tune.method=lora", "tune.projector=true", "tune.vision_tower=true"],
            "language_model projector vision_tower",
        ),
        (["tune.method=lora", "tune.head=true"], "head language_model"),
        (["tune.method=full"], "language_model"),
        (["tune.method=full", "tune.language_model=false", "tune.vision_tower=true"], "vision_tower"),
        (["tune.method=projector"], "projector"),
        (["tune.method=head"], "head"),
        (["tune.dora=true"], "language_model"),
    ],
    ids=str,
)
def test_tuned_weights_are_trainable_counted_saved_and_loaded(
    tiny_folder: Path, tmp_path: Path, options: list[str], components: str
) -> None:
    torch.manual_seed(0)
    tuned, _ = tuned_by(tiny_folder, *options)
    model, head = tuned.model, tuned.head
    rows = coverage(model, head)
    assert sorted({row.component for row in rows}) == components.split()
    assert sum(row.parameters for row in rows) == sum(w.numel() for w in trainable(model, head).values())
    table = coverage_table(rows)
    assert all(name in table for name in [*components.split(), "total"])

    pixels = (torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8),)
    for weight in trainable(model, head).values():
        torch.nn.init.normal_(weight, std=0.05)
    question = load_recipe(None, []).question
    expected = Classifier(model, make_question(model, question, LABELS), head).score(pixels).bound
    save_tuned(model, tmp_path, head)
    other = models.load_base(model.options)
    bare = Classifier(other, make_question(other, question, LABELS)).score(pixels).bound
    loaded = load_tuned(other, tmp_path)
    reloaded = Classifier(other, make_question(other, question, LABELS), loaded).score(pixels).bound
    torch.testing.assert_close(reloaded, expected, rtol=1e-4, atol=1e-4)
    assert (bare - expected).abs().max() > 0.01, "the weights change nothing, so loading them proves nothing"
    assert not trainable(other)


@pytest.mark.parametrize("method", ["full", "projector", "head", "lora"])
def test_every_method_learns_and_predicts_from_its_run_folder(
    shapes: Shapes, tiny_folder: Path, tmp_path: Path, method: str
) -> None:
    folder = shapes(circle=30, square=30)
    options = [f"data.uri={folder}", f"model.base={tiny_folder}", "model.dtype=float32", f"tune.method={method}"]
    rate = {"full": 0.003, "head": 0.1, "projector": 0.01}.get(method, 0.01)
    options += ["train.epochs=12", "train.batch_size=8", f"train.learning_rate={rate}", "data.validation=0.2"]
    recipe = load_recipe(None, [*options, "tune.rank=4"])
    record = lensmith.train(recipe, tmp_path / "run")
    if method != "projector":  # the projector alone can't make a decoder of random weights answer with a name
        assert record["accuracy"]["accuracy"] >= 0.9
    losses = [row["loss"] for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    again = lensmith.evaluate(recipe_for(str(tmp_path / "run"), []), tmp_path / "again")
    assert again["accuracy"] == record["accuracy"]
    predictions = lensmith.predict([str(folder / "square")], tmp_path / "run")
    assert len(predictions) == 30
    assert json.loads((tmp_path / "run" / "adapter" / "lensmith.json").read_text())["labels"] == LABELS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["tune.targets=[o_proj]"],
            r"'o_proj' matches no linear layer.*self_attn\.out_proj.*vision.*|self_attn\.q_proj",
        ),
        (
            ["tune.targets=[q_proj]"],
            r"'q_proj' also matches 3 layers of the vision_tower.*'language_model\.\*\.q_proj'",
        ),
        (["tune.targets=[conv.conv]"], "matches no linear layer"),
        (["tune.language_model=false"], "Nothing is tuned"),
        (["tune.rates={vision_tower: 1e-4}"], "rate for vision_tower, which is not tuned"),
        (["tune.rates={head: 1e-4}"], "rate for head, which is not tuned"),
    ],
    ids=str,
)
def test_invalid_targets_and_rates_are_refused(tiny_folder: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attached(tiny_folder, *options)


def test_the_error_for_a_target_that_matches_nothing_lists_the_layers(tiny_folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        attached(tiny_folder, "tune.targets=[gate_proj]")
    for name in ("feed_forward.w1", "conv.in_proj", "self_attn.out_proj", "mlp.fc1", "linear_1"):
        assert name in str(caught.value)


def test_targets_match_the_layers_they_name(tiny_folder: Path) -> None:
    model, _ = attached(tiny_folder, "tune.targets=[language_model.*.q_proj, 'feed_forward.w*']")
    rows = {(row.component, row.layer): row.count for row in coverage(model)}
    assert rows == {("language_model", "self_attn.q_proj"): 2} | {
        ("language_model", f"feed_forward.w{i}"): 4 for i in (1, 2, 3)
    }
    both, _ = attached(tiny_folder, "tune.targets=[q_proj]", "tune.vision_tower=true")
    assert {(row.component, row.count) for row in coverage(both)} == {("language_model", 2), ("vision_tower", 3)}


def test_components_have_separate_learning_rates_and_loras_second_matrix_a_higher_one(tiny_folder: Path) -> None:
    options = ["tune.vision_tower=true", "tune.head=true", "tune.lora_plus=4", "train.learning_rate=0.01"]
    model, recipe = attached(
        tiny_folder, *options, "tune.rates={vision_tower: 0.001, head: 0.5}", "train.weight_decay=0.1"
    )
    names = {id(weight): name for name, weight in trainable(model).items()}
    groups = weight_groups(model, recipe.tune, recipe.train)
    peak = {names[id(w)]: (g["peak"], g["weight_decay"]) for g in groups for w in g["params"]}
    assert peak.keys() == trainable(model).keys()
    for name, (rate, decay) in peak.items():
        expected = 0.001 if "vision_tower" in name else 0.5 if name.startswith("head") else 0.01
        assert rate == pytest.approx(expected * (4 if "lora_B" in name else 1)), name
        assert decay == (0 if name.startswith("head") else 0.1), name


def test_rank_stabilised_lora_scales_by_the_root_of_the_rank(tiny_folder: Path) -> None:
    def scale(*options: str) -> float:
        model, _ = attached(tiny_folder, "tune.rank=16", "tune.alpha=32", *options)
        layer = next(m for m in model.network.modules() if hasattr(m, "scaling"))
        return float(layer.scaling["default"])

    assert scale() == 2
    assert scale("tune.rslora=true") == 8


def test_full_training_keeps_weights_in_float32_whatever_the_compute_dtype(tiny_folder: Path) -> None:
    model, _ = attached(tiny_folder, "tune.method=full", "model.dtype=bfloat16")
    assert {w.dtype for w in trainable(model).values()} == {torch.float32}


def test_four_bits_need_a_gpu_and_are_tuned_by_lora_only(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match="needs a CUDA GPU; the device is cpu"):
        attached(tiny_folder, "model.quantize=4bit")
    recipe = load_recipe(None, [f"model.base={tiny_folder}", "tune.method=full"])
    model = models.load_base(recipe.model)
    model.options.quantize = "4bit"
    with pytest.raises(UserError, match="Four-bit weights can't be trained"):
        attach(model, recipe.tune, LABELS)


def test_only_the_decoder_is_stored_in_four_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    components = {"language_model": "model.text", "projector": "model.bridge", "vision_tower": "model.eye"}
    options = load_recipe(None, ["model.quantize=4bit"]).model
    with pytest.raises(UserError, match=r"pip install 'lensmith\[quantized\]'"):
        quantisation(options, torch.device("cuda"), torch.bfloat16, components)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(__version__="1"))
    config = quantisation(options, torch.device("cuda"), torch.bfloat16, components)["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert sorted(config.llm_int8_skip_modules) == ["lm_head", "model.bridge", "model.eye"]
    assert quantisation(load_recipe(None).model, torch.device("cpu"), torch.float32, components) == {}


def test_an_adapter_without_safetensors_is_refused_and_nothing_else_is_looked_for(tiny: Model, tmp_path: Path) -> None:
    """PEFT would unpickle adapter_model.bin, and without it ask the hub for a repository with the folder's name."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name in ("", "adapter_model.bin"):
        if name:
            (tmp_path / name).write_bytes(b"a pickle")
        with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
            load_tuned(tiny, tmp_path)


def corrupted(weights: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    first = next(iter(weights))
    match how:
        case "wrapped":
            return {name.replace("base_model.", "module.base_model."): w for name, w in weights.items()}
        case "doubled":
            return {name.replace("base_model.model.", "base_model.model.model."): w for name, w in weights.items()}
        case "half":
            return dict(list(weights.items())[: len(weights) // 2])
        case "more":
            return weights | {f"layers.77.{first}": weights[first].clone()}
        case "nan":
            return weights | {first: torch.full_like(weights[first], torch.nan)}
        case _:  # another rank
            return {name: torch.cat([w, w], 0 if "lora_A" in name else 1) for name, w in weights.items()}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("wrapped", r"of its weights, \d+ of \d+ are missing, such as base_model.* and \d+ of \d+ have no place"),
        ("doubled", r"are missing, such as .* have no place in the model, such as base_model\.model\.model"),
        ("half", r"(\d+) of \d+ are missing"),
        ("more", r"1 of \d+ have no place in the model, such as .*layers\.77"),
        ("nan", "contains NaN or infinity, in "),
        ("rank", r"(\d+) of \1 have another shape than in the model, such as base_model"),
    ],
)
def test_an_adapter_that_fits_only_in_part_is_refused(tiny_folder: Path, tmp_path: Path, how: str, says: str) -> None:
    model, _ = attached(tiny_folder, "tune.rank=2")
    save_tuned(model, tmp_path)
    load_tuned(models.load_base(model.options), tmp_path)  # as it was saved, it fits
    file = tmp_path / "adapter_model.safetensors"
    save_file(corrupted(load_file(file), how), file, {"format": "pt"})
    with pytest.raises(UserError, match=says):
        load_tuned(models.load_base(model.options), tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 4}, r"(\d+) of \1 have another shape"),
        ({"rank_pattern": {"q_proj": 4}}, "have another shape"),
        ({"target_modules": ["q_proj"]}, "have no place in the model"),
        ({"use_dora": True}, "are missing, such as .*magnitude"),
        ({"peft_type": "PROMPT_TUNING"}, "is of the type PROMPT_TUNING, which can't be used"),
        ({"alora_invocation_tokens": [5]}, "is of the type activated LoRA, which can't be used"),
        ({"of_a_later_version": True}, "has the setting of_a_later_version"),
    ],
    ids=str,
)
def test_an_adapter_whose_settings_do_not_fit_its_weights_is_refused(
    tiny_folder: Path, tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    """Virtual tokens, and a LoRA that waits for certain ones, would be loaded and never used."""
    model, _ = attached(tiny_folder, "tune.rank=2")
    save_tuned(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(UserError, match=says):
        load_tuned(models.load_base(model.options), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "out_proj"], "use_rslora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector"], "bias": "all"},
        {
            "target_modules": ["q_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 5},
            "trainable_token_indices": [5],
        },
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_lora_made_elsewhere_is_applied_in_full(tiny: Model, tmp_path: Path, settings: dict[str, Any]) -> None:
    pixels = (torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),)

    def scores(model: Model) -> torch.Tensor:
        return Classifier(model, make_question(model, load_recipe(None, []).question, LABELS)).score(pixels).bound

    torch.manual_seed(0)
    bare = scores(tiny)
    tiny.peft = get_peft_model(tiny.network, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    for weight in tiny.peft.parameters():
        if weight.requires_grad:
            weight.data += 0.2 * torch.randn_like(weight)
    expected = scores(tiny)
    # PEFT also saves the embeddings if something of theirs was trained.
    tiny.peft.save_pretrained(tmp_path, save_embedding_layers="embed_tokens" in settings["target_modules"])
    other = models.load_base(tiny.options)
    assert load_tuned(other, tmp_path) is None
    torch.testing.assert_close(scores(other), expected, rtol=1e-4, atol=1e-4)
    assert (bare - expected).abs().max() > 0.01


def test_an_adapter_trained_with_another_tokenizer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    model, _ = attached(tiny_folder, "tune.rank=2")
    save_tuned(model, tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"id": 99_999, "content": "[PAD]"})
    path.write_text(json.dumps(tokenizer))
    load_tuned(models.load_base(model.options), tmp_path)  # one token more changes none of the others
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"another tokenizer than that of .*: 2 tokens have other numbers, such as "):
        load_tuned(models.load_base(model.options), tmp_path)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        load_tuned(models.load_base(model.options), tmp_path)


def test_an_adapter_goes_with_the_base_it_was_trained_on_and_with_all_its_files(
    run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    """A base of the same shape with other weights, as after an update, takes any adapter without complaint."""
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    options = [f"model.base={base}", "model.dtype=float32", "tune.head=true", "train.epochs=0.1", "tune.rank=2"]
    assert run("train", shapes(circle=12, square=12), *options, "--run", "mine")[0] == 0
    predict = ["predict", "mine", "my shapes/circle/circle 0.jpg"]
    assert run(*predict)[0] == 0
    head = tmp_path / "mine" / "adapter" / "head.safetensors"
    head.rename(tmp_path / "head")
    code, _, err = run(*predict)  # without it, the decoder would answer
    assert code == 2
    assert "is incomplete: it has no head.safetensors" in err
    (tmp_path / "head").rename(head)
    weights = load_file(base / "model.safetensors")
    weights["model.language_model.embedding_norm.weight"] += 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    code, _, err = run(*predict)
    assert code == 2
    assert f"was trained on a model with other weights than {base}" in err


def test_full_weights_that_do_not_fit_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    model, _ = attached(tiny_folder, "tune.method=projector")
    save_tuned(model, tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    name, weight = next(iter(weights.items()))
    for changed, says in (
        ({name: weight[:1].clone()}, "has no counterpart of the same shape"),  # which would be spread over all
        ({f"{name}s": weight.clone()}, "has no counterpart of the same name"),
        ({name: weight * torch.nan}, "contains NaN"),
    ):
        save_file(weights | changed, tmp_path / "weights.safetensors")
        with pytest.raises(UserError, match=says):
            load_tuned(models.load_base(model.options), tmp_path)
    save_file({name: weight}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=rf"{len(weights) - 1} weights of the projector are missing, such as "):
        load_tuned(models.load_base(model.options), tmp_path)


def test_a_rank_beyond_all_layers_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"tune\.rank is 49, but no layer .* more than 32 inputs or outputs"):
        tuned_by(tiny_folder, "tune.rank=49")


@pytest.mark.parametrize("option", ["tune.rank=16", "tune.method=full"])
def test_weights_that_exceed_the_memory_are_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(Model, "free_memory", lambda self: 1000)
    with pytest.raises(UserError, match=rf"{option} needs .* GB for its weights alone"):
        tuned_by(tiny_folder, option)
