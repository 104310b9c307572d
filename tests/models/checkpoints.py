"""Tiny checkpoints with random weights of every family, in folders like the published ones: for tests of families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    PreTrainedTokenizerFast,
    Siglip2VisionConfig,
)

from lensmith import models

FAMILIES = ["lfm2_vl", "smolvlm"]
if hasattr(transformers, "Lfm3VlForConditionalGeneration"):  # since transformers 5.23
    FAMILIES.append("lfm3_vl")
GRID = [f"<|img_row_{r}_col_{c}|>" for r in range(1, 11) for c in range(1, 11)] + ["<|img_thumbnail|>"]
SMOL_GRID = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]


def make(family: str, folder: Path, **settings: Any) -> Path:
    """Write a tiny checkpoint. `settings` override the published image settings."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    return {"lfm2_vl": _lfm2_vl, "lfm3_vl": _lfm3_vl, "smolvlm": _smolvlm}[family](folder, settings)


def _tokenizer(folder: Path, extra: list[str], template: str) -> Any:
    """nano's tokenizer with more special tokens."""
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(models.NANO)
    tokenizer.add_special_tokens({"additional_special_tokens": extra}, replace_extra_special_tokens=False)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def _finish(network: Any, folder: Path, settings: dict[str, Any]) -> Path:
    with torch.no_grad():
        for name, weight in network.named_parameters():
            # Large enough that the image and every token affect the scores.
            if weight.ndim > 1 and "norm" not in name:
                weight.normal_(std=0.5 if "embed_tokens" in name else 0.15)
    network.float().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def _lfm2_vl(folder: Path, settings: dict[str, Any]) -> Path:
    template = (models.NANO / "chat_template.jinja").read_text()
    tokenizer = _tokenizer(folder, GRID, template)
    text = Lfm2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, block_auto_adjust_ff_dim=False,
        num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = Siglip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_patches=64,
        patch_size=16, vision_use_head=False,
    )  # fmt: skip
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = Lfm2VlConfig(text_config=text, vision_config=vision, image_token_id=image, projector_hidden_size=32)
    defaults = {
        "image_processor_type": "Lfm2VlImageProcessorFast", "do_image_splitting": True, "min_image_tokens": 64,
        "max_image_tokens": 256, "min_tiles": 2, "max_tiles": 10, "tile_size": 512, "use_thumbnail": True,
        "encoder_patch_size": 16, "downsample_factor": 2, "max_pixels_tolerance": 2.0, "resample": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    return _finish(Lfm2VlForConditionalGeneration(config), folder, defaults | settings)


def _lfm3_vl(folder: Path, settings: dict[str, Any]) -> Path:
    from transformers import Lfm3Config, Lfm3VlConfig, Lfm3VlForConditionalGeneration, Lfm3VlVisionConfig

    template = (models.NANO / "chat_template.jinja").read_text()
    template = template.replace("'<image>'", "'<|vision_start|><|image_pad|><|vision_end|>'")
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(folder, special, template)
    start, end, image, video = tokenizer.convert_tokens_to_ids(special)
    text = Lfm3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=24, pad_token_id=0, bos_token_id=1,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = Lfm3VlVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    )
    config = Lfm3VlConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end, projector_hidden_size=32,
    )  # fmt: skip
    defaults = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 16 * 1024, "longest_edge": 128 * 1024}, "resample": 3,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    assert (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size) == (16, 2, 2)
    return _finish(Lfm3VlForConditionalGeneration(config), folder, defaults | settings)


def _smolvlm(folder: Path, settings: dict[str, Any]) -> Path:
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMVisionConfig

    template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
        "{% if message['content'][0]['type'] != 'image' %} {% endif %}{% for part in message['content'] %}"
        "{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    special = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *SMOL_GRID]
    tokenizer = _tokenizer(folder, special, template)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = SmolVLMVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=64, patch_size=8
    )
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
    )  # fmt: skip
    defaults = {
        "image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": True, "resample": 1,
        "size": {"longest_edge": 256}, "max_image_size": {"longest_edge": 64}, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }  # fmt: skip
    return _finish(SmolVLMForConditionalGeneration(config), folder, defaults | settings)
