"""Every family has the scores and gradients of transformers' own code, on images with one view and with several."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from lensmith import models
from lensmith.config import ModelOptions, QuestionOptions, TuneOptions, load_recipe
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import feature_names
from lensmith.engine.question import make_prompt, make_question, messages
from lensmith.engine.step import Step
from lensmith.errors import UserError
from lensmith.learn.features.store import FeatureStore
from lensmith.models.attention import ATTENTION
from lensmith.models.base import Model
from lensmith.models.tuned_files import keep_tuned
from lensmith.models.tuning import attach, coverage, trainable
from lensmith.models.views import shape_of, stack, unstack
from lensmith.runs.folder import Run
from tests.models import checkpoints

pytestmark = pytest.mark.long

LABELS = ["can", "can opener", "t-shirt", "ankle boot"]
SIZES = {"small": (40, 30), "long": (700, 90), "large": (1100, 900)}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    # Tiles of 96 pixels, so that the plain forward pass of a large image stays small.
    small = {"tile_size": 96, "min_image_tokens": 4, "max_image_tokens": 16}
    return {
        family: checkpoints.make(family, root / family, **(small if family == "lfm2_vl" else {}))
        for family in checkpoints.FAMILIES
    }


@pytest.fixture(params=checkpoints.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str, folders: dict[str, Path]) -> Model:
    return models.load_base(ModelOptions(base=str(folders[family]), dtype="float32", device="cpu"))


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image with large and small structures."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def original_lfm2_vl(model: Model, image: Image.Image) -> tuple[str, dict[str, Tensor]]:
    """The text by transformers' processor, the pixels by hand: its image processor needs torchvision.
    (test_preparation.py's vectors were recorded from it.)"""
    views = model.prepare(image)
    grid = views[0].shape[1] // model.tile_side, views[0].shape[2] // model.tile_side
    pieces = list(views)
    if len(views) > 1:
        tiles = [
            views[0][:, r * 96 : r * 96 + 96, c * 96 : c * 96 + 96] for r in range(grid[0]) for c in range(grid[1])
        ]
        pieces = [*tiles, views[1]]
    longest = max(p.shape[1] * p.shape[2] // 256 for p in pieces)
    patches, masks, shapes = [], [], []
    for piece in pieces:
        rows, columns = piece.shape[1] // 16, piece.shape[2] // 16
        flat = (piece.float() / 255 - 0.5) / 0.5
        flat = flat.view(3, rows, 16, columns, 16).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        patches.append(torch.nn.functional.pad(flat, (0, 0, 0, longest - len(flat))))
        masks.append((torch.arange(longest) < len(flat)).long())
        shapes.append([rows, columns])
    processor: Any = SimpleNamespace(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    words = Lfm2VlProcessor._build_image_tokens(
        processor,
        *(grid if len(views) > 1 else (1, 1)),
        9,
        shapes[-1][0] * shapes[-1][1] // 4,
        True,
        True,
    )
    return words, {
        "pixel_values": torch.stack(patches),
        "pixel_attention_mask": torch.stack(masks),
        "spatial_shapes": torch.tensor(shapes),
    }


def original_lfm3_vl(model: Model, image: Image.Image) -> tuple[str, dict[str, Tensor]]:
    """It gets the image already scaled, because it uses Pillow's filter here, which rounds differently from
    torchvision's."""
    original = Qwen2VLImageProcessorPil(**model.settings)
    (view,) = model.prepare(image)
    inputs = original(Image.fromarray(view.permute(1, 2, 0).numpy()), return_tensors="pt")
    scaled_by_it = original(image, return_tensors="pt")
    assert torch.equal(scaled_by_it["image_grid_thw"], inputs["image_grid_thw"])
    assert (scaled_by_it["pixel_values"] - inputs["pixel_values"]).abs().max() < 2.01 / 127.5
    count = int(inputs["image_grid_thw"].prod()) // 4
    return "<|image_pad|>" * count, dict(inputs)


def original_smolvlm(model: Model, image: Image.Image) -> tuple[str, dict[str, Tensor]]:
    original: Any = SmolVLMImageProcessorPil(**model.settings)
    inputs = original(image, return_row_col_info=True, return_tensors="pt")
    words = get_image_prompt_string(
        inputs.pop("rows")[0][0], inputs.pop("cols")[0][0], 4, "<fake_token_around_image>", "<image>", "<global-img>"
    )
    return words, dict(inputs)


ORIGINAL = {"lfm2_vl": original_lfm2_vl, "lfm3_vl": original_lfm3_vl, "smolvlm": original_smolvlm}


def plain_log_probability(model: Model, family: str, image: Image.Image, label: str) -> Tensor:
    """From transformers' own forward pass on the inputs of its processor."""
    words, pixels = ORIGINAL[family](model, image)
    chat = messages(QuestionOptions(), LABELS)
    text = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    answer = {"role": "assistant", "content": [{"type": "text", "text": label}]}
    conversation = model.tokenizer.apply_chat_template([*chat, answer], tokenize=False).rstrip("\n")
    token = model.image_token
    ids = torch.tensor([model.tokenizer.encode(conversation.replace(token, words), add_special_tokens=False)])
    before = len(model.tokenizer.encode(text.replace(token, words), add_special_tokens=False))
    decoder: Any = model.decoder
    decoder.set_attn_implementation("eager")
    logits = model.network(input_ids=ids, **pixels).logits[0]
    decoder.set_attn_implementation(ATTENTION)
    log: Tensor = logits.log_softmax(-1)[torch.arange(before - 1, ids.shape[1] - 1), ids[0, before:]].sum()
    return log


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_scores_are_those_of_the_plain_forward_pass(model: Model, family: str, size: tuple[int, int]) -> None:
    pictures = [photograph(*size, seed) for seed in (1, 2)]
    scores = (
        Classifier(model, make_question(model, QuestionOptions(), LABELS))
        .score(stack([model.prepare(p) for p in pictures]))
        .bound
    )
    expected = torch.stack(
        [torch.stack([plain_log_probability(model, family, p, label) for label in LABELS]) for p in pictures]
    )
    torch.testing.assert_close(scores, expected, rtol=2e-4, atol=2e-3)
    assert (scores[0] - scores[1]).abs().max() > 0.01, "the image must matter"


@pytest.mark.parametrize("options", [["train.objective=tokens"], ["train.objective=labels"]], ids=str)
def test_gradients_are_those_of_the_plain_forward_pass(model: Model, family: str, options: list[str]) -> None:
    attach(model, TuneOptions(rank=2, projector=True, vision_tower=True), LABELS)
    torch.manual_seed(1)
    for name, weight in trainable(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    pictures = [photograph(*SIZES["small"], 3), photograph(*SIZES["large"], 4)]
    step = Step(
        model, make_prompt(model, QuestionOptions(), LABELS), load_recipe(None, options), model.embed_images, print
    )
    losses = step.gradients([model.prepare(p) for p in pictures], [[(1, 1.0)], [(2, 1.0)]], torch.rand(2, 4), 0)
    actual = gradients(model)

    expected = []
    for picture, label in zip(pictures, (1, 2), strict=True):
        logs = [plain_log_probability(model, family, picture, name) for name in LABELS]
        loss = -logs[label] if "tokens" in options[0] else -torch.stack(logs).log_softmax(0)[label]
        loss.backward()
        expected.append(loss.detach())
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-3, atol=2e-3)
    plain = gradients(model)
    assert (actual - plain).norm() < 5e-3 * plain.norm()


@pytest.mark.parametrize("projected", [False, True])
def test_features_cached_on_disk_give_the_same_embeddings(model: Model, tmp_path: Path, projected: bool) -> None:
    images = {name: model.prepare(photograph(*size)) for name, size in SIZES.items()}
    with torch.no_grad():
        expected = {name: model.embed_images(stack([views])) for name, views in images.items()}
        encoded = {name: model.encode_images(stack([views])) for name, views in images.items()}
        cached = {name: unstack(model.project(views) if projected else views)[0] for name, views in encoded.items()}
    store = FeatureStore(tmp_path)
    store.add(cached)
    store.reopen()
    for name in images:
        features = store.get(name)
        assert features is not None
        embeddings = stack([features]) if projected else model.project(stack([features]))
        assert torch.equal(model.assemble(embeddings), expected[name])


def gradients(model: Model) -> Tensor:
    """The gradients as one vector. They are reset afterwards."""
    flat = torch.cat([weight.grad.flatten() for weight in trainable(model).values() if weight.grad is not None])
    model.network.zero_grad()
    return flat


def test_lora_matches_every_linear_layer_of_a_component(model: Model) -> None:
    expected = dict.fromkeys(model.components, 0)
    for name, module in model.network.named_modules():
        component = next((c for c, prefix in model.components.items() if name.startswith(prefix + ".")), None)
        if component and isinstance(module, torch.nn.Linear):
            expected[component] += 1
    attach(model, TuneOptions(rank=2, projector=True, vision_tower=True), LABELS)
    counts = {c: sum(row.count for row in coverage(model) if row.component == c) for c in model.components}
    assert counts == expected
    assert all(counts.values())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_text_around_an_image_is_that_of_the_processor(model: Model, family: str, size: tuple[int, int]) -> None:
    picture = photograph(*size)
    views = model.prepare(picture)
    maps = tuple(
        torch.empty(1, view.shape[1] // model.token_side, view.shape[2] // model.token_side, 0) for view in views
    )
    opening, closing = model.image_frame
    items = [item if isinstance(item, str) else model.image_token * item.shape[1] for item in model.sequence(maps)]
    words, _ = ORIGINAL[family](model, picture)
    assert "".join([opening, *items, closing]) == words
    assert model.tokens(shape_of(views)) == len(model.tokenizer.encode("".join(items), add_special_tokens=False))


def test_images_can_be_prepared_from_pixels_and_in_batches(model: Model) -> None:
    pictures = [photograph(300, 200, seed) for seed in (1, 2)]
    one_by_one = stack([model.prepare(picture) for picture in pictures])
    together = model.prepare(torch.stack([models.views.to_pixels(picture) for picture in pictures]))
    assert all(torch.equal(a, b) for a, b in zip(one_by_one, together, strict=True))


def test_the_number_of_image_tokens_never_exceeds_the_budget(family: str, folders: dict[str, Path]) -> None:
    budget = {"lfm2_vl": 6, "lfm3_vl": 6, "smolvlm": 4}[family]
    options = ModelOptions(base=str(folders[family]), dtype="float32", device="cpu", image_tokens=budget)
    model = models.load_base(options)
    words = {"smolvlm": 1}.get(family, 0)  # its tag for the full image
    for size in [(1, 1), (30, 40), (2000, 1500), (20_000, 10)]:
        views = model.prepare(photograph(*size))
        assert len(views) == 1
        assert 1 <= model.tokens(shape_of(views)) - words <= budget, size


def test_a_budget_below_a_tile_is_refused_if_the_model_has_no_smaller_view(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="needs at least 4 tokens for an image"):
        models.load_base(ModelOptions(base=str(folders["smolvlm"]), device="cpu", image_tokens=3))


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (3, 900)])
def test_images_of_unusual_sizes_are_scored(model: Model, size: tuple[int, int]) -> None:
    picture = photograph(*size)
    scores = Classifier(model, make_question(model, QuestionOptions(), LABELS)).score(stack([model.prepare(picture)]))
    assert scores.bound.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 5}, "don't fit its config.json"),
        ({"hidden_size": 64}, "don't fit its config.json|can't be loaded"),
        ({"num_hidden_layers": 2}, "don't fit its config.json"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, int], message: str
) -> None:
    folder = copied(folders["lfm2_vl"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    if "num_hidden_layers" in change:
        config["text_config"]["layer_types"] = (["conv", "full_attention"] * 3)[: change["num_hidden_layers"]]
        config["text_config"]["layer_types"][1] = "full_attention"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        models.load_base(ModelOptions(base=str(folder), device="cpu"))


def test_a_checkpoint_of_the_first_release_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["lfm2_vl"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] = config.pop("image_token_id")
    config["vision_feature_layer"] = -2
    config["vision_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "lfm2-vl"}))
    old, new = (
        models.load_base(ModelOptions(base=str(f), dtype="float32", device="cpu")) for f in (folder, folders["lfm2_vl"])
    )
    views = stack([new.prepare(photograph(50, 50))])
    scores, expected = (
        Classifier(m, make_question(m, QuestionOptions(), LABELS)).score(views).bound for m in (old, new)
    )
    assert torch.equal(scores, expected)


def test_image_settings_in_processor_config_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["lfm2_vl"], tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        models.load_base(ModelOptions(base=str(folder), device="cpu"))
    for processor in ({"image_processor": settings}, settings):  # transformers 5, and the first release
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Lfm2VlProcessor"} | processor))
        model = models.load_base(ModelOptions(base=str(folder), device="cpu"))
        assert model.tile_side == 96


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("smolvlm", {"size": None}),
        ("lfm2_vl", {"resample": 1}),
        ("lfm2_vl", {"image_mean": None}),
        ("lfm2_vl", {"tile_size": 32}),
    ],
    ids=str,
)
def test_unusable_image_settings_are_reported(
    folders: dict[str, Path], tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    folder = copied(folders[name], tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(
        UserError, match=r"image settings of .* can't be used|grids of tiles no larger than an image without tiles"
    ):
        models.load_base(ModelOptions(base=str(folder), device="cpu"))


def test_an_adapter_restores_the_image_budget_of_its_training(folders: dict[str, Path], tmp_path: Path) -> None:
    options = ModelOptions(base=str(folders["lfm2_vl"]), device="cpu", dtype="float32", image_tokens=6)
    model = models.load_base(options)
    tuned = attach(model, TuneOptions(rank=2), LABELS)
    recipe = load_recipe(None, [])
    recipe.model = options
    dataset: Any = SimpleNamespace(labels=LABELS)
    keep_tuned(Run(tmp_path, recipe, dataset), tuned)
    again = models.load(replace(options, image_tokens=None, adapter=str(tmp_path))).model
    assert again.sizes(900, 1100) == model.sizes(900, 1100)
    wider = models.load(replace(options, image_tokens=12, adapter=str(tmp_path))).model
    assert wider.sizes(900, 1100) != model.sizes(900, 1100), "the recipe takes precedence"


def test_too_little_memory_is_reported_before_loading(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmith.models.loading.available_memory", lambda: 1000)
    with pytest.raises(
        UserError, match=r"needs 0\.\d GB of memory for its weights in float32; 0\.0 GB are free \(cpu\)"
    ):
        models.load_base(ModelOptions(base=str(folders["lfm2_vl"]), dtype="float32", device="cpu"))


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    with pytest.raises(
        UserError, match=r"'qwen3_vl', which Lensmith does not know\. Known types: lfm2_vl, lfm3_vl, smolvlm"
    ):
        models.load_base(ModelOptions(base=str(tmp_path)))


def test_an_architecture_that_transformers_lacks_is_named(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lensmith.models.families.smolvlm", None)  # importing it is an ImportError
    with pytest.raises(UserError, match=r"type smolvlm, which transformers 5\.\d+\.\d+ does not have\. pip install"):
        models.load_base(ModelOptions(base=str(folders["smolvlm"]), device="cpu"))


def copied(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def answers_of(model: Model, labels: Sequence[str]) -> list[str]:
    return [model.tokenizer.decode(forms[0]) for forms in make_prompt(model, QuestionOptions(), labels).answers]


def test_answers_begin_and_end_as_the_chat_template_writes_them(model: Model, family: str) -> None:
    expected = {"smolvlm": " can<end_of_utterance>"}.get(family, "can<|im_end|>")
    assert answers_of(model, LABELS)[0] == expected


def test_features_are_of_the_full_image_and_of_every_depth(model: Model) -> None:
    views = stack([model.prepare(photograph(*SIZES["large"], seed)) for seed in (0, 1)])
    classifier, wanted = Classifier(model, make_question(model, QuestionOptions(), LABELS)), feature_names(model)
    features = classifier.features(views, wanted)
    assert set(features) == set(wanted)
    last_view = model.encode_images(views)[-1]
    torch.testing.assert_close(features["tower mean"], last_view.mean((1, 2)))
    assert features["tower grid"].shape == (2, 4 * last_view.shape[-1])
    for name, values in features.items():
        assert values.isfinite().all()
        # Different images have different features, except after a conv layer that only covers the text at the end.
        assert name == "decoder 1 end" or not torch.allclose(values[0], values[1]), name
    ends = [values for name, values in features.items() if name.endswith("end")]
    assert not any(torch.allclose(a, b) for a, b in pairwise(ends))
