"""Images per second of Pillow and transformers' own LFM2-VL image processor: the peer of ../preparing.py.

Run by ../preparing.py as: preparing.py JOBS.json, a list of {"files", "settings"}. Each line of standard input is
{"job": index in the list, "threads", "images": number}; each is answered by a line {"seconds"}. Several threads prepare
one image each; a single thread leaves the cores to PyTorch.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common  # noqa: F401  (torchvision beside a CPU torch)
import torch
from PIL import Image
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor


def prepare(processor: Any, file: str) -> Any:
    with Image.open(file) as image:
        return processor(image.convert("RGB"), return_tensors="pt")


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    cores = torch.get_num_threads()
    for line in sys.stdin:
        turn = json.loads(line)
        job, threads = jobs[turn["job"]], turn["threads"]
        processor, files = Lfm2VlImageProcessor(**job["settings"]), job["files"]
        torch.set_num_threads(cores // threads)
        todo = [files[i % len(files)] for i in range(turn["images"])]
        clock = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda file, p=processor: prepare(p, file) and None, todo):
                pass
        print(json.dumps({"seconds": time.perf_counter() - clock}), flush=True)


if __name__ == "__main__":
    main()
