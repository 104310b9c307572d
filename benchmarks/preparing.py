"""Claim: images are read and prepared faster than a small model processes them, and faster than by the usual processor.

Lensmith's reader, the one that scoring uses, decodes and prepares files: 32-pixel PNGs, and JPEGs of 12 megapixels
(4000 x 3000, quality 90), with LFM2-VL's published settings (tiles of 512 pixels and a thumbnail) and with
model.image_tokens=256 (no tiles). The peer is Pillow with transformers' `Lfm2VlImageProcessor` on torchvision, in the
peers' environment, with the number of threads that is faster for it. "Decoding" is Lensmith's decoder alone, which is
limited by libjpeg. The sides take turns; results are medians over the rounds.

Also measured: how much decoding a large JPEG at a reduced scale changes the prepared image.

Run: python benchmarks/preparing.py [--quick]   (two minutes, longer the first time; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.data import decode_image
from lensmith.engine.classifier import _Reader
from lensmith.models.base import Model
from lensmith.runs.provenance import provenance

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.models import checkpoints, pictures  # noqa: E402

PEERS = Path(__file__).parent / "peers"
ROUNDS = 5
LARGE, SMALL = (4000, 3000), (32, 32)


class Race:
    """Files and settings, and how fast each side prepares the files with these settings."""

    def __init__(self, name: str, files: list[Path], images: int, model: Model, settings: dict[str, Any]) -> None:
        self.name, self.model, self.images = name, model, images
        self.files = [files[i % len(files)] for i in range(images)]
        self.job = {"files": [str(file) for file in files], "settings": settings}
        self.count = {1: 4, os.cpu_count() or 1: 4}
        """The peer's number of threads -> images in its next turn."""
        self.speed: dict[Any, list[float]] = {"lensmith": [], "decoding": []} | {threads: [] for threads in self.count}

    def ours(self, reader: _Reader) -> None:
        """Lensmith's turn: reading and preparing, then decoding alone."""
        decode = [partial(decode_image, f, name=f.name, enough=self.model.sufficient_size) for f in self.files]
        clock = time.perf_counter()
        reader.read([(file.name, None, image) for file, image in zip(self.files, decode, strict=True)])
        self.speed["lensmith"].append(self.images / (time.perf_counter() - clock))
        clock = time.perf_counter()
        for _ in reader.pool.map(lambda image: image() and None, decode):
            pass
        self.speed["decoding"].append(self.images / (time.perf_counter() - clock))

    def theirs(self, peer: subprocess.Popen[str], index: int, seconds: float) -> None:
        """The peer's turns on its job of this index, about `seconds` for each number of threads."""
        for threads, images in self.count.items():
            assert peer.stdin
            assert peer.stdout
            peer.stdin.write(json.dumps({"job": index, "threads": threads, "images": images}) + "\n")
            peer.stdin.flush()
            took = json.loads(peer.stdout.readline())["seconds"]
            self.speed[threads].append(images / took)
            self.count[threads] = max(4, min(self.images, int(seconds * images / took)))

    def median(self, who: Any) -> float:
        """Median images per second over the rounds."""
        return statistics.median(self.speed[who])

    @property
    def peer(self) -> float:
        """The peer's median images per second, with the faster number of threads."""
        return max(self.median(threads) for threads in self.count)

    def apart(self) -> tuple[int, float]:
        """The largest and the mean difference, in levels, that decoding at a reduced scale makes."""
        most, means = 0, []
        for file in sorted(set(self.files)):
            shrunk, whole = (
                self.model.prepare(decode_image(file, name=file.name, enough=enough))
                for enough in (self.model.sufficient_size, None)
            )
            for mine, theirs in zip(shrunk, whole, strict=True):
                differences = (mine.int() - theirs.int()).abs()
                most = max(most, int(differences.max()))
                means.append(float(differences.double().mean()))
        return most, statistics.mean(means)


def write(folder: Path, count: int, size: tuple[int, int], suffix: str) -> list[Path]:
    files = [folder / f"{i}{suffix}" for i in range(count)]
    for i, file in enumerate(files):
        pictures.picture(*size, i).save(file, quality=90)
    return files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short round, to check that it runs")
    quick = parser.parse_args().quick
    rounds, seconds = (1, 0.5) if quick else (ROUNDS, 3.0)
    subprocess.run([PEERS / "setup.sh"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = checkpoints.make("lfm2_vl", folder / "model")
        tiled, whole = (
            models.load_base(ModelOptions(base=str(base), dtype="float32", device="cpu", image_tokens=tokens))
            for tokens in (None, 256)
        )
        settings = {key: value for key, value in tiled.settings.items() if key != "image_processor_type"}
        small = write(folder, 256, SMALL, ".png")
        large = write(folder, 2 if quick else 8, LARGE, ".jpg")
        few, many = (4, 64) if quick else (96, 2048)
        races = [
            Race("32 px, as published", small, many, tiled, settings),
            Race("12 Mpx, as published", large, few, tiled, settings),
            Race("12 Mpx, 256 tokens", large, few, whole, settings | {"do_image_splitting": False}),
        ]
        (folder / "jobs.json").write_text(json.dumps([race.job for race in races]))
        peer = subprocess.Popen(
            [PEERS / ".venv" / "bin" / "python", PEERS / "preparing.py", folder / "jobs.json"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        with _Reader(tiled) as first, _Reader(whole) as second:
            readers = {tiled: first, whole: second}
            for i in range(rounds + 1):
                for index, race in enumerate(races):
                    race.ours(readers[race.model])
                    race.theirs(peer, index, seconds)
                    if i == 0:  # the first round is a warm-up
                        race.speed = {who: [] for who in race.speed}
        peer.kill()
        apart = {race.name: race.apart() for race in races}
        size = statistics.mean(file.stat().st_size for file in large) / 1e6
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {rounds} rounds, {provenance()['machine']}")
    print(f"JPEGs of {size:.1f} MB on average; differences that decoding them smaller makes, in levels")
    print(f"{'':<22}{'Lensmith':>10}{'decoding':>10}{'peer':>10}{'ratio':>8}{'largest':>9}{'mean difference':>18}")
    for race in races:
        most, mean = apart[race.name]
        print(
            f"{race.name:<22}{race.median('lensmith'):>10.1f}{race.median('decoding'):>10.1f}{race.peer:>10.1f}"
            f"{race.median('lensmith') / race.peer:>7.1f}x{most:>9}{mean:>18.2f}"
        )
    tiny, published, limited = races
    print(
        json.dumps(
            {
                "images_per_s_32px": round(tiny.median("lensmith"), 1),
                "images_per_s_12mp": round(published.median("lensmith"), 1),
                "images_per_s_12mp_256_tokens": round(limited.median("lensmith"), 1),
                "images_per_s_12mp_decoding_alone": round(published.median("decoding"), 1),
                "images_per_s_32px_peer": round(tiny.peer, 1),
                "images_per_s_12mp_peer": round(published.peer, 1),
                "images_per_s_12mp_256_tokens_peer": round(limited.peer, 1),
                "largest_difference_levels": max(most for most, _ in apart.values()),
                "mean_difference_levels": round(max(mean for _, mean in apart.values()), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
