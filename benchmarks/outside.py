"""Claim: asking an outside model loses no answer, pays for none twice, keeps its rate busy, and times it rightly.

The API is `tests/apis/fake_api.py` on loopback, a process of its own that logs each answer with its delay. The caller
is Lensmith with OpenAI's SDK, or plain HTTP in Anthropic's protocol. Four parts:

- `rate`: 6,000 images, 64 requests in flight, 500 ms each: the share of the 128 answers/s that this allows, the start
  included, and how far the quantiles of the delays are from those of the delays that the server logged.
- `memory`: 20,000 images, and the growth of the caller's memory from the 4,000th on.
- `faults`: 1,500 images with limited rates, errors, hanging and cut connections, answers that aren't JSON, refusals.
- `kills`: `lensmith evaluate` of 2,000 images, killed (SIGKILL) at 20 random moments and resumed each time. A request
  that is on its way at that moment is asked again; one whose answer had been delivered should not be.

Run: python benchmarks/outside.py   (about eight minutes; the last line is JSON)
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from lensmith import apis
from lensmith.apis.asking import Asked, Asking, Item
from lensmith.apis.pictures import picture
from lensmith.apis.prices import Tariff
from lensmith.apis.provider import Ask
from lensmith.apis.recording import Recording
from lensmith.config import ApiOptions, Price
from lensmith.data.source import pnm
from lensmith.measure.metrics import quantiles
from lensmith.runs.provenance import provenance

ROOT = Path(__file__).parent.parent
LABELS = tuple(f"class {k}" for k in range(10))
ASK = Ask("What is in this picture? Answer with one of these:\n" + "\n".join(LABELS), None, LABELS)
FAULTS = {"limit": 0.05, "limit_silently": 0.02, "error": 0.05, "hang": 0.005, "cut": 0.03, "garbage": 0.03}
FAULTS |= {"slow": 0.02, "refuse": 0.05, "chatty": 0.03, "unlisted": 0.03, "loose": 0.03, "reject": 0.02}
IMAGES, KILLS = 6000, 20


def image(k: int) -> bytes:
    """A picture of 28 x 28 pixels, all of them different."""
    return pnm(np.random.default_rng(k).integers(0, 256, (28, 28, 3), dtype=np.uint8))


@contextmanager
def server(folder: Path, **options: Any) -> Iterator[tuple[str, Path]]:
    """The fake API as a process; its address and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"log-{port}.jsonl"
    command = [sys.executable, "-m", "tests.apis.fake_api", str(port), json.dumps(options), str(log)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        for _ in range(200):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.kill()
        process.wait()


def ask(
    folder: Path, base: str, n: int, report: list[tuple[int, float]] | None = None, **options: Any
) -> tuple[Asked, list[Any], float]:
    """Ask about n images; what was asked, the answers, and the seconds it took."""
    process = psutil.Process()

    def progress(done: int) -> None:
        if report is not None and done % 500 == 0:
            report.append((done, process.memory_info().rss / 2**20))

    items: list[Item] = [(str(k), partial(lambda k: picture(image(k), str(k), 10**6), k)) for k in range(n)]
    with Recording(folder) as recording:
        asking = Asking(apis.find(base), "key", ASK, ApiOptions(**options), recording, Tariff(Price(0.1), "test"))
        start = time.perf_counter()
        asked = asyncio.run(asking.all(items, progress))
        seconds = time.perf_counter() - start
        return asked, [recording.get(key) for key in asked.digests.values()], seconds


def log_of(path: Path) -> list[dict[str, Any]]:
    """What the server did."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def rate(folder: Path, protocol: str) -> dict[str, float]:
    """The share of the server's rate, and how far delays are from the server's own."""
    with server(folder, delay=0.5) as (url, log):
        base = f"{protocol}:m@{url}" + ("/v1" if protocol == "openai" else "")
        _, answers, seconds = ask(folder / protocol, base, IMAGES)
        theirs = sorted(row["seconds"] for row in log_of(log))
    ours = sorted(answer.seconds for answer in answers)
    ours_at, theirs_at = quantiles(ours), quantiles(theirs)
    errors = {key: 1000 * (ours_at[key] - theirs_at[key]) for key in ours_at}
    return {"share": IMAGES / seconds / (64 / 0.5)} | errors


def kills(folder: Path, rng: random.Random) -> dict[str, int]:
    """Kill and resume `lensmith evaluate` until it is done."""
    table, run = folder / "images.parquet", folder / "run"
    rows = {"image": [image(k) for k in range(2000)], "label": [LABELS[k % 10] for k in range(2000)]}
    pq.write_table(pa.table(rows | {"split": ["test"] * 2000}), table)
    lensmith = [sys.executable, "-m", "lensmith"]
    with server(folder, delay=0.3) as (url, log):
        first = ["evaluate", str(table), f"model.base=openai:m@{url}/v1", "--run", str(run)]
        code, done = 1, 0
        while code and done <= KILLS + 20:
            command = ["resume", str(run)] if (run / "record.json").exists() else first
            if command is first:
                shutil.rmtree(run, ignore_errors=True)
            process = subprocess.Popen([*lensmith, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            before = log.read_bytes().count(b"\n")
            if done < KILLS:
                while process.poll() is None and log.read_bytes().count(b"\n") == before:
                    time.sleep(0.02)  # until it asks
                time.sleep(rng.uniform(0.0, 1.2))
                process.send_signal(signal.SIGKILL)
            done += 1
            code = process.wait()
        answered = Counter(row["key"] for row in log_of(log) if row["status"] == 200)
        gone = sum(row["status"] == 499 for row in log_of(log))
    evaluation = json.loads((run / "evaluation.json").read_text())
    lines = (run / "answers.jsonl").read_bytes().count(b"\n")
    return {
        "kills": min(done - 1, KILLS),
        "paid_twice": sum(number - 1 for number in answered.values()),
        "on_their_way": gone,
        "lost": 2000 - len(answered) + 2000 - evaluation["accuracy"]["n"] + 2000 - lines,
    }


def main() -> None:
    """Run the benchmark."""
    folder = Path(tempfile.mkdtemp(prefix="lensmith-outside-"))
    try:
        for name in ("openai", "anthropic", "memory", "faults", "kills"):
            (folder / name).mkdir()
        rates = {protocol: rate(folder, protocol) for protocol in ("openai", "anthropic")}
        print(rates, flush=True)
        memory: list[tuple[int, float]] = []
        with server(folder, delay=0.05) as (url, _):
            _, _, seconds = ask(folder / "memory", f"openai:m@{url}/v1", 20_000, memory)
        early = statistics.median(size for done, size in memory if 4000 <= done <= 6000)
        late = statistics.median(size for done, size in memory if done >= 18_000)
        print(f"memory: {early:.1f} MiB, later {late:.1f} MiB; {20_000 / seconds:.0f} images/s", flush=True)
        with server(folder, delay=0.02, faults=FAULTS) as (url, log):
            asked, answers, _ = ask(folder / "faults", f"openai:m@{url}/v1", 1500, timeout=3.0)
            statuses, twice = Counter(row["status"] for row in log_of(log)), Counter[str]()
            twice.update(row["key"] for row in log_of(log) if row["status"] == 200)
        kinds = Counter(answer.kind for answer in answers if answer)
        lost = 1500 - sum(kinds.values()) + 1500 - len(asked.digests)
        print(f"faults: {dict(kinds)}, {dict(statuses)}", flush=True)
        killed = kills(folder / "kills", random.Random(0))
        print(killed, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        json.dumps(
            {
                "paid_twice": killed["paid_twice"] + sum(number - 1 for number in twice.values()),
                "lost": lost + killed["lost"],
                "share_of_server_rate": round(min(found["share"] for found in rates.values()), 3),
                "delay_error_ms": round(max(found["p95"] for found in rates.values()), 2),
                "delay_errors_ms": {
                    name: {key: round(found[key], 2) for key in ("p50", "p95", "p99")} for name, found in rates.items()
                },
                "memory_growth": round(late / early - 1, 4),
                "asked_again_in_flight": killed["on_their_way"],
                "kills": killed["kills"],
                "machine": provenance()["machine"],
            }
        )
    )


if __name__ == "__main__":
    main()
