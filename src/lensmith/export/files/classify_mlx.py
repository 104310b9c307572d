"""Classify images with the model in this folder, on Apple's MLX: python classify_mlx.py IMAGE ...

Needs: pip install mlx-vlm (on Linux also: pip install 'mlx[cpu]')
"""

import io
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_vlm.utils import load
from PIL import Image, ImageOps

folder = Path(__file__).parent
task = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
model, processor = load(str(folder))
processor.image_processor.do_image_splitting = task["tiles"]  # mlx-vlm would turn it on again


def scores(file):
    """The log-probability of each label, for the bytes of an image file."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    asked = processor(images=[image], text=task["prompt"], add_special_tokens=False)
    question = np.array(asked.pop("input_ids"))[0]
    answers = [answer for group in task["answers"] for answer in group]
    longest = max(map(len, answers))
    ids = np.array([[*question, *answer, *[0] * (longest - len(answer))] for answer in answers])
    seen = {
        name: np.repeat(np.array(value), len(answers), 0) for name, value in asked.items() if name != "attention_mask"
    }
    logits = model(mx.array(ids), mask=None, **{name: mx.array(value) for name, value in seen.items()}).logits
    logits = np.array(logits[:, len(question) - 1 : -1].astype(mx.float32))
    logits = logits - np.logaddexp.reduce(logits, 2, keepdims=True)
    totals = iter([row[np.arange(len(answer)), answer].sum() for row, answer in zip(logits, answers, strict=True)])
    found = [np.logaddexp.reduce([next(totals) for _ in group]) for group in task["answers"]]
    calibrated = (np.array(found) - task["offsets"]) / task["temperature"]
    return calibrated - np.logaddexp.reduce(calibrated)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        found = scores(Path(path).read_bytes())
        print(path, task["labels"][found.argmax()], f"{np.exp(found.max()):.3f}", sep="\t")
