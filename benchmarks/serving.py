"""Claim: a taught model answers over HTTP nearly as fast as in process, and faster than other servers of such models.

All sides have the shipped model, the demo's images and ten classes, answered by one-token codes:

- Lensmith in process: `predict`'s loop.
- Lensmith's server, a process of its own, asked through the path that the other side has.
- `transformers serve` with its decision route (`/v1/systemone`), in the peers' environment, set up as
  `peers/scoring.py` sets up its pipeline.
- LitServe around the same `Classifier`, batches of up to 64 without waiting, in the peers' environment.

The caller is one more process with 64 connections that are kept open; it and the server share the machine's cores.
Sides take turns, and ratios are medians over the rounds. Then the server is sent four times the rate that it can
sustain, for a minute: each request is sent at its time, whether or not others were answered.

Run: python benchmarks/serving.py   (about ten minutes; the last line is JSON)
`--soak MINUTES` instead sends 80 % of the sustainable rate for so long, and watches the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvloop

from lensmith import models
from lensmith.config import ModelOptions, QuestionOptions
from lensmith.data import decode_image, open_dataset
from lensmith.engine.classifier import Classifier, predict
from lensmith.engine.question import make_question
from lensmith.runs.provenance import provenance
from lensmith.serve.app import allow_connections

HERE = Path(__file__).parent
PEERS = HERE / "peers"
CLIENTS, ROUNDS, SECONDS, ALONE, IMAGES = 64, 5, 6.0, 150, 512
OVERLOAD, MINUTE, BOUND = 4, 60.0, 5.0


def classifier() -> Classifier:
    """The classifier of all of Lensmith's sides, and of LitServe."""
    labels = open_dataset("demo:fashion").labels
    model = models.load_base(ModelOptions(base="nano", dtype="float32", device="cpu"))
    return Classifier(model, make_question(model, QuestionOptions(answers="codes"), labels))


def pictures() -> list[bytes]:
    """The demo's test images, encoded."""
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(models.__file__).parents[1] / "data" / "files" / "fashion_test.parquet")
    column = next(name for name in rows.column_names if name in ("image", "bytes"))
    cells = rows[column].slice(0, IMAGES).to_pylist()
    return [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]


def serve(port: int) -> None:
    """Lensmith's server, as `lensmith serve` runs it."""
    import uvicorn

    from lensmith.engine.panel import Panel
    from lensmith.serve.app import make_app
    from lensmith.serve.service import Service

    service = Service()
    # In a thread that ends, as `lensmith serve` does it: see serve/pictures.py.
    loading = threading.Thread(target=lambda: service.start([Panel({"m": classifier()})]))
    loading.start()
    loading.join()
    uvicorn.run(make_app(service), host="127.0.0.1", port=port, log_level="error")


@contextmanager
def server(name: str, command: list[str | Path], port: int, health: str) -> Iterator[psutil.Process]:
    """A server while the block runs, from when it answers."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": (log := open(f"/tmp/lensmith-bench-{name}.log", "w"))}  # noqa: SIM115
    process = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        until = time.monotonic() + 180
        while not _answers(port, health):
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit(f"{name} did not start; see {log.name}")
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGSTOP)
        yield psutil.Process(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@contextmanager
def awake(process: psutil.Process) -> Iterator[None]:
    """Let a server run during the block. LitServe's processes take a core and a half even when nothing is asked."""
    os.killpg(process.pid, signal.SIGCONT)
    yield
    os.killpg(process.pid, signal.SIGSTOP)


def _answers(port: int, path: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(64).split()[1:2] == [b"200"]
    return False


def request(path: str, body: bytes, kind: str) -> bytes:
    """A request in bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Caller:
    """Asks a server through connections that are kept open."""

    port: int
    requests: list[bytes]
    statuses: Counter[int] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    """Seconds of the requests that were answered with 200."""

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        """One request and its response."""
        clock = time.perf_counter()
        writer.write(self.requests[number % len(self.requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        status, lower = int(head.split(b" ", 2)[1]), head.lower()
        at = lower.index(b"content-length:") + 15
        await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        self.statuses[status] += 1
        if status == 200:
            self.delays.append(time.perf_counter() - clock)

    async def loop(self, clients: int, seconds: float, most: int = 10**9) -> float:
        """Answers a second when so many clients each send one request after another."""
        until, numbers = time.perf_counter() + seconds, iter(range(most))

        async def client() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for number in numbers:
                await self.one(reader, writer, number)
                if time.perf_counter() > until:
                    break
            writer.close()

        clock = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return self.statuses[200] / (time.perf_counter() - clock)

    async def at_rate(self, rate: float, seconds: float, each: Callable[[float], None] = lambda _: None) -> float:
        """Answers a second when requests are sent at a rate, whether or not others were answered."""
        idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        sent: set[asyncio.Task[None]] = set()

        async def send(number: int) -> None:
            for again in (True, False):
                pair = idle.pop() if idle and again else await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    await self.one(*pair, number)
                    idle.append(pair)
                    return
                except (OSError, asyncio.IncompleteReadError):  # perhaps it was idle for too long
                    self.statuses[0] += not again

        clock = time.perf_counter()
        number, told = 0, 0
        while (now := time.perf_counter() - clock) < seconds:
            while number < now * rate:
                task = asyncio.create_task(send(number))
                sent.add(task)
                task.add_done_callback(sent.discard)
                number += 1
            if now > told:
                each(now)
                told += 1
            await asyncio.sleep(0.002)
        answered = self.statuses[200] / (time.perf_counter() - clock)
        await asyncio.gather(*sent)
        for _, writer in idle:
            writer.close()
        return answered


def in_process(ours: Classifier, images: list[bytes]) -> float:
    """Images a second of `predict`."""
    items = [(str(i), None, lambda data=data: decode_image(data, name="x")) for i, data in enumerate(images)]
    clock = time.perf_counter()
    list(predict(ours, items))
    return len(images) / (time.perf_counter() - clock)


def alone(ours: Classifier, images: list[bytes]) -> float:
    """Median seconds of one image in process."""
    times = []
    for data in images[:ALONE]:
        clock = time.perf_counter()
        views = ours.model.prepare(decode_image(data, name="x", enough=ours.model.sufficient_size))
        (scores,) = ours.score_all(tuple(view[None] for view in views))
        ours.calibration.apply(scores.bound).softmax(1).tolist()
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=int)
    parser.add_argument("--soak", type=float)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    allow_connections()
    images, ours = pictures(), classifier()
    labels = list(ours.labels)
    text = [base64.b64encode(data).decode() for data in images]
    question = {"label": {"type": "choice", "instructions": "What is it?", "criteria": dict.fromkeys(labels)}}
    decisions = [
        request(
            "/v1/systemone",
            json.dumps(
                {"state": "<photo-1>", "questions": question}
                | {"assets": {"<photo-1>": {"type": "image", "format": "png", "data_base64": data}}}
            ).encode(),
            "application/json",
        )
        for data in text
    ]
    plain = [request("/", data, "application/octet-stream") for data in images]
    wrapped = [request("/predict", json.dumps({"image": data}).encode(), "application/json") for data in text]
    python = PEERS / ".venv" / "bin" / "python"
    mine: list[str | Path] = [sys.executable, __file__, "--serve", "8101"]
    if args.soak:
        with server("lensmith", mine, 8101, "/health") as process, awake(process):
            soak(plain, args.soak, process)
        return
    job = json.dumps({"model": str(models.NANO), "labels": labels, "threads": os.cpu_count()})
    figures: dict[str, list[float]] = {
        name: [] for name in ("process", "http", "systemone", "transformers", "litserve")
    }
    delays: dict[str, list[float]] = {"process": [], "http": []}
    with (
        server("lensmith", mine, 8101, "/health") as lensmith,
        server("transformers", [python, PEERS / "serving_transformers.py", "8102", job], 8102, "/health") as theirs,
        server("litserve", [python, PEERS / "serving_litserve.py", "8103", job], 8103, "/health") as wrapper,
    ):
        sides = {
            "http": (lensmith, 8101, plain, SECONDS),
            "systemone": (lensmith, 8101, decisions, SECONDS),
            "transformers": (theirs, 8102, decisions, 3 * SECONDS),
            "litserve": (wrapper, 8103, wrapped, SECONDS),
        }
        for turn in range(-1, ROUNDS):
            rates = {"process": in_process(ours, images)}
            for name, (process, port, requests, seconds) in sides.items():
                caller = Caller(port, requests)
                with awake(process):
                    rates[name] = uvloop.run(caller.loop(CLIENTS, seconds))
                if bad := {status for status in caller.statuses if status != 200}:
                    raise SystemExit(f"{name} answered {bad}")
            single = Caller(8101, plain)
            with awake(lensmith):
                uvloop.run(single.loop(1, 60, ALONE))
            pair = {"process": alone(ours, images), "http": statistics.median(single.delays)}
            print(turn, {name: round(rate, 1) for name, rate in rates.items()}, pair, flush=True)
            if turn < 0:  # the first turn warms up
                continue
            for name, rate in rates.items():
                figures[name].append(rate)
            for name, delay in pair.items():
                delays[name].append(delay)
    with server("lensmith", mine, 8101, "/health") as lensmith, awake(lensmith):
        peak = max(uvloop.run(Caller(8101, plain).loop(CLIENTS, SECONDS)) for _ in range(3))
        flood = Caller(8101, plain)
        answered = uvloop.run(flood.at_rate(OVERLOAD * peak, MINUTE))
        after = uvloop.run(Caller(8101, plain).loop(CLIENTS, SECONDS))
    slowest = max(flood.delays)
    errors = sum(number for status, number in flood.statuses.items() if status not in (200, 429))

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(figures[one], figures[other], strict=True))

    for name, rates_of in figures.items():
        print(f"{name:<14}{statistics.median(rates_of):>8.1f} images/s")
    print(
        f"overload: peak {peak:.0f}/s, sent {OVERLOAD * peak:.0f}/s, answered {answered:.0f}/s, {dict(flood.statuses)}"
    )
    print(f"slowest answer {slowest:.2f} s; afterwards {after:.0f}/s")
    print(
        json.dumps(
            {
                "http_over_in_process": round(ratio("http", "process"), 3),
                "added_latency_ms": round(
                    1000 * statistics.median(a - b for a, b in zip(delays["http"], delays["process"], strict=True)), 2
                ),
                "ratio_transformers_serve": round(ratio("systemone", "transformers"), 1),
                "ratio_litserve": round(ratio("http", "litserve"), 2),
                "overload_rate_kept": round(answered / peak, 3),
                "server_errors": errors,
                "slowest_accepted_s": round(slowest, 2),
                "images_per_s": {name: round(statistics.median(values), 1) for name, values in figures.items()},
                "machine": provenance()["machine"],
            }
        )
    )


def soak(requests: list[bytes], minutes: float, process: psutil.Process) -> None:
    """80 % of the sustainable rate for minutes: the server's memory, and requests without an answer."""
    peak = max(uvloop.run(Caller(8101, requests).loop(CLIENTS, SECONDS)) for _ in range(3))
    rate, memory = 0.8 * peak, list[float]()

    def each(now: float) -> None:
        memory.append(process.memory_info().rss / 2**20)
        if len(memory) % 60 == 1:
            print(f"{now:6.0f} s {memory[-1]:8.1f} MiB {dict(caller.statuses)}", flush=True)

    caller = Caller(8101, requests)
    uvloop.run(caller.at_rate(rate, 60 * minutes, each))
    # glibc's heap keeps what the first large batches took (dev/LOG.md), so the first third is left out.
    third = len(memory) // 3
    start = statistics.median(memory[third : third + 30])
    growth = statistics.median(memory[-30:]) / start - 1
    lost = sum(number for status, number in caller.statuses.items() if status != 200)
    print(
        json.dumps(
            {"minutes": minutes, "rate": round(rate, 1), "requests": sum(caller.statuses.values()), "lost": lost}
            | {"memory_mib": round(start, 1), "memory_growth": round(growth, 4), "machine": provenance()["machine"]}
        )
    )


if __name__ == "__main__":
    main()
