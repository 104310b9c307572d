"""Claim: an exported model answers as the run does, faster than PyTorch on a CPU.

A probe and LoRA of the demo (nano, 3,000 photographs) are exported. Their answers to the demo's 2,000 test photographs
are compared with those of the float32 model; speeds are measured in turns with PyTorch, one image at a time, from
decoded images to probabilities. The page is opened in headless Chromium from the disk; the GGUF files are asked by
llama.cpp about 500 photographs.

With --true-size, LFM2-VL-450M at its published shape with random weights is exported instead (weights of LoRA, ONNX of
a probe): memory, sizes, and answers to 20 photographs.

Run in a folder with onnxruntime-web (npm install --ignore-scripts onnxruntime-web), or name it with --npm:
python benchmarks/export.py [--npm FOLDER] [--true-size]   (about 15 minutes; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lensmith.runs.provenance import provenance

LENSMITH = [sys.executable, "-m", "lensmith"]
TURNS, EACH = 12, 40


def lensmith(folder: Path, *words: str | Path) -> dict[str, Any]:
    """Run a command in a folder; returns its record."""
    print("lensmith", *words, file=sys.stderr, flush=True)
    command = [*LENSMITH, *map(str, words), "--json"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode}")
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def in_turns(*sides: Callable[[int], Any]) -> list[float]:
    """Images per second of each side, the median of turns that alternate."""
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(TURNS + 1):
        for side, found in zip(sides, rates, strict=True):
            start = time.perf_counter()
            for i in range(EACH):
                side(i)
            found.append(EACH / (time.perf_counter() - start))
        if not turn:
            rates = [[] for _ in sides]  # the first turn warms up
    return [statistics.median(found) for found in rates]


def compared(folder: Path, run: str) -> dict[str, Any]:
    """Equality and speed of the ONNX exports of a run."""
    import onnxruntime
    import torch

    from lensmith.data import open_data
    from lensmith.export.original import open_original

    original = open_original(folder / run)
    classifier, test = original.classifier, open_data(original.recipe.data).test
    images = [np.asarray(test.image(i))[None] for i in range(len(test))]
    truth = np.array([original.labels.index(label) for label in test.labels])

    def ask(image: Any) -> Any:
        views = original.model.prepare(torch.from_numpy(image[0]).permute(2, 0, 1))
        scores = classifier.score(tuple(view[None] for view in views)).bound
        return classifier.calibration.apply(scores).log_softmax(1)[0].numpy()

    def runner(session: Any) -> Callable[[Any], Any]:
        return lambda image: session.run(["log_probabilities"], {"images": image})[0][0]

    wanted = np.stack([ask(image) for image in images])
    result: dict[str, Any] = {}
    sides: list[Callable[[int], Any]] = [lambda i: ask(images[i])]
    for name in ("onnx", "onnx-int8"):
        path = folder / run / "export" / name / "model.onnx"
        side = runner(onnxruntime.InferenceSession(path))
        got = np.stack([side(image) for image in images])
        points = 100 * float(np.mean(got.argmax(1) == truth) - np.mean(wanted.argmax(1) == truth))
        result[name] = {
            "equal": float(np.mean(got.argmax(1) == wanted.argmax(1))),
            "largest": float(np.abs(got - wanted).max()),
            "points": points,
            "bytes": path.stat().st_size,
        }
        sides.append(lambda i, side=side: side(images[i]))  # type: ignore[misc]
    rates = in_turns(*sides)
    result |= {"torch_per_second": rates[0], "onnx_per_second": rates[1], "int8_per_second": rates[2]}
    return result


def ready_in(page: Path) -> float:
    """Seconds until the page can classify, the median of five fresh windows."""
    from playwright.sync_api import sync_playwright

    from lensmith.export.formats.web import browser

    seconds = []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        window = playwright.chromium.launch(executable_path=browser(), args=flags)
        for _ in range(5):
            opened = window.new_context(offline=True).new_page()
            start = time.perf_counter()
            opened.goto(page.as_uri())
            opened.wait_for_function("() => document.getElementById('state').textContent == 'ready'")
            seconds.append(time.perf_counter() - start)
        window.close()
    return statistics.median(seconds)


def small(folder: Path, npm: Path) -> dict[str, Any]:
    """nano's probe and LoRA."""
    lensmith(folder, "probe", "demo-fashion", "--run", "probe")
    lensmith(folder, "train", "demo-fashion", "train.epochs=2", "--run", "lora")
    for run in ("probe", "lora"):
        for words in (["--to", "onnx"], ["--to", "onnx", "--int8"]):
            lensmith(folder, "export", run, *words, "--drift", "1")
    probe, names = compared(folder, "probe"), compared(folder, "lora")
    web = lensmith(npm, "export", folder / "probe", "--to", "web", "--out", folder / "web", "--drift", "1")
    weights = lensmith(folder, "export", "lora", "--to", "weights", "--numbers", "float32", "--drift", "1")
    gguf = lensmith(folder, "export", "lora", "--to", "gguf", "--images", "500", "--drift", "1")
    return {
        "onnx_equal": min(probe["onnx"]["equal"], names["onnx"]["equal"]),
        "onnx_largest": max(probe["onnx"]["largest"], names["onnx"]["largest"]),
        "int8_points": max((probe["onnx-int8"]["points"], names["onnx-int8"]["points"]), key=abs),
        "int8_equal": min(probe["onnx-int8"]["equal"], names["onnx-int8"]["equal"]),
        "ratio_onnx_torch_probe": probe["onnx_per_second"] / probe["torch_per_second"],
        "ratio_onnx_torch_names": names["onnx_per_second"] / names["torch_per_second"],
        "gguf_equal": 1 - gguf["proofs"][0]["changed"] / gguf["proofs"][0]["images"],
        "web_ms": 1000 / web["proofs"][0]["images_per_second"],
        "web_ready_s": ready_in(folder / "web" / "classifier.html"),
        "web_bytes": (folder / "web" / "classifier.html").stat().st_size,
        "proofs": {"web": _short(web), "weights": _short(weights), "gguf": _short(gguf)},
        "probe": probe,
        "names": names,
    }


def _short(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in proof.items() if key != "answers"} for proof in record["proofs"]]


def true_size(folder: Path) -> dict[str, Any]:
    """LFM2-VL-450M with random weights: a probe as ONNX, and LoRA as a model folder."""
    from true_size import photographs, write_apart

    write_apart("450m", folder / "base")
    for split, count in (("train", 12), ("validation", 4), ("test", 10)):
        for label, side in (("near", 200), ("far", 224)):
            where = folder / "images" / split / label
            where.mkdir(parents=True)
            for i, image in enumerate(photographs(count, side)):
                image.point(lambda v, far=label == "far": v // 2 + 100 * far).save(where / f"{i}.png")
    options = ["model.base=base", "model.image_tokens=64", "model.dtype=float32"]
    steps = ["train.epochs=1", "train.batch_size=4", "tune.rank=4"]
    lensmith(folder, "probe", "images", *options, "--run", "probe")
    lensmith(folder, "train", "images", *options, *steps, "--run", "lora")
    result: dict[str, Any] = {}
    for run, to in (("probe", "onnx"), ("lora", "weights")):
        command = [*LENSMITH, "export", run, "--to", to, "--json", "--drift", "1"]
        with (folder / "out.json").open("wb") as out:
            process = subprocess.Popen(command, cwd=folder, stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"exit status {status}")
        record = json.loads((folder / "out.json").read_text())
        peak = usage.ru_maxrss * (1024 if sys.platform == "linux" else 1)
        result[to] = {"bytes": record["bytes"], "peak_bytes": peak, "proofs": _short(record)}
    return {"true_size": result, "model_bytes_float32": 4 * 450_822_656}


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npm", type=Path, default=Path())
    parser.add_argument("--true-size", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lensmith-export-bench-") as temporary:
        folder = Path(temporary)
        result = true_size(folder) if args.true_size else small(folder, args.npm.resolve())
    result["own_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result | {"machine": provenance()["machine"]}))


if __name__ == "__main__":
    main()
