"""Claim: at LFM2-VL's true size, on a GPU, training is at least 8 times as fast as by the reference recipe, and reaches
40 % of the card's matrix rate; scoring is at least 100 times as fast as Outlines with one image at a time; training
fits into 12 GiB at an effective batch size of 8, and into 8 GiB with a four-bit base.

Uses random weights at the published shape, photographs of 32 and 512 pixels, and a question of about 620 tokens with
100 classes (as `true_size.py`, whose caveats apply). Each part runs in a separate process and prints its results as
JSON:

- `training`: Lensmith's step with LoRA r 16 on the decoder, at batch sizes 16 and 8; both with the vision tower in each
  step, and with cached tower features, as in every epoch but the first. Measures samples per second, peak memory, and
  the fraction of the matrix rate: the operations that a step can't avoid (`floor.operations`) per second, divided by
  the rate of one large bfloat16 product.
- `reference`: the public post's recipe at a batch size of 16 (`reference.py`), in TRL if it can be used; the output
  says which was run.
- `scoring`: images per second with Lensmith, with a forward pass for each label, and with Outlines if it can be used.
- `memory`: training at a batch size of 8 in a process that can't allocate more than the limit. Lensmith chooses its
  micro-batch. On a CPU there is no limit; there the memory of tensors is counted.

Run: python benchmarks/gpu.py [--size 3b|1.6b|450m|tiny] [--device cuda|cpu] [--parts training,reference,...]
Check: python benchmarks/gpu.py --device cpu --size tiny   (under two minutes; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from floor import matrix_rate, operations
from peers.tensors import tensor_peak
from reference import GATHERED, MICRO, Plain, by_outlines, by_trl, load, one_by_one
from true_size import (
    SIDES,
    SIZES,
    Training,
    ask,
    labels,
    photographs,
    rounded,
    scored,
    synchronize,
    timed,
    write_apart,
)

from lensmith import models
from lensmith.config import ModelOptions, load_recipe
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.models.base import Model
from lensmith.models.cost import weights
from lensmith.models.tuning import attach, coverage
from lensmith.models.views import Shape
from lensmith.runs.provenance import provenance

GIB = 2**30
TARGETS = {"ratio_training": 8, "matrix_share": 0.4, "ratio_outlines": 100, "gib": 12, "gib_4bit": 8}


def options(folder: Path, device: torch.device, quantize: str = "none") -> ModelOptions:
    return ModelOptions(base=str(folder), dtype="bfloat16", device=str(device), quantize=quantize)  # type: ignore[arg-type]


def peak_of(device: torch.device, work: Callable[[], Any], model: Any) -> int:
    """Peak bytes of tensors while `work` runs, the model's weights included."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device))
    return tensor_peak(work) + int(sum(weight.nbytes for weight in model.parameters()))


def shape_of_photograph(model: Model, side: int) -> Shape:
    return tuple((3, *size) for size in model.sizes(side, side))


def training(folder: Path, device: torch.device, steps: int) -> dict[str, Any]:
    """Lensmith's samples per second, peak memory, and fraction of the matrix rate."""
    size, rate = matrix_rate(device)
    found: dict[str, Any] = {"matrix_side": size, "matrix_tflops": rate / 1e12}
    model = models.load_base(options(folder, device))
    frozen, (_, prompt) = weights(model), ask(model)
    attach(model, load_recipe(None, []).tune, labels())
    lora = sum(row.parameters for row in coverage(model))
    answer = statistics.fmean(len(forms[0]) for forms in prompt.answers[:16])
    for side in SIDES:
        for batch in (16, 8):
            for kept in (False, True):
                run = Training(model, side, batch, kept)
                seconds = statistics.median(timed(run.step, device, steps, 2)[0])
                parts = operations(
                    model, frozen, lora, len(prompt.before), shape_of_photograph(model, side), len(prompt.after),
                    round(answer), batch, not kept,
                )  # fmt: skip
                row: dict[str, Any] = {"samples_per_s": batch / seconds}
                row["matrix_share"] = sum(parts.values()) / seconds / rate
                row |= {"gib": peak_of(device, run.step, model.network) / GIB, "notes": run.notes}
                row["tera_operations"] = {part: value / 1e12 for part, value in parts.items()}
                found[f"{side}px batch {batch}{' kept' if kept else ''}"] = row
                del run
    return found


def reference(folder: Path, device: torch.device, steps: int) -> dict[str, Any]:
    """The post's recipe: samples per second, peak memory, and which implementation was run."""
    family = load(folder, torch.device("cpu"))
    question, prompt = ask(family)
    batch = MICRO * GATHERED
    found: dict[str, Any] = {}
    for side in SIDES:
        images = photographs(batch, side)
        try:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds, tokens = by_trl(folder, device, question, labels(), images, steps, 2)
            row: dict[str, Any] = {"by": "TRL's SFTTrainer", "tokens": tokens}
            if device.type == "cuda":
                row["gib"] = torch.cuda.max_memory_allocated(device) / GIB
        except Exception as error:  # whatever prevents TRL or torchvision from working here
            plain = Plain(folder, device, prompt, images)
            seconds, _ = timed(plain.step, device, steps, 1)
            row = {"by": plain.name, "because": f"{type(error).__name__}: {error}"[:200]}
            row["tokens"] = plain.batches[0]["input_ids"].shape[1]
            row["gib"] = peak_of(device, plain.step, plain.network) / GIB
            del plain
        row["samples_per_s"] = batch / statistics.median(seconds)
        found[f"{side}px"] = row
    return found


def scoring(folder: Path, device: torch.device, steps: int) -> dict[str, Any]:
    """Images per second, and the number of equal answers."""
    model = models.load_base(options(folder, device))
    question, prompt = ask(model)
    classifier = Classifier(model, make_question(model, question, labels()), top=1, tolerance=1)
    plain = load(folder, device)
    found: dict[str, Any] = {}
    for side in SIDES:
        count = 32 if device.type == "cpu" else 512 if side == SIDES[0] else 256
        images = photographs(count, side)
        scored(classifier, images)  # warm-up
        taken, predictions = scored(classifier, images)
        answers = [labels().index(str(p.predicted)) for p in predictions]
        row: dict[str, Any] = {"images_per_s": count / taken}
        others: dict[str, Callable[[], Any]] = {
            "per_label": lambda: one_by_one(plain, prompt),
            "outlines": lambda: by_outlines(folder, plain, question, labels()),
        }
        for name, make in others.items():
            try:
                run = make()
                run(images[0])
                synchronize(device)
                start = time.perf_counter()
                theirs = [run(image) for image in images[:steps]]
                synchronize(device)
                speed = len(theirs) / (time.perf_counter() - start)
                same = sum(a == b for a, b in zip(theirs, answers, strict=False))
                row[name] = {"images_per_s": speed, "ratio": row["images_per_s"] / speed}
                row[name] |= {"same_answer": f"{same} of {len(theirs)}"}
            except Exception as error:  # whatever prevents Outlines or torchvision from working here
                row[name] = {"not_run": f"{type(error).__name__}: {error}"[:200]}
        found[f"{side}px"] = row
    return found


def memory(folder: Path, device: torch.device, steps: int, limit: int, quantize: str) -> dict[str, Any]:
    """Training at a batch size of 8 within `limit` GiB, the memory that CUDA itself takes included."""
    if quantize == "4bit" and (device.type != "cuda" or find_spec("bitsandbytes") is None):
        return {"not_run": "four bits need CUDA and bitsandbytes"}
    own = 0
    if device.type == "cuda":
        torch.zeros(1, device=device)
        free, total = torch.cuda.mem_get_info(device)
        own = total - free  # taken by the driver and CUDA, on a card that no other process uses
        torch.cuda.set_per_process_memory_fraction((limit * GIB - own) / total, device)
    model = models.load_base(options(folder, device, quantize))
    attach(model, load_recipe(None, []).tune, labels())
    found: dict[str, Any] = {"limit_gib": limit, "cuda_gib": own / GIB}
    for side in SIDES:
        run = Training(model, side, 8)
        seconds = statistics.median(timed(run.step, device, steps, 2)[0])
        peak = (peak_of(device, run.step, model.network) + own) / GIB
        found[f"{side}px"] = {"samples_per_s": 8 / seconds, "gib": peak, "within": peak <= limit, "notes": run.notes}
        del run
    return found


PARTS: dict[str, Callable[[Path, torch.device, int], dict[str, Any]]] = {
    "training": training,
    "reference": reference,
    "scoring": scoring,
    "memory": lambda folder, device, steps: memory(folder, device, steps, TARGETS["gib"], "none"),  # type: ignore[arg-type]
    "memory_4bit": lambda folder, device, steps: memory(folder, device, steps, TARGETS["gib_4bit"], "4bit"),  # type: ignore[arg-type]
}


def apart(part: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One part, run in a separate process; the error if it fails."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    command += ["--device", args.device, "--steps", str(args.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"failed": done.stderr[-1500:]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The claimed figures of the parts that ran, by the size of the photographs."""
    out: dict[str, Any] = {}
    for side in SIDES:
        mine = found.get("training", {}).get(f"{side}px batch 16", {})
        kept = found.get("training", {}).get(f"{side}px batch 16 kept", {})
        theirs = found.get("reference", {}).get(f"{side}px", {})
        row: dict[str, Any] = {"matrix_share": mine.get("matrix_share"), "matrix_share_kept": kept.get("matrix_share")}
        if mine and theirs:
            row["ratio_training"] = mine["samples_per_s"] / theirs["samples_per_s"]
            row["ratio_training_kept"] = kept["samples_per_s"] / theirs["samples_per_s"]
            row["reference"] = theirs["by"]
        for name in ("per_label", "outlines"):
            other = found.get("scoring", {}).get(f"{side}px", {}).get(name, {})
            row[f"ratio_{name}"] = other.get("ratio")
        row["gib"] = found.get("memory", {}).get(f"{side}px", {}).get("gib")
        row["gib_4bit"] = found.get("memory_4bit", {}).get(f"{side}px", {}).get("gib")
        out[f"{side}px"] = row
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=[*SIZES, "tiny"], default="3b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, help="measured steps, and images scored one by one; 8, or 2 on a CPU")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to run, separated by commas")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is kept for reuse")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    args.steps = args.steps or (2 if device.type == "cpu" else 8)
    if args.part:
        print(json.dumps(rounded(PARTS[args.part](args.folder, device, args.steps))))
        return
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA GPU here. To check that the script runs: --device cpu --size tiny")
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name) / args.size
        write_apart(args.size, folder)
        found: dict[str, Any] = {}
        for part in args.parts.split(","):
            start = time.perf_counter()
            found[part] = apart(part, args, folder)
            print(f"{part} ({time.perf_counter() - start:.0f} s): {json.dumps(found[part], indent=1)}", flush=True)
    record = provenance()
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else record["machine"]["processor"]
    last: dict[str, Any] = {"device": card, "size": args.size, "torch": torch.__version__, "targets": TARGETS}
    print(json.dumps(last | {"parts": found} | rounded(summary(found))))


if __name__ == "__main__":
    main()
