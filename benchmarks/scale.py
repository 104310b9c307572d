"""Several machines: the weights of a training, the images of a bulk prediction, what Ray costs, what a driver holds.

Two Ray nodes on this machine, each with one core. A last line of JSON has

- `same_weights`: trainings on Ray (undisturbed, a worker killed, a node lost and replaced) whose weights equal
  torchrun's, of all of them,
- `missing`, `twice`: images of a bulk prediction that have no answer, or two, after actors were killed 20 times at
  random and the driver once; and in an object store that was killed and started again,
- `overhead`: time of a bulk prediction on Ray over that of plain local workers on the same cores, without the start,
- `driver_memory_ratio`: the driver's memory at the end of 1,000,000 images in 1,000 shards, over that after a tenth,
- `simulated_...`: 100,000 shards on 1,000 simulated workers that fail and straggle, with the real schedule.

    python benchmarks/scale.py [--only weights,bulk,overhead,million,s3,simulation,namespaces] [--images 1000000]
        [--s3rver FOLDER]

`s3` needs the folder where `npm install s3rver@3.7.1` was run, `namespaces` root and `ip`.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lensmith.bulk import drive as driving
from lensmith.bulk.plan import Plan, make_plan
from lensmith.bulk.pool import Event, Failed, Finished, Lost, Model, Ready
from lensmith.bulk.shard import Part, Task
from lensmith.bulk.sources import Piece
from lensmith.bulk.storage import Storage
from lensmith.bulk.totals import Totals
from lensmith.errors import UserError
from lensmith.places.ray.cluster import client, end_node, free_port, start_node

SETTINGS = ["model.dtype=float32", "data.train_limit=400", "data.test_limit=100", "train.epochs=2"]
KILLS = 20


def lensmith(*words: str | Path, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with one thread."""
    command = [sys.executable, "-m", "lensmith", *map(str, words)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if code is not None and done.returncode != code:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done


class Cluster:
    """A head node without cores, and nodes with one core each."""

    def __init__(self, folder: Path, ip: str = "127.0.0.1") -> None:
        self.folder, self.port, self.dashboard, self.ip = folder, free_port(), free_port(), ip
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.address = f"http://{ip}:{self.dashboard}"

    def __enter__(self) -> Cluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        self.head = start_node(self.folder, 0, port=self.port, dashboard=self.dashboard, ip=self.ip)
        self._wait(0)
        if self.ip == "127.0.0.1":
            for _ in range(2):
                self.add()
        return self

    def add(self, ip: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        """Start a node, and wait for it."""
        self.nodes.append(start_node(self.folder, 1, head=f"{self.ip}:{self.port}", ip=ip, prefix=prefix))
        self._wait(len(self.nodes))

    def lose(self) -> None:
        """Kill the latest node."""
        node = self.nodes.pop()
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def _wait(self, count: int) -> None:
        for _ in range(200):
            with suppress(UserError, KeyError, RuntimeError):
                rows = client(self.address)._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
                if sum(row["raylet"].get("state") == "ALIVE" for row in rows) > count:
                    return
            time.sleep(0.5)
        raise SystemExit("The cluster doesn't start.")

    def __exit__(self, *_: object) -> None:
        for node in [*self.nodes, self.head]:
            end_node(node)

    def options(self, storage: Path, workers: int = 2) -> list[str]:
        """The words of a command that runs here."""
        return ["--on", "ray", f"ray.address={self.address}", f"ray.storage={storage}", f"ray.workers={workers}"]


def kill(word: str, choose: random.Random) -> bool:
    """Kill a process at random whose command contains a word; returns whether there was one."""
    found = [p for p in psutil.process_iter(["cmdline"]) if word in " ".join(p.info["cmdline"] or [])]
    found = [p for p in found if p.pid != os.getpid()]
    if found:
        with suppress(psutil.NoSuchProcess):
            choose.choice(found).kill()
    return bool(found)


def weights(cluster: Cluster, here: Path) -> dict[str, Any]:
    """Trainings on Ray against torchrun's."""
    words = ["train", "demo:fashion", *SETTINGS]
    start = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "--", "lensmith"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *words, "--run", str(here / "torchrun")]
    subprocess.run(command, check=True, capture_output=True, env=env)

    def digest(run: Path) -> bytes:
        return (run / "adapter" / "adapter_model.safetensors").read_bytes()

    seconds, same = {}, 0
    for name in ("undisturbed", "worker killed", "node lost"):
        run, storage = here / name.replace(" ", "-"), here / "storage"
        began = time.perf_counter()
        lensmith(*words, "--run", run, "--detach", *cluster.options(storage))
        name_of_job = json.loads((run / "place.json").read_text())["submission"]
        while name != "undisturbed":
            told = storage / "jobs" / name_of_job / "events.json"
            if told.exists() and '"training"' in told.read_text():
                break
            time.sleep(0.05)
        if name == "worker killed":
            kill("RayTrainWorker", random.Random(0))
        if name == "node lost":
            cluster.lose()
            cluster.add()
        lensmith("attach", run)
        seconds[name] = round(time.perf_counter() - began, 1)
        equal = digest(run) == digest(here / "torchrun")
        same += equal
        print(f"{name:14} {seconds[name]:6.1f} s, weights {'equal' if equal else 'DIFFER'}", flush=True)
    return {"same_weights": same / len(seconds), "seconds_of_training": seconds}


def namespaces(here: Path) -> dict[str, Any]:
    """A training by two nodes that reach each other only through a pair of virtual Ethernet devices (as root)."""
    name, host, guest = "lensmith", "10.77.0.1", "10.77.0.2"
    inside = ["ip", "netns", "exec", name]

    def ip(*words: str) -> None:
        subprocess.run(words, check=True)

    ip("ip", "netns", "add", name)
    try:
        ip("ip", "link", "add", "lens0", "type", "veth", "peer", "name", "lens1")
        ip("ip", "link", "set", "lens1", "netns", name)
        ip("ip", "addr", "add", f"{host}/24", "dev", "lens0")
        ip("ip", "link", "set", "lens0", "up")
        ip(*inside, "ip", "addr", "add", f"{guest}/24", "dev", "lens1")
        for device in ("lo", "lens1"):
            ip(*inside, "ip", "link", "set", device, "up")
        words = ["train", "demo:fashion", *SETTINGS]
        start = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "--", "lensmith"]
        command = [sys.executable, *start, *words, "--run", str(here / "torchrun-2")]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        os.environ["GLOO_SOCKET_IFNAME"] = "lens0"
        with Cluster(here / "ray-2", host) as cluster:
            cluster.add(host)
            os.environ["GLOO_SOCKET_IFNAME"] = "lens1"
            cluster.add(guest, inside)
            before = sent()
            lensmith(*words, "--run", here / "across", *cluster.options(here / "storage"))
            crossed = sent() - before
        file = Path("adapter") / "adapter_model.safetensors"
        equal = (here / "across" / file).read_bytes() == (here / "torchrun-2" / file).read_bytes()
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        subprocess.run(["ip", "netns", "del", name], check=False)
    print(f"namespaces: weights {'equal' if equal else 'DIFFER'}, {crossed / 1e6:.1f} MB crossed", flush=True)
    return {"namespaces_same_weights": equal, "namespaces_megabytes": round(crossed / 1e6, 1)}


def sent() -> int:
    """Bytes that have gone out through the virtual device."""
    return int(Path("/sys/class/net/lens0/statistics/tx_bytes").read_text())


def taught(here: Path) -> Path:
    """A run of `lensmith probe`."""
    run = here / "probe"
    if not run.exists():
        lensmith("probe", "demo:fashion", "model.dtype=float32", "--run", run)
    return run


def table(file: Path, images: int, group: int = 1000) -> Path:
    """A Parquet file of the demo's test images, over and over."""
    from lensmith.config import load_recipe
    from lensmith.data import open_data

    if not file.exists():
        split = open_data(load_recipe(None, ["data.uri=demo:fashion"]).data, lambda event: None).test
        encoded = []
        for i in range(len(split)):
            buffer = io.BytesIO()
            split.image(i).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        schema = pa.schema([("image", pa.binary())])
        with pq.ParquetWriter(file, schema) as writer:
            for first in range(0, images, group):
                cells = [encoded[k % len(encoded)] for k in range(first, min(images, first + group))]
                writer.write_table(pa.table({"image": cells}, schema), row_group_size=group)
    return file


def counted(out: Path, expected: int) -> dict[str, int]:
    """Images without an answer, and images with more than one."""
    found = ds.dataset(str(out / "parts")).to_table(columns=["image"])["image"]
    names = Counter(found.to_pylist())
    return {"missing": expected - len(names), "twice": sum(n - 1 for n in names.values())}


def bulk(cluster: Cluster, here: Path) -> dict[str, Any]:
    """A bulk prediction whose actors are killed at random 20 times, and whose driver is killed once."""
    images = 20_000
    run, source, out = taught(here), table(here / "bulk.parquet", images, 100), here / "bulk-answers"
    choose, kills, began = random.Random(0), 0, time.perf_counter()
    words = [
        "predict",
        str(run),
        str(source),
        "--out",
        str(out),
        "--shard-images",
        "100",
        *cluster.options(here / "storage"),
    ]
    while kills <= KILLS:
        before = set(Path("runs").glob("*-predict-*"))
        lensmith(*words, "--detach")
        (job,) = set(Path("runs").glob("*-predict-*")) - before
        while kills <= KILLS and (status(cluster, job) in ("PENDING", "RUNNING")):
            time.sleep(choose.uniform(0.5, 3))
            if not list(out.glob("parts/part-*")):
                continue
            if kills == KILLS // 2:  # once, the driver
                kills += kill("places.ray.driver", choose)
                break
            kills += kill("ray::_Actor", choose)
        lensmith("attach", job, code=None)
        if len(list(out.glob("parts/part-*"))) >= images // 100:
            break
    done = lensmith(*words, "--json")
    print(f"bulk: {kills} kills in {time.perf_counter() - began:.0f} s", flush=True)
    return counted(out, images) | {"kills": kills, "set_aside": len(json.loads(done.stdout)["set_aside"])}


def status(cluster: Cluster, run: Path) -> str:
    """The status of a run's job."""
    name = json.loads((run / "place.json").read_text())["submission"]
    return str(client(cluster.address).get_job_status(name)).rpartition(".")[2]


def overhead(cluster: Cluster, here: Path, rounds: int = 3) -> dict[str, Any]:
    """Ray's actors against local workers, in turns, from the first shard on."""
    images = 40_000
    run, source = taught(here), table(here / "overhead.parquet", images)
    taken: dict[str, list[float]] = {"local": [], "ray": []}
    sides = {"local": ["--workers", "2"], "ray": cluster.options(here / "storage")}
    for _ in range(rounds):
        for name, words in sides.items():
            out = here / "overhead-answers"
            shutil.rmtree(out, ignore_errors=True)
            lensmith("predict", run, source, "--out", out, *words, "--json")
            ends = sorted(path.stat().st_mtime for path in out.glob("parts/part-*"))
            # From the first two parts on, when all workers are at work.
            taken[name].append((ends[-1] - ends[1]) / (len(ends) - 2) * len(ends))
    ratio = statistics.median(taken["ray"]) / statistics.median(taken["local"])
    print({name: [round(s, 1) for s in values] for name, values in taken.items()}, f"ratio {ratio:.3f}", flush=True)
    return {"overhead": round(ratio - 1, 3), "images_per_second": round(images / statistics.median(taken["ray"]))}


def million(cluster: Cluster, here: Path, images: int) -> dict[str, Any]:
    """The driver's memory while it hands out 1,000 shards."""
    run, source, out = taught(here), table(here / "million.parquet", images), here / "million-answers"
    began, shards = time.perf_counter(), images // 1000
    words = ["predict", str(run), str(source), "--out", str(out), *cluster.options(here / "storage"), "--json"]
    command = [sys.executable, "-m", "lensmith", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    sizes: list[tuple[int, int]] = []
    while process.poll() is None:
        time.sleep(1)
        drivers = [
            p for p in psutil.process_iter(["cmdline"]) if "places.ray.driver" in " ".join(p.info["cmdline"] or [])
        ]
        with suppress(psutil.Error):
            resident = [p.memory_info().rss for p in drivers]  # a shell that started it is small
            if resident and (parts := len(list(out.glob("parts/part-*")))):
                sizes.append((parts, max(resident)))
    assert process.stdout
    record = json.loads(process.stdout.read())
    tenth = next(size for parts, size in sizes if parts >= shards / 10)
    ratio = sizes[-1][1] / tenth
    rate = record["images"] / (time.perf_counter() - began)
    print(
        f"million: {rate:.0f} images/s with the start, driver {tenth / 1e6:.0f} to {sizes[-1][1] / 1e6:.0f} MB",
        flush=True,
    )
    lost = images - record["images"]
    return {"driver_memory_ratio": round(ratio, 3), "million_missing": lost, "million_images_per_second": round(rate)}


@contextmanager
def s3rver(folder: Path, program: Path) -> Iterator[Any]:
    """An S3 server (npm's s3rver) that keeps its objects on disk; yields a function that kills and restarts it."""
    port = free_port()
    command = [str(program / "node_modules" / ".bin" / "s3rver"), "-d", str(folder), "-p", str(port), "-a", "127.0.0.1"]
    command += ["--configure-bucket", "bucket"]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(100):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/bucket", timeout=5).close()
                break
            time.sleep(0.1)
        return process

    running = [start()]

    def restart(pause: float) -> None:
        os.killpg(running[0].pid, signal.SIGKILL)
        running[0].wait()
        time.sleep(pause)
        running[0] = start()

    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"}
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "S3RVER",
        "AWS_SECRET_ACCESS_KEY": "S3RVER",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ |= {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}  # it is older than these checksums
    try:
        yield restart
    finally:
        os.killpg(running[0].pid, signal.SIGKILL)


def object_store(here: Path, program: Path) -> dict[str, Any]:
    """A bulk prediction from an object store into it, whose server is killed and started again in the middle."""
    images = 20_000
    run, source = taught(here), table(here / "bulk.parquet", images, 100)
    with s3rver(here / "s3", program) as restart:
        Storage("s3://bucket/source").put("images.parquet", source)
        words = ["predict", str(run), "s3://bucket/source", "--out", "s3://bucket/answers", "--workers", "2"]
        command = [sys.executable, "-m", "lensmith", *words, "--shard-images", "100", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, restarts = Storage("s3://bucket/answers"), 0
        while process.poll() is None and restarts < 3:
            with suppress(UserError):
                if len(out.sizes("parts")) > 40 * (restarts + 1):
                    restart(3)
                    restarts += 1
            time.sleep(0.05)
        stdout, stderr = process.communicate()
        if process.returncode:
            raise SystemExit(stderr[-2000:])
        copy = here / "s3-answers"
        (copy / "parts").mkdir(parents=True)
        for name in out.sizes("parts"):
            out.get(f"parts/{name}", copy / "parts" / name)
    found = counted(copy, images)
    print(f"object store: {restarts} restarts, {found}, {json.loads(stdout)['images']:,} images", flush=True)
    return {f"s3_{name}": n for name, n in found.items()} | {"s3_restarts": restarts}


class Simulated:
    """Workers whose shards take recorded times. Some straggle, some die, some shards kill each worker."""

    def __init__(self, count: int, seconds: Sequence[float], seed: int = 0) -> None:
        self.count, self._seconds, self._random = count, seconds, random.Random(seed)
        self.now = 0.0
        self.done = self.deaths = 0
        self._heap: list[tuple[float, int, int | None]] = []
        self._queue: dict[int, list[int]] = {}
        self._slow: dict[int, float] = {}
        self._started = 0

    def start(self, model: Model, task: Task) -> None:
        for _ in range(self.count):
            self._spawn(self._random.uniform(20, 60))

    def _spawn(self, after: float) -> None:
        worker, self._started = self._started, self._started + 1
        self._slow[worker] = 10.0 if self._random.random() < 0.01 else self._random.uniform(0.9, 1.3)
        self._queue[worker] = []
        heapq.heappush(self._heap, (self.now + after, worker, None))

    def submit(self, worker: int, shard: int, pieces: Sequence[Piece]) -> None:
        self._queue[worker].append(shard)
        if len(self._queue[worker]) == 1:
            self._begin(worker)

    def _begin(self, worker: int) -> None:
        takes = self._random.choice(self._seconds) * self._slow[worker]
        heapq.heappush(self._heap, (self.now + takes, worker, self._queue[worker][0]))

    def events(self, seconds: float) -> list[Event]:
        self.now, worker, shard = heapq.heappop(self._heap)
        if shard is None:
            return [Ready(worker)]
        if worker not in self._queue:
            return []
        if shard % 25_000 == 7 or self._random.random() < 0.0005:
            del self._queue[worker]
            self.deaths += 1
            self._spawn(60)
            return [Lost(worker, "killed")]
        self._queue[worker].pop(0)
        if self._queue[worker]:
            self._begin(worker)
        if self._random.random() < 0.0005:
            return [Failed(worker, shard, "failed")]
        self.done += 1
        return [Finished(worker, Part(shard, 1000, {"a": 1000}, {}, [50] * 20, 1.0, f"node{worker % 125}"))]

    def close(self) -> None:
        pass


def simulation(here: Path, shards: int = 100_000, workers: int = 1000) -> dict[str, Any]:
    """The real plan, schedule and totals with simulated workers: the driver's time and memory, and the makespan."""
    recorded = [
        5.0 * factor for factor in (0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.2, 1.5)
    ]  # at an assumed 200 images/s
    if (answers := here / "overhead-answers").exists():  # the spread of times that were measured
        parts = [json.loads(pq.read_metadata(p).metadata[b"lensmith"])["seconds"] for p in answers.glob("parts/part-*")]
        recorded = [5.0 * part / statistics.fmean(parts) for part in parts]
    out = Storage(str(here / "simulated"))
    files = here / "simulated-source"
    if not files.exists():
        files.mkdir()
        for k in range(10):
            pq.write_table(
                pa.table({"image": pa.array([b""] * (shards // 10))}), files / f"{k}.parquet", row_group_size=1
            )
    tell = lambda event: None  # noqa: E731
    manifest = make_plan(out, str(files), {}, False, 1, 1 << 60, tell)
    pool = Simulated(workers, recorded)
    totals, memory, began = Totals(manifest["shards"], None), [], time.process_time()
    watch = lambda totals: memory.append(psutil.Process().memory_info().rss) if totals.done % 5000 == 0 else None  # noqa: E731
    pool.start(Model(None), Task("parquet", "", False, 1, 1))
    driving._do(Plan(out, manifest), pool, iter(range(manifest["shards"])), totals, tell, watch)
    seconds = time.process_time() - began
    ideal = shards * statistics.fmean(recorded) * 1.1 / workers
    found = {
        "simulated_shards": totals.done,
        "simulated_set_aside": len(totals.set_aside),
        "simulated_deaths": pool.deaths,
        "simulated_driver_seconds": round(seconds, 1),
        "simulated_driver_ms_per_shard": round(1000 * seconds / shards, 3),
        "simulated_driver_memory_ratio": round(memory[-1] / memory[len(memory) // 10], 3),
        "simulated_makespan_over_ideal": round(pool.now / ideal, 3),
    }
    print(found, flush=True)
    return found


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="weights,bulk,overhead,million,s3,simulation")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--s3rver", type=Path, help="a folder where `npm install s3rver@3.7.1` was run")
    args = parser.parse_args()
    parts, found = args.only.split(","), dict[str, Any]()
    home = Path(tempfile.mkdtemp(prefix="lsc", dir="/tmp"))
    os.chdir(home)
    try:
        if {"weights", "bulk", "overhead", "million"} & set(parts):
            with Cluster(home / "ray") as cluster:
                if "weights" in parts:
                    found |= weights(cluster, home)
                if "bulk" in parts:
                    found |= bulk(cluster, home)
                if "overhead" in parts:
                    found |= overhead(cluster, home)
                if "million" in parts:
                    found |= million(cluster, home, args.images)
        if "namespaces" in parts:
            found |= namespaces(home)
        if "s3" in parts and args.s3rver:
            found |= object_store(home, args.s3rver)
        if "simulation" in parts:
            found |= simulation(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
