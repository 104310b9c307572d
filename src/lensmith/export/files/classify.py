"""Classify images with model.onnx, which stands beside this file: python classify.py IMAGE ...

Needs: pip install onnxruntime pillow
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])


def scores(file):
    """The log-probability of each label, for the bytes of an image file."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return session.run(["log_probabilities"], {"images": np.asarray(image)[None]})[0][0]


if __name__ == "__main__":
    for path in sys.argv[1:]:
        found = scores(Path(path).read_bytes())
        print(path, labels[found.argmax()], f"{np.exp(found.max()):.3f}", sep="\t")
