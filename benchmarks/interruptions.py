"""Claim: whatever interrupts a command, nothing is lost: resumed, it ends like one that was never disturbed.

Each verb first runs undisturbed on a small folder of images. Then it is interrupted 200 times in all, at random
moments: by Ctrl-C (INT), TERM and KILL, by a disk that is full until the run is resumed, and by a run folder that can't
be written until then. After each, the run is resumed until it is finished (sometimes interrupted again), or started
again if it had not begun or can't be resumed. Compared with the undisturbed run: weights, predictions and tables byte
for byte, all figures in JSON exactly, without times and paths. A traceback, an exit code that is not documented, a run
that can't be finished, and any difference count as lost.

The commands run in processes forked from one that has loaded the libraries. A full disk is a small file system in
memory that is filled, and a folder is made read-only by a mount; so the script needs root, and Linux.

Run: sudo python benchmarks/interruptions.py   (some 20 minutes; the last line is JSON)
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import cleanlab  # noqa: F401 (loaded before the commands are forked)
import datasets  # noqa: F401
import numpy as np
import optuna  # noqa: F401
import peft  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch
import transformers  # noqa: F401
from PIL import Image

import lensmith.models.loading  # noqa: F401
from lensmith import cli

WAYS = ["INT", "TERM", "KILL", "full disk", "read-only"]
QUICK = ["train.epochs=2", "train.batch_size=8", "train.checkpoint_minutes=0", "train.objective=labels", "tune.rank=2"]
METHODS = "ladder.methods=[zero-shot, neighbours, lora]"
SWEEP = ["sweep.trials=2", "sweep.finalists=1", "sweep.repeats=1", "sweep.wait=2"]
VERBS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "images", "--run", "run"],
    "train": ["train", "images", *QUICK, "--run", "run"],
    "probe": ["probe", "images", "--run", "run"],
    "ladder": ["ladder", "images", *QUICK, METHODS, "data.validation=0.3", "--run", "run"],
    "curve": ["curve", "images", "curve.methods=[neighbours]", "curve.seeds=2", "--run", "run"],
    "sweep": ["sweep", "images", *QUICK, *SWEEP, "--run", "run"],
    "suspects": ["suspects", "images", "suspects.folds=3", "--run", "run"],
    "compare": ["compare", "first", "second", "--run", "run"],
    "report": ["report", "first"],
    "predict": ["predict", "first", "images", "--out", "run/answers.csv"],
}
RESUMABLE = {"evaluate", "train", "probe", "ladder", "curve", "sweep"}
TIMES = {"seconds", "created", "started", "ended", "time", "dollars", "per_thousand", "images_per_second", "machine"}
PATHS = {"run", "uri", "report", "table", "recipe", "details", "dirty", "commit", "speed", "samples_per_second"}


def pictures(folder: Path) -> None:
    """60 small pictures of two classes."""
    dice = np.random.default_rng(0)
    for label, shade in (("dark", 40), ("light", 180)):
        (folder / label).mkdir(parents=True)
        for k in range(30):
            noise = dice.integers(0, 70, (28, 28, 3))
            Image.fromarray((shade + noise).astype(np.uint8)).save(folder / label / f"{k}.png")


def start(words: list[str], folder: Path, log: Path) -> int:
    """Fork a process that runs a command in a folder; returns its id."""
    if child := os.fork():
        return child
    code = 99
    try:
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ |= {"HOME": str(folder), "LENSMITH_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        tempfile.tempdir = None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = cli.main(words)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)
    return 0


def end(child: int, limit: float = 120) -> int:
    """The exit code of a process, negative for a signal."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -99  # it hung


def plain(value: Any) -> Any:
    """A JSON value without times and paths."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in TIMES | PATHS}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """What must not differ of a run: its files by their names."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name in (".lock", "sweep.db") or name.startswith("trials/"):
            continue
        text = "" if path.suffix in (".parquet", ".safetensors") else path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".json":
            found[name] = plain(json.loads(text))
        elif path.suffix == ".jsonl":
            rows = [plain(json.loads(line)) for line in text.splitlines()]
            # Which steps the log repeats the speed of is a matter of time.
            found[name] = sorted(json.dumps(row, sort_keys=True) for row in rows)
        elif path.suffix == ".html":
            found[name] = "</html>" in text  # it shows times
        elif path.suffix == ".csv":
            found[name] = list(csv.reader(text.splitlines()))
        elif path.suffix in (".parquet", ".safetensors"):
            found[name] = path.read_bytes()
        else:
            found[name] = True
    return found


class Disk:
    """A small file system in memory, on which a command works."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place)], check=True)

    def fill(self) -> None:
        """Leave no space on it."""
        with contextlib.suppress(OSError), (self.place / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 20))
        with contextlib.suppress(OSError), (self.place / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 512)

    def free(self) -> None:
        (self.place / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=True)


def read_only(run: Path) -> None:
    """Make a folder read-only; what is open stays open."""
    aside = run.parent.with_name("aside")
    aside.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(run), str(aside)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(aside)], check=True)  # while nobody uses it
    subprocess.run(["mount", "--bind", str(aside), str(run)], check=True)


def writable(run: Path) -> None:
    """Undo `read_only`."""
    for place in (run, run.parent.with_name("aside")):
        while subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True).returncode == 0:
            pass


def fresh(template: Path, place: Path) -> None:
    """A folder to work in, with the images and two finished runs."""
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(template, place, dirs_exist_ok=True)
    for name in ("tmp", "cache"):
        (place / name).mkdir(exist_ok=True)


def interrupt(child: int, way: str, disk: Disk, run: Path) -> None:
    """Disturb a process, which may have ended, in one way."""
    if way == "full disk":
        disk.fill()
    elif way == "read-only":
        while not run.exists() and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.001)
        if run.exists():
            read_only(run)
    else:
        os.kill(child, getattr(signal, f"SIG{way}"))


def trial(verb: str, way: str, dice: random.Random, seconds: float, disk: Disk, expected: Any) -> str:
    """Interrupt a command and resume it; returns what is wrong, if anything."""
    place, log = disk.place, disk.place.with_suffix(".log")
    log.unlink(missing_ok=True)
    run = place / ("first" if verb == "report" else "run")
    if verb == "predict":
        run.mkdir()
    words, attempts = VERBS[verb], 0
    while True:
        attempts += 1
        child = start(words, place, log)
        disturbed = attempts <= dice.choice([1, 1, 2])
        if disturbed:
            time.sleep(dice.uniform(0, seconds))
            interrupt(child, way, disk, run)
        code = end(child)
        disk.free()
        writable(run)
        text = log.read_text(errors="replace") if log.exists() else ""
        if "Traceback" in text or code in (99, -99):
            return f"exit code {code}: {text[max(0, text.find('Traceback') - 300) :][:3000]}"
        allowed = {0, 2, 130} | ({-signal.SIGTERM, -signal.SIGKILL} if disturbed else set())
        if code not in allowed:
            return f"exit code {code}: {text[-500:]}"
        if code == 2 and not disturbed and "is finished" not in text.splitlines()[-2:][0] + text.splitlines()[-1]:
            return f"can't go on: {text[-500:]}"
        if code == 0 or (code == 2 and not disturbed):
            break
        if attempts > 4:
            return f"never ends: {text[-500:]}"
        begun = (run / "record.json").exists() and (run / "recipe.yaml").exists()
        if verb in RESUMABLE and begun:
            words = ["resume", "run"]
        elif verb not in ("report", "predict"):
            shutil.rmtree(run, ignore_errors=True)
            words = VERBS[verb]
    found = contents(run)
    differing = [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
    said = "; ".join(difference(expected.get(name), found.get(name), name) for name in sorted(differing))
    return f"after {attempts} attempts: {said}" if differing else ""


def difference(then: Any, now: Any, name: str) -> str:
    """Where two values first differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *now]:
            if then.get(key) != now.get(key):
                return difference(then.get(key), now.get(key), f"{name} {key}")
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        i = next(i for i, (a, b) in enumerate(zip(then, now, strict=True)) if a != b)
        return difference(then[i], now[i], f"{name} {i}")
    return f"{name} was {str(then)[:200]} and is {str(now)[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", choices=VERBS, action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("It mounts a file system, for which it needs root.")
    torch.set_num_threads(1)
    dice, lost, ways = random.Random(args.seed), [], Counter[str]()
    verbs = args.verb or list(VERBS)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        base.chmod(0o755)
        template = base / "template"
        pictures(template / "images")
        disk = Disk(base / "disk")
        try:
            fresh(template, disk.place)
            for words in (["train", "images", *QUICK, "--run", "first"], ["probe", "images", "--run", "second"]):
                assert end(start(words, disk.place, base / "disk.log")) == 0, (base / "disk.log").read_text()
            for name in ("first", "second"):
                shutil.copytree(disk.place / name, template / name)
            undisturbed: dict[str, tuple[float, Any]] = {}
            for verb in verbs:
                fresh(template, disk.place)
                if verb == "predict":
                    (disk.place / "run").mkdir()
                clock = time.monotonic()
                code = end(start(VERBS[verb], disk.place, base / "disk.log"))
                assert code == 0, (base / "disk.log").read_text()
                run = disk.place / ("first" if verb == "report" else "run")
                undisturbed[verb] = time.monotonic() - clock, contents(run)
                print(f"{verb}: {undisturbed[verb][0]:.1f} s undisturbed", flush=True)
            for number in range(args.times):
                verb, way = verbs[number % len(verbs)], dice.choice(args.way or WAYS)
                fresh(template, disk.place)
                wrong = trial(verb, way, dice, undisturbed[verb][0], disk, undisturbed[verb][1])
                ways[way] += 1
                if wrong:
                    lost.append(f"{number}: {verb}, {way}: {wrong}")
                    print(lost[-1], flush=True)
                elif number % 20 == 19:
                    print(f"{number + 1} interruptions, {len(lost)} lost", flush=True)
        finally:
            disk.close()
    names = {re.sub(r"[ -]", "_", way.lower()): number for way, number in sorted(ways.items())}
    print(json.dumps({"tried": args.times, "lost": len(lost), **names}))
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
