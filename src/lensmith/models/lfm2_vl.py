"""LFM2-VL: SigLIP2 NaFlex tower, pixel unshuffle, projector, hybrid conv/attention decoder.

transformers' own image processor needs torchvision, so images are prepared here: the size that keeps the aspect ratio
within the checkpoint's token budget, bilinear with antialiasing on bytes (bit for bit what torchvision does), then
patches. Not yet here: tiles. An image above the budget is scaled down to it as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, Lfm2VlForConditionalGeneration

from lensmith.branches import ATTENTION
from lensmith.config import ModelOptions
from lensmith.errors import UserError
from lensmith.models import family

# Below this many parameters, weights are held in float32 even if products run in bfloat16: rounding the stored
# weights of a small model costs more accuracy than the memory is worth.
SMALL = 100_000_000


class Model(family.Model):
    components: ClassVar[dict[str, str]] = {
        "language_model": "model.language_model",
        "projector": "model.multi_modal_projector",
        "vision_tower": "model.vision_tower",
    }

    def __init__(self, network: Any, tokenizer: Any, options: ModelOptions, folder: Path) -> None:
        super().__init__(network, tokenizer, options, folder)
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        config = network.config
        self.patch = int(config.vision_config.patch_size)
        self.unshuffle = int(config.downsample_factor)
        self.min_tokens = int(settings.get("min_image_tokens", 64))
        self.max_tokens = int(settings.get("max_image_tokens", 256))
        mean, std = settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)
        # (values of a patch,): channels lie innermost.
        self.mean, self.std = (
            torch.tensor(values, device=self.device).repeat(self.patch**2) * 255 for values in (mean, std)
        )

    @classmethod
    def from_folder(cls, folder: Path, options: ModelOptions) -> Model:
        device = family.pick_device(options.device)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            dtype = family.compute_dtype(options.dtype, device)
            network: Any = Lfm2VlForConditionalGeneration.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                **family.quantisation(options, device, dtype, cls.components),
            )
            # Fused attention's backward is slow on a CPU for short segments: 18 times the forward at 16 tokens.
            network.set_attn_implementation("eager" if device.type == "cpu" else "sdpa")
            network.model.language_model.set_attn_implementation(ATTENTION)
            if options.quantize == "none":
                network.to(device, torch.float32 if network.num_parameters() < SMALL else dtype)
                family.hold_products(network, dtype)
            return cls(network.eval().requires_grad_(False), tokenizer, options, folder)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"The model in {folder} can't be loaded: {reason}") from error

    @property
    def decoder(self) -> nn.Module:
        module: nn.Module = self.network.model.language_model
        return module

    @property
    def image_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.network.config.image_token_id))

    @property
    def image_frame(self) -> tuple[str, str]:
        start = getattr(self.tokenizer, "image_start_token", None) or "<|image_start|>"
        end = getattr(self.tokenizer, "image_end_token", None) or "<|image_end|>"
        return str(start), str(end)

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels an image is resized to: multiples of patch x unshuffle, within the budget.

        Follows `smart_resize` of transformers' Lfm2VlImageProcessor.
        """
        step = self.patch * self.unshuffle
        least, most = self.min_tokens * step**2, self.max_tokens * step**2
        high, wide = max(step, round(height / step) * step), max(step, round(width / step) * step)
        if high * wide > most:
            shrink = math.sqrt(height * width / most)
            high = max(step, math.floor(height / shrink / step) * step)
            wide = max(step, math.floor(width / shrink / step) * step)
        elif high * wide < least:
            grow = math.sqrt(least / (height * width))
            high = math.ceil(height * grow / step) * step
            wide = math.ceil(width * grow / step) * step
        # A very long image can still be over the budget, since no side is less than one step.
        return min(high, self.max_tokens * step), min(wide, self.max_tokens * step)

    def prepare(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)
        size = self.size_for(*pixels.shape[1:])
        if pixels.shape[1:] == size:
            return pixels
        return F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]

    def memory(self, shape: Sequence[int], past: int) -> int:
        vision, text = self.network.config.vision_config, self.network.config.text_config
        patches = shape[1] * shape[2] // self.patch**2
        tokens = patches // self.unshuffle**2 + 64  # the question's end, and what of the answers is in play
        # Float32 copies of a layer's widest activations, and of its attention scores.
        tower = patches * (6 * vision.intermediate_size + 3 * vision.num_attention_heads * patches)
        decoder = tokens * (6 * text.intermediate_size + 3 * text.num_attention_heads * (past + tokens))
        return int(4 * max(tower, decoder) + 4 * text.vocab_size)

    def see(self, pixels: Tensor) -> Tensor:
        n, channels, height, width = pixels.shape
        p = self.patch
        rows, columns = height // p, width // p
        patches = pixels.to(self.device).view(n, channels, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
        values = (patches.reshape(n, rows * columns, -1).float() - self.mean).div_(self.std)
        tower = self.network.model.vision_tower
        embeddings = tower.embeddings
        grid = embeddings.position_embedding.weight.view(*[embeddings.position_embedding_size] * 2, -1)
        # All images here have one size, so positions are resized once, where the tower would do it once an image,
        # and attention needs no mask.
        positions = embeddings.resize_positional_embeddings(
            grid, torch.tensor([[rows, columns]], device=self.device), max_length=rows * columns
        )
        weight = embeddings.patch_embedding.weight
        embedded = embeddings.patch_embedding(values.to(weight.dtype)) + positions
        seen = tower.post_layernorm(tower.encoder(inputs_embeds=embedded).last_hidden_state)
        return cast(Tensor, seen.view(n, rows, columns, -1))

    def project(self, seen: Tensor) -> Tensor:
        projected: Tensor = self.network.model.multi_modal_projector(seen)
        return projected.flatten(1, 2)
