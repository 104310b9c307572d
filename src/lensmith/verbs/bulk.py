"""`lensmith predict SOURCE --out FOLDER`: any number of images, into a dataset of answers that grows part by part."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data.source import count
from lensmith.errors import UserError
from lensmith.jobs.job import NOTE
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import write, write_json
from lensmith.runs.folder import adapter_folder, read_run
from lensmith.runs.shapes import JobNote, read_as
from lensmith.verbs import terminal

if TYPE_CHECKING:
    from lensmith.bulk.pool import Pool
    from lensmith.bulk.totals import Totals

SUMMARY, PAGE = "summary.json", "report.html"
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Bulk:
    """How a bulk prediction is done."""

    scores: bool = False
    """Also write each class's probability."""
    shard_images: int | None = None
    shard_bytes: int | None = None
    workers: int | None = None
    """Worker processes; None for one for each GPU, or one on the CPU."""
    metrics: int | None = None
    """Port of this machine on which Prometheus finds the progress."""


def size_of(text: str) -> int:
    """A number of bytes as it is typed: `500MB`, `2 GB`.

    Raises:
        UserError: it isn't one.
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?)b?\s*", text, re.IGNORECASE)
    try:
        number = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{text!r} isn't a size.", "Write it as 500MB or 2GB.")
    return number


def predict_many(
    recipe: Recipe,
    folder: Path | None = None,
    tell: Tell = silent,
    source: str = "",
    out: str = "",
    taught: str | None = None,
    labels: Sequence[str] = (),
    resume: bool = False,
    pool: Pool | None = None,
    hourly_cost: float | None = None,
    watch: Callable[[Totals], object] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Classify any number of images, in shards. Run again, it does what is still missing.

    Args:
        recipe: `data.max_pixels` and `ladder.hourly_cost` are used.
        folder: a run folder for the summary, beside the one in `out`; None for no such folder.
        source: a folder of images, a .txt file of addresses, Parquet files with images, tar archives, or
            `hub:OWNER/NAME`; on this machine or at `s3://`, `gs://` or `az://`.
        out: the folder of answers, on this machine or in an object store.
        taught: a run whose model answers; None asks the shipped one zero-shot among `labels`.
        resume: go on with the job of `folder`, wherever it ran. (Every other call goes on with what is there, too.)
        pool: the workers; None for processes on this machine.
        hourly_cost: of all workers together, in US dollars; None for `ladder.hourly_cost`.
        watch: called with the totals; None for what `metrics` asks for.
        options: the fields of `Bulk`.

    Returns:
        The summary, as in summary.json: `images`, `unreadable`, `classes`, `errors`, `confidence` (numbers by
        twentieth), `nodes`, `set_aside`, `complete`; and `out`, `report`.

    Raises:
        UserError: the model, the source or a storage can't be used; `out` has the answers of another run.
        KeyboardInterrupt: Ctrl-C; what is done is kept.
    """
    from lensmith.bulk.drive import KEPT, drive
    from lensmith.bulk.local import LocalPool
    from lensmith.bulk.plan import ROWS, Plan, make_plan, read_manifest, same_work
    from lensmith.bulk.pool import Model
    from lensmith.bulk.shard import Task
    from lensmith.bulk.storage import WAIT, Storage, whole
    from lensmith.pages.bulk import BulkData, render_bulk

    if resume and folder:
        given = read_as(folder / NOTE, JobNote).get("options", {})
        return predict_many(recipe, None, tell, **given)
    chosen, storage = Bulk(**options), Storage(out)
    model, identity = Model(taught, tuple(labels)), _identity(taught, labels)
    if manifest := read_manifest(storage):
        same_work(storage, manifest, identity, source, chosen.scores)
        if chosen.shard_images or chosen.shard_bytes:
            tell(Note("The shards stay as they were planned when this job began."))
    else:
        rows = chosen.shard_images or ROWS
        manifest = make_plan(storage, source, identity, chosen.scores, rows, chosen.shard_bytes, tell)
    task = Task(manifest["kind"], whole(out), chosen.scores, recipe.data.max_pixels, WAIT)
    cost = recipe.ladder.hourly_cost if hourly_cost is None else hourly_cost
    with ExitStack() as stack:
        watch = watch or _watcher(chosen.metrics, stack, tell)
        try:
            workers = pool or LocalPool(chosen.workers)
            totals = drive(storage, Plan(storage, manifest), workers, model, task, tell, cost, watch)
        except KeyboardInterrupt:
            tell(Note(KEPT))
            raise
    summary = totals.summary() | {"complete": not totals.set_aside, "source": manifest["source"], "run": identity}
    page = render_bulk(BulkData.of(summary, out, dict(manifest)))
    for name, content in ((SUMMARY, _json(summary)), (PAGE, page.encode())):
        storage.write(name, content)
    where = storage.path(PAGE) if storage.local else f"{out.rstrip('/')}/{PAGE}"
    record = summary | {"out": out, "report": where}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SUMMARY, record)
        write(folder / PAGE, page)
    return record


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    rows = [[name, f"{n:,}"] for name, n in list(record["classes"].items())[:20]]
    more = len(record["classes"]) - len(rows)
    lines = [f"and {more:,} more classes, in the summary"] if more > 0 else []
    lines.append(f"{record['images']:,} images, of which {record['unreadable']:,} can't be read.")
    lines += [f"  {count(n, 'time')}: {kind}" for kind, n in list(record["errors"].items())[:5]]
    if record["images_of_this_attempt"]:
        lines.append(f"{record['images_per_second']:,.1f} images/s.")
    if record["dollars"]:
        lines.append(f"About ${record['dollars']:.2f} for this attempt.")
    if given_up := record["set_aside"]:
        were = "were" if len(given_up) > 1 else "was"
        lines.append(f"Incomplete: {count(len(given_up), 'shard')} failed again and again, and {were} set aside:")
        lines += [f"  shard {shard}: {why}" for shard, why in list(given_up.items())[:5]]
        lines.append("Run the same command again to try them once more.")
    paths = [terminal.path_line("Answers", record["out"]), terminal.path_line("Report", record["report"])]
    return [terminal.Table(["class", "images"], rows), *lines, *paths]


def _identity(taught: str | None, labels: Sequence[str]) -> dict[str, Any]:
    """What decides on the answers: the weights of the model and what it was taught, as plain values."""
    from lensmith.models import find
    from lensmith.models.tuned_files import weights_digest
    from lensmith.records import TASK
    from lensmith.runs.shapes import Task

    if taught is None:
        return {"name": "zero-shot", "weights": weights_digest(find("nano")), "labels": list(labels)}
    read_run(Path(taught))
    path = adapter_folder(Path(taught)) / TASK
    if not path.exists():
        raise UserError(
            f"The run {taught} has no trained adapter.", "Use the run folder of a `lensmith train` or `lensmith probe`."
        )
    task = read_as(path, Task)
    digest = hashlib.sha256(weights_digest(find(task["base"]), taught).encode() + path.read_bytes())
    return {
        "name": Path(taught).resolve().name,
        "weights": digest.hexdigest()[:16],
        "labels": list(labels) or task["labels"],
    }


def _json(value: dict[str, Any]) -> bytes:
    import json

    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _watcher(port: int | None, stack: ExitStack, tell: Tell) -> Callable[[Totals], object]:
    """What is called with the totals: nothing, or what publishes them for Prometheus."""
    if port is None:
        return lambda _: None
    from lensmith.bulk.metrics import Published

    published = stack.enter_context(Published(port))
    tell(Note(f"Prometheus finds the progress at http://127.0.0.1:{published.port}/metrics."))
    return published.show
