"""Puts a trained model folder into the package: weights, tokenizer and settings, and nothing else.

Run: python pretrain/install.py WORK_DIR
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from base import save_processor

NANO = Path(__file__).parent.parent / "src" / "lensmith" / "models" / "nano"
FILES = ("config.json", "generation_config.json", "model.safetensors")


def main() -> None:
    source = Path(sys.argv[1]) / "model"
    NANO.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, NANO / name)
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    save_processor(NANO, tokenizer)
    size = sum(path.stat().st_size for path in NANO.iterdir())
    print(f"{NANO}: {size:,} bytes")


if __name__ == "__main__":
    main()
