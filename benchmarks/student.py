"""Claim: a student of 1,000 answers of a better model is as good as one of 300 labels of people, or better.

The demo's 3,000 training photographs are divided by chance, by class: 1,700 teach the better model (LoRA, the demo's
recipe), which `lensmith serve` then answers with, as an API does; 1,000 are labelled by `lensmith label` through
System One, whose answers have probabilities; 300 keep their labels. All are scored on the demo's 2,000 test
photographs. The photographs that the teacher learned from are seen by no student.

Run: python benchmarks/student.py   (about ten minutes; the last line is JSON)
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.runs.provenance import provenance

TEACHER, ANSWERS, HUMAN = 1700, 1000, 300
LENSMITH = [sys.executable, "-m", "lensmith"]
METHODS = {"LoRA": ["train", "demo-fashion"], "probe": ["probe"]}


def lensmith(folder: Path, *words: str) -> dict[str, Any]:
    """Run a command in a folder; returns its record."""
    print("lensmith", *words, file=sys.stderr, flush=True)
    done = subprocess.run([*LENSMITH, *words, "--json"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def write_images(folder: Path) -> None:
    """teacher/, human/ (each with train/ and test/) and new/, as folders of PNGs."""
    dataset = open_data(load_recipe("demo-fashion", ["data.validation=0"]).data)
    by_class = defaultdict(list)
    for i, label in enumerate(dataset.train.labels):
        by_class[label].append(i)
    rng, total = np.random.default_rng(0), len(dataset.train)
    for label, members in by_class.items():
        order = rng.permutation(members)
        cuts = [round(len(order) * n / total) for n in (TEACHER, TEACHER + ANSWERS, TEACHER + ANSWERS + HUMAN)]
        for name, part in zip(("teacher/train", "new", "human/train"), np.split(order, cuts)[:3], strict=True):
            where = folder / name / ("" if name == "new" else label)
            where.mkdir(parents=True, exist_ok=True)
            for i in part:
                dataset.train.image(int(i)).save(where / f"{i}.png")
    for i, label in enumerate(dataset.test.labels):
        stream = io.BytesIO()
        dataset.test.image(i).save(stream, "PNG")
        for name in ("teacher", "human"):
            where = folder / name / "test" / label
            where.mkdir(parents=True, exist_ok=True)
            (where / f"{i}.png").write_bytes(stream.getvalue())


@contextmanager
def served(folder: Path, run: str) -> Iterator[str]:
    """`lensmith serve` of a run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*LENSMITH, "serve", run, "--port", str(port)], cwd=folder, stdout=quiet, stderr=quiet)
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as there:
                if there.status == 200:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Run the benchmark."""
    folder = Path(tempfile.mkdtemp(prefix="lensmith-student-"))
    figures: dict[str, dict[str, Any]] = {}
    try:
        write_images(folder)
        taught = lensmith(folder, "train", "demo-fashion", "teacher", "--run", "runs/teacher")
        figures["teacher, LoRA"] = taught["evaluation"]["accuracy"]
        with served(folder, "runs/teacher") as url:
            base = f"model.base=systemone:teacher@{url}"
            labels = ",".join(sorted(path.name for path in (folder / "human" / "train").iterdir()))
            record = lensmith(folder, "label", "new", base, "--labels", labels, "--run", "runs/labels")
        more = record["table"]
        rows = [json.loads(line) for line in (folder / more).read_text().splitlines()]
        hard = "".join(json.dumps({k: v for k, v in row.items() if k != "probabilities"}) + "\n" for row in rows)
        (folder / "hard.jsonl").write_text(hard)
        sides = {
            "300 labels of people": ["human"],
            "1,000 answers": [more],
            "1,000 answers, without their probabilities": ["hard.jsonl"],
            "300 labels and 1,000 answers": ["human", f"data.more={more}"],
            "300 labels and 1,000 answers, without their probabilities": ["human", "data.more=hard.jsonl"],
        }
        for method, command in METHODS.items():
            for k, (name, words) in enumerate(sides.items()):
                if method == "probe" and "without" in name:
                    continue  # a probe learns the most probable label in any case
                run = f"runs/{method}-{k}"
                record = lensmith(folder, *command, *words, "--run", run)
                if words[0] != "human":  # nothing to be tested on
                    record = {"evaluation": lensmith(folder, "evaluate", run, "human", "--run", f"{run}-scored")}
                figures[f"{name}, {method}"] = record["evaluation"]["accuracy"]
                print(name, method, record["evaluation"]["accuracy"], flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, rate in figures.items():
        print(f"| {name} | {rate['accuracy']:.1%} ({rate['low']:.1%} to {rate['high']:.1%}) |")
    shown = {name: round(rate["accuracy"], 4) for name, rate in figures.items()}
    print(json.dumps({"accuracy": shown, "images": 2000, "machine": provenance()["machine"]}))


if __name__ == "__main__":
    main()
