"""The published configurations of checkpoints, as differences from transformers' defaults.

The checkpoints themselves are not available here, so each entry names its source:

- *config*: config.json as published, in a public copy of the folder (LFM2-VL-450M).
- *header*: the hub's revision, read and recorded by the repository Shoozes/candle (tools/lfm2_vl/reference-lock.json,
  2026-08-11): configuration and image settings field by field, and a digest of all tensors' names and shapes in the
  safetensors file's header. If the digest matches, every shape is correct.
- *count*: the number of parameters in a public table of the hub's models, which the shapes must add up to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tests.models import checkpoints

LFM2_IMAGES = {
    "do_image_splitting": True, "min_image_tokens": 64, "max_image_tokens": 256, "min_tiles": 2, "max_tiles": 10,
    "tile_size": 512, "use_thumbnail": True, "max_pixels_tolerance": 2.0, "resample": 2,
}  # fmt: skip
"""Image settings of LFM2.5-VL-1.6B, which are the defaults of transformers' image processor too."""


@dataclass(frozen=True)
class Published:
    """One checkpoint: the differences of its configurations from transformers' defaults."""

    family: str
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    top_level: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] | None = None
    """Image settings; for LFM2-VL and LFM2.5-VL only those that differ from `LFM2_IMAGES`. None if not found."""
    parameters: int | None = None
    """As published; None if no source was found."""
    inventory: str | None = None
    """SHA-256 of the published header: see `test_published.inventory`."""

    def config(self) -> Any:
        """transformers' configuration of the complete model."""
        import transformers as t

        if self.family == "lfm2_vl":
            text = t.Lfm2Config(**self.text)
            vision = t.Siglip2VisionConfig(**({"vision_use_head": False} | self.vision))
            return t.Lfm2VlConfig(text_config=text, vision_config=vision, **self.top_level)
        if self.family == "lfm3_vl":
            lfm3_text, lfm3_vision = t.Lfm3Config(**self.text), t.Lfm3VlVisionConfig(**self.vision)
            return t.Lfm3VlConfig(text_config=lfm3_text, vision_config=lfm3_vision, **self.top_level)
        llama, siglip = t.LlamaConfig(**self.text), t.SmolVLMVisionConfig(**self.vision)
        return t.SmolVLMConfig(text_config=llama, vision_config=siglip, **self.top_level)

    def network(self) -> Any:
        """The network, its weights on the meta device."""
        import transformers as t

        classes = {
            "lfm2_vl": "Lfm2VlForConditionalGeneration",
            "lfm3_vl": "Lfm3VlForConditionalGeneration",
            "smolvlm": "SmolVLMForConditionalGeneration",
        }
        with torch.device("meta"):
            return getattr(t, classes[self.family])(self.config()).eval().requires_grad_(False)

    def settings(self) -> dict[str, Any]:
        """Image settings as in a model folder."""
        return (LFM2_IMAGES if self.family == "lfm2_vl" else {}) | (self.images or {})


def _layers(count: int, attention: set[int]) -> list[str]:
    return ["full_attention" if i in attention else "conv" for i in range(count)]


# `intermediate_size` is the value in config.json; the layers have two thirds of it, rounded up to a multiple of 256.
_SMALL = {"num_hidden_layers": 16, "layer_types": _layers(16, {2, 5, 8, 10, 12, 14}), "eos_token_id": 7}
LFM2_350M = _SMALL | {"hidden_size": 1024, "intermediate_size": 6656, "num_attention_heads": 16}
LFM2_1_2B = _SMALL | {"hidden_size": 2048, "intermediate_size": 12288}
LFM2_2_6B = {
    "hidden_size": 2048, "intermediate_size": 10752, "block_auto_adjust_ff_dim": False, "num_hidden_layers": 30,
    "layer_types": _layers(30, {2, 5, 9, 13, 17, 21, 24, 27}), "eos_token_id": 7,
}  # fmt: skip
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
# The projector of LFM2.5-VL; LFM2-VL's is transformers' default.
LFM2_5 = {"projector_hidden_size": 2048, "projector_use_layernorm": False}

PUBLISHED = {
    # config and count. The first release keeps these image settings flat in processor_config.json.
    "LFM2-VL-450M": Published("lfm2_vl", LFM2_350M, images={"use_thumbnail": False}, parameters=450_822_656),
    # count; text as LFM2-1.2B; tower and projector from a public test's copy of the first config.json (FFAI), which has
    # 27 layers, the last unused (`vision_feature_layer` -2). The count fits 26, which newer releases of transformers
    # need. Image settings: processor_config.json of the first release.
    "LFM2-VL-1.6B": Published(
        "lfm2_vl", LFM2_1_2B, SO400M | {"num_hidden_layers": 26}, images={"max_pixels_tolerance": 1.5},
        parameters=1_584_804_000,
    ),
    # count, and FACTS.md; image settings of LFM2.5-VL-1.6B, because no source was found for this checkpoint's.
    "LFM2-VL-3B": Published("lfm2_vl", LFM2_2_6B, SO400M, parameters=2_998_975_216),
    # header. (A public measurement gives the same number of parameters.)
    "LFM2.5-VL-450M": Published(
        "lfm2_vl", LFM2_350M, top_level=LFM2_5, images={}, parameters=448_718_848,
        inventory="08f544b4495804ed842a37acf0936544ec88aa5d947bef8304a47816fee5b1a7",
    ),
    # header and count
    "LFM2.5-VL-1.6B": Published(
        "lfm2_vl", LFM2_1_2B, SO400M, LFM2_5, {}, parameters=1_596_625_904,
        inventory="24728d0ed10229e788c5b9baf25e0cc6c92c93b9cdb12ebb252a3c140a861703",
    ),
    # header. Twice the vocabulary, other ids, and grids of one tile are allowed.
    "LFM2.5-VL-3B": Published(
        "lfm2_vl",
        LFM2_2_6B | {"vocab_size": 128_000, "pad_token_id": 124_893, "bos_token_id": 124_894, "eos_token_id": 124_900},
        SO400M, LFM2_5 | {"image_token_id": 124_907}, {"min_tiles": 1},
        inventory="e3283ed03ea93608145b2b426ba9eb5205f419272275484841c54aabdafe6b80",
    ),
    # transformers' defaults, which name this checkpoint. Ollama's page of it has the same text shape. No source was
    # found for its count and its image settings.
    "LFM3-VL-2B": Published("lfm3_vl"),
    # config, from public copies, and count. Image settings: those published for the 256M of the series.
    "SmolVLM2-500M": Published(
        "smolvlm",
        {
            "vocab_size": 49_280, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
            "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64,
        },
        {"hidden_size": 768, "num_attention_heads": 12, "image_size": 512, "patch_size": 16},
        {"scale_factor": 4, "image_token_id": 49_190},
        {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
        507_482_304,
    ),
}  # fmt: skip
# An older transformers lacks LFM3-VL.
PUBLISHED = {name: one for name, one in PUBLISHED.items() if one.family in checkpoints.FAMILIES}
