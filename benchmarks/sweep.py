"""Claim: a sweep of 20 trials costs at most 8 full trainings; two workers share the trials; and when one is killed and
the sweep is resumed, at most the work since the trial's last checkpoint is lost.

Sweeps learning rate, rank and mixing on 1,000 of the demo's photographs. Two workers start. One is killed midway, and a
third takes over. The cost is in full trainings, counted in steps; the log of the killed worker's trial shows its steps.

Run: python benchmarks/sweep.py   (15 minutes on two cores; the last line is JSON)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = [
    "demo-fashion",
    "data.train_limit=1000",
    "data.validation=0.3",
    "tune.vision_tower=true",
    "sweep.over={train.learning_rate: {low: 2.0e-4, high: 8.0e-3, log: true}, tune.rank: [4, 8, 16, 32, 64], "
    "augment.mix: [none, mixup, cutmix]}",
    "sweep.finalists=2",
    "sweep.repeats=2",
    "train.checkpoint_minutes=0.2",
]


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start a worker: `lensmith` with these arguments."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two workers on two cores
    return subprocess.Popen([sys.executable, "-m", "lensmith", *words], env=environment, stdout=subprocess.DEVNULL)


def steps(run: Path) -> int:
    """The number of training steps in the logs of all trials."""
    logs = [log.read_text() for log in (run / "trials").glob("*/metrics.jsonl")]
    return sum('"loss"' in line for text in logs for line in text.splitlines())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        clock = time.perf_counter()
        first = start("sweep", *OPTIONS, "--run", str(run))
        while not (run / "trials").exists():
            time.sleep(1)
        second = start("resume", str(run))
        while len(list((run / "trials").glob("*"))) < 6:
            time.sleep(1)
        time.sleep(10)
        before = steps(run)
        first.send_signal(signal.SIGKILL)
        first.wait()
        third = start("resume", str(run))
        time.sleep(20)
        codes = [second.wait(), third.wait()]
        seconds = time.perf_counter() - clock
        record = json.loads((run / "sweep.json").read_text())
        full = max(
            sum('"loss"' in line for line in log.read_text().splitlines())
            for log in (run / "trials").glob("*/metrics.jsonl")
        )
    states = [trial["state"] for trial in record["trials"]]
    print(
        f"{len(states)} trials, {states.count('finished')} finished and {states.count('pruned')} pruned; "
        f"{record['verdict']}"
    )
    print(f"killed after {before} steps of all; exit codes of the others {codes}; {seconds:.0f} s in all")
    print(
        json.dumps(
            {
                "trials": len(states),
                "full_trainings": record["cost"]["trials"],
                "finalists": record["cost"]["finalists"],
                "numbers_once": len({trial["number"] for trial in record["trials"]}) == len(states),
                "steps_of_a_training": full,
                "seconds": round(seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
