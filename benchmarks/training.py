"""Claim: on the same photographs, Lensmith's training reaches a higher accuracy than the usual recipe, in a small
fraction of its time and memory.

The peer is the reference recipe in TRL's SFTTrainer (`peers/training.py`, in a separate environment): loss over the
full prompt, gradient checkpointing, LoRA on Llama's names, learning rate 2e-4, micro-batches of 4 with 4 steps of
gradient accumulation. Lensmith uses its own LoRA recipe (below). Both start from nano and see the same photographs
equally often (batch size 16, three epochs), with the same question of about 600 tokens. Both compute in bfloat16 with
float32 weights, each in a separate process.

- Speed: short runs in turns; the ratio of the medians over the steps.
- Memory: peak memory of the tensors of two steps, with the optimizer and without the base's weights, as PyTorch's
  allocator reports it (what a GPU would need). Also, how much training adds to the resident memory that a process has
  once model and data are loaded. On a CPU most of that belongs to libraries, mainly code compiled for each shape.
- Accuracy: a full run of each for three seeds. Lensmith scores both adapters (the exact best label) on the 10,000 test
  photographs, and they are compared image by image. Time to accuracy is the wall time, validations included, until
  Lensmith's validation accuracy first reaches the peer's final one, divided by the peer's total training time.

Run: python benchmarks/training.py [--quick]   (half an hour, longer the first time; the last line is JSON)
Needs Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from peers.tensors import tensor_peak

from lensmith import models
from lensmith.config import Recipe, load_recipe
from lensmith.data import ImageDataset, Split, open_data
from lensmith.engine.classifier import Classifier, predict
from lensmith.engine.question import make_question
from lensmith.learn.learner import Learner
from lensmith.learn.loop import train
from lensmith.measure.metrics import accuracy, is_correct
from lensmith.measure.paired import compare
from lensmith.models.tuning import attach, coverage
from lensmith.progress import Advance, Note
from lensmith.records import Prediction, percent
from lensmith.runs.folder import Run
from lensmith.runs.provenance import provenance

PEERS = Path(__file__).parent / "peers"
IMAGES, VALIDATION, EPOCHS, BATCH, SEEDS, ROUNDS = 800, 1000, 3, 16, (0, 1, 2), 5
OURS = [
    *("tune.rank=32", "tune.alpha=64", "tune.projector=true", "tune.vision_tower=true", "train.learning_rate=0.002"),
    *("augment.shift=0.06", "augment.zoom=0.08", "augment.flip=true"),
]


VALIDATED = re.compile(r"Step \d+: ([\d.]+) % .* of the validation images correct")
"""The sentence in which a training reports a validation."""


@dataclass
class Reported:
    """What one side's process reported."""

    first: dict[str, Any]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    last: dict[str, Any]

    def speeds(self) -> list[float]:
        """Samples per second of each step but the first two, which are a warm-up."""
        times = [step["seconds"] for step in self.steps]
        return [BATCH / (b - a) for a, b in pairwise(times[1:])]

    def resident(self) -> float:
        """How many MB training adds to the process at its peak."""
        return float(self.last["rss_peak"] - self.first["rss_before"]) / 1e6


def recipe_for(job: dict[str, Any]) -> Recipe:
    """Lensmith's recipe for a job."""
    options = [f"data.train_limit={len(job['train'])}", f"train.epochs={job['epochs']}", f"train.batch_size={BATCH}"]
    options += [f"seed={job['seed']}", f"model.dtype={job['dtype']}", f"train.validate_every={job['validate_every']}"]
    recipe = load_recipe("fashion-idx", [*OURS, *options])
    recipe.question.text, recipe.question.system = job["question"], job["system"]
    return recipe


def ours(job: dict[str, Any]) -> None:
    """Lensmith's side, in a separate process, with the peer's protocol; it reports validations too."""
    torch.set_num_threads(job["threads"])
    recipe, (dataset, _) = recipe_for(job), datasets(job)
    model = models.load_base(recipe.model)
    tuned = attach(model, recipe.tune, dataset.labels, recipe.seed)
    print(json.dumps({"versions": provenance()["packages"], "rss_before": psutil.Process().memory_info().rss}))
    start = time.perf_counter()

    def tell(event: Note | Advance) -> None:
        now = time.perf_counter() - start
        if isinstance(event, Advance) and event.task == "training":
            print(json.dumps({"step": event.done, "seconds": now}))
            if event.done == job["max_steps"]:
                raise KeyboardInterrupt
        elif isinstance(event, Note) and (found := VALIDATED.match(event.text)):
            print(json.dumps({"validation": float(found[1]) / 100, "seconds": now}))

    samples = job["epochs"] * len(job["train"])

    def work() -> None:
        # Not `prepare`: it runs the question once, which would take memory before the measurement starts.
        question = make_question(model, recipe.question, dataset.labels)
        learner = Learner(tuned, question, coverage(model, tuned.head))
        with suppress(KeyboardInterrupt):
            train(learner, Run(Path(job["out"]), recipe, dataset, tell))

    tensors = tensor_peak(work) if job["tensors"] else None
    if tensors is None:
        work()
    samples = (job["max_steps"] or 0) * BATCH or samples
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.perf_counter() - start
    done = {"done": True, "seconds": seconds, "samples": samples, "out": job["out"]}
    print(json.dumps(done | {"rss_peak": peak, "tensor_peak": tensors}))


def datasets(job: dict[str, Any]) -> tuple[ImageDataset, Split]:
    """Training and validation photographs, and the test split."""
    dataset = open_data(load_recipe("fashion-idx", [f"data.train_limit={job['images']}"]).data)
    return ImageDataset(
        dataset.uri, dataset.labels, dataset.train, dataset.validation.take(VALIDATION), dataset.test, dataset.notes
    ), dataset.test


def run(side: str, job: dict[str, Any], folder: Path, **changes: Any) -> Reported:
    """Run one side's process to its end."""
    out = Path(tempfile.mkdtemp(prefix=side, dir=folder))
    path = out / "job.json"
    path.write_text(json.dumps(job | changes | {"out": str(out / "run")}))
    (out / "run").mkdir()
    mine = [sys.executable, __file__, "--ours", str(path)]
    theirs = [str(PEERS / ".venv" / "bin" / "python"), str(PEERS / "training.py"), str(path)]
    done = subprocess.run(mine if side == "lensmith" else theirs, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    first, *rest, last = map(json.loads, done.stdout.splitlines())
    return Reported(first, [r for r in rest if "step" in r], [r for r in rest if "validation" in r], last)


def scored(adapter: str, job: dict[str, Any], split: Split) -> list[Prediction]:
    """A tuned model's predictions, by Lensmith's exact search."""
    recipe = recipe_for(job)
    recipe.model.adapter = adapter
    tuned = models.load(recipe.model)
    question = make_question(tuned.model, recipe.question, job["labels"])
    return list(predict(Classifier(tuned.model, question, tuned.head, top=1, tolerance=1), split.items()))


def accuracies(job: dict[str, Any], folder: Path, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A full run of each side for each seed."""
    dataset, test = datasets(job)
    for seed in seeds:
        peer, mine = run("trl", job, folder, seed=seed), run("lensmith", job, folder, seed=seed)
        if not mine.validations:
            raise SystemExit("Lensmith's training reported no validation: has its sentence changed?")
        goal = accuracy(scored(peer.last["out"], job, dataset.validation)).accuracy
        reached = next((v["seconds"] for v in mine.validations if v["validation"] >= goal), None)
        theirs, own = scored(peer.last["out"], job, test), scored(mine.last["out"], job, test)
        row = {"seed": seed, "peer_seconds": peer.last["seconds"], "seconds": mine.last["seconds"], "goal": goal}
        row |= {"reached": reached, "peer": theirs, "own": own, "comparison": compare("trl", theirs, "lensmith", own)}
        print(
            f"seed {seed}: trl {percent(accuracy(theirs))} in {row['peer_seconds']:.0f} s, lensmith "
            f"{percent(accuracy(own))} in {row['seconds']:.0f} s, p {row['comparison'].p:.1e}; "
            f"trl's validation accuracy {goal:.1%} reached after {reached or float('nan'):.1f} s",
            flush=True,
        )
        yield row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short round, to check that it runs")
    parser.add_argument("--answer-only", action="store_true", help="let the peer's loss cover the answer alone")
    parser.add_argument("--ours", metavar="JOB", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        return ours(json.loads(Path(args.ours).read_text()))
    images, rounds, seeds = (64, 1, SEEDS[:1]) if args.quick else (IMAGES, ROUNDS, SEEDS)
    subprocess.run([PEERS / "setup.sh"], check=True)
    system, _, text = (PEERS / "question.txt").read_text().strip().partition("\n---\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, _ = datasets({"images": images})
        files = []
        for i, label in enumerate(dataset.train.labels):
            dataset.train.image(i).save(folder / f"{i}.png")
            files.append([str(folder / f"{i}.png"), label])
        labels = list(dataset.labels)
        job: dict[str, Any] = {"model": str(models.NANO), "labels": labels, "train": files, "images": images}
        job |= {"system": system, "text": text.replace("{labels}", "\n".join(labels)), "question": text}
        job |= {"epochs": EPOCHS, "max_steps": None, "seed": 0, "threads": torch.get_num_threads()}
        job |= {"dtype": "bfloat16", "validate_every": 0.25, "tensors": False}
        job["answer_only"] = args.answer_only

        shorts: dict[str, list[Reported]] = {"trl": [], "lensmith": []}
        for _ in range(rounds):
            shorts["trl"].append(run("trl", job, folder, max_steps=8))
            # More steps, because they are much shorter; and no validation between them.
            shorts["lensmith"].append(run("lensmith", job, folder, max_steps=40, epochs=99, validate_every=99))
        speed = {side: statistics.median(s for r in done for s in r.speeds()) for side, done in shorts.items()}
        two = {"max_steps": 2, "tensors": True}
        memory = {side: run(side, job, folder, **two).last["tensor_peak"] / 1e6 for side in shorts}
        resident = {side: statistics.median(r.resident() for r in done) for side, done in shorts.items()}
        peak = {side: statistics.median(r.last["rss_peak"] for r in done) / 1e6 for side, done in shorts.items()}
        tokens = shorts["trl"][0].first["tokens"]
        print(f"nano, {images} photographs, {EPOCHS} epochs, batches of {BATCH}, {tokens} tokens with the image")
        print(f"{provenance()['machine']}, {shorts['trl'][0].first['versions']}")
        for side in shorts:
            held = f"{memory[side]:.0f} MB of tensors; resident {resident[side]:.0f} MB added, {peak[side]:.0f} in all"
            print(f"{side:<10}{speed[side]:>8.1f} samples/s   {held}", flush=True)
        rows = list(accuracies(job, folder, seeds))

    own, theirs = ([p for row in rows for p in row[side]] for side in ("own", "peer"))
    slower = [row["reached"] is None for row in rows]
    print(
        json.dumps(
            {
                "ratio_samples_per_s": round(speed["lensmith"] / speed["trl"], 2),
                "ratio_peak_memory": round(memory["lensmith"] / memory["trl"], 3),
                "ratio_resident_added": round(resident["lensmith"] / resident["trl"], 3),
                "ratio_resident_in_all": round(peak["lensmith"] / peak["trl"], 3),
                "ratio_time_to_accuracy": None
                if any(slower)
                else round(statistics.median(row["reached"] / row["peer_seconds"] for row in rows), 4),
                "ratio_time_to_end": round(statistics.median(row["seconds"] / row["peer_seconds"] for row in rows), 4),
                "accuracy": round(sum(map(is_correct, own)) / len(own), 4),
                "accuracy_peer": round(sum(map(is_correct, theirs)) / len(theirs), 4),
                "p_largest": max(row["comparison"].p for row in rows),
            }
        )
    )


if __name__ == "__main__":
    main()
