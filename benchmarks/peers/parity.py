"""How transformers' own processors (torchvision's kernels) prepare pictures: the reference of ../parity.py.

Run by ../parity.py as: parity.py FOLDER. For each of `pictures.SETTINGS`, FOLDER has a folder of that name with a
checkpoint's tokenizer and preprocessor_config.json. Jobs are lines of JSON on standard input; each is answered by a
line:

- {"setting", "case": [width, height, seed]}: {"words", "ids", "shapes", "lengths"}, which are the image's placeholder
  in the prompt written out, its tokens, the rows and columns of each tile's patches, and the number of unmasked patches
  of each tile; and FOLDER/values.npy, (tiles, patches, values).
- {"setting", "sizes": [[height, width], ...]}: a list with the sizes of the views of each: the grid of tiles if the
  image is split, and the complete image; null for an image that is refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common  # noqa: F401  (torchvision beside a CPU torch)
import numpy as np
import torch
from transformers import Lfm2VlProcessor, PreTrainedTokenizerFast
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.lfm3_vl.processing_lfm3_vl import Lfm3VlProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.models import pictures

Made = tuple[dict[str, Any], torch.Tensor]


def lfm2_vl(tokenizer: Any, settings: dict[str, Any], image: Any) -> Made:
    processor = Lfm2VlProcessor(Lfm2VlImageProcessor(**settings), tokenizer)
    made = processor(images=image, text=processor.image_token, return_tensors="pt")
    found = {"words": tokenizer.decode(made["input_ids"][0]), "ids": made["input_ids"][0].tolist()}
    found |= {"shapes": made["spatial_shapes"].tolist(), "lengths": made["pixel_attention_mask"].sum(1).tolist()}
    return found, made["pixel_values"]


def lfm3_vl(tokenizer: Any, settings: dict[str, Any], image: Any) -> Made:
    processor = Qwen2VLImageProcessor(**settings)
    made = processor(image, return_tensors="pt")
    # The complete processor would require a video processor too.
    this: Any = SimpleNamespace(image_processor=processor, image_token="<|image_pad|>")
    words = Lfm3VlProcessor.replace_image_token(this, made, 0)
    rows, columns = made["image_grid_thw"][0, 1:].tolist()
    found = {"words": words, "ids": tokenizer.encode(words, add_special_tokens=False), "shapes": [[rows, columns]]}
    return found | {"lengths": [len(made["pixel_values"])]}, made["pixel_values"][None]


def lfm2_vl_views(settings: dict[str, Any], height: int, width: int) -> list[list[int]]:
    p = Lfm2VlImageProcessor(**settings)
    unit: dict[str, Any] = {"downsample_factor": p.downsample_factor, "encoder_patch_size": p.encoder_patch_size}
    unit |= {"max_image_tokens": p.max_image_tokens}
    wide, high = p.smart_resize(height, width, min_image_tokens=p.min_image_tokens, **unit)
    if not p._is_image_too_large(height, width, max_pixels_tolerance=p.max_pixels_tolerance, **unit):
        return [[high, wide]]
    _, _, across, down, _ = p._get_grid_layout(height, width, p.min_tiles, p.max_tiles, p.tile_size)
    return [[down, across], [high, wide]]


def lfm3_vl_views(settings: dict[str, Any], height: int, width: int) -> list[list[int]] | None:
    step, size = settings["patch_size"] * settings["merge_size"], settings["size"]
    if max(height, width) > 200 * min(height, width):
        return None
    return [list(smart_resize(height, width, step, size["shortest_edge"], size["longest_edge"]))]


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        here = folder / job["setting"]
        tokenizer = PreTrainedTokenizerFast.from_pretrained(here)
        settings = json.loads((here / "preprocessor_config.json").read_text())
        settings.pop("image_processor_type")
        family = pictures.SETTINGS[job["setting"]][0]
        if "sizes" in job:
            views = {"lfm2_vl": lfm2_vl_views, "lfm3_vl": lfm3_vl_views}[family]
            print(json.dumps([views(settings, *size) for size in job["sizes"]]), flush=True)
            continue
        image = pictures.picture(*job["case"])
        found, values = {"lfm2_vl": lfm2_vl, "lfm3_vl": lfm3_vl}[family](tokenizer, settings, image)
        np.save(folder / "values.npy", values.numpy())
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
