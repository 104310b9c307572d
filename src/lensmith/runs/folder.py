"""Run folders: what they contain, how they are created, and how they are read.

A run folder contains recipe.yaml (all options), record.json (commit, versions, machine, data), predictions.parquet,
evaluation.json, calibration.json and report.html. A training adds metrics.jsonl (a line per step), adapter/ (the tuned
weights), training.json and result.json. An unfinished run has checkpoint/ or predictions.unfinished/.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lensmith.config import Recipe, flat, known_keys, load_recipe, written
from lensmith.errors import UserError
from lensmith.progress import Note, Tell, silent
from lensmith.records import TASK, Evaluation
from lensmith.runs.files import read_json, write, write_json
from lensmith.runs.lock import LOCK, claim, locked
from lensmith.runs.shapes import CalibrationFile, Record, Task, made, of_split, read_as

if TYPE_CHECKING:
    from lensmith.data import ImageDataset

PREDICTIONS, CALIBRATION, REPORT = "predictions.parquet", "calibration.json", "report.html"
ANYWHERE = {"name", "data.uri", "model.device", *(key for key in known_keys() if key.startswith(("modal.", "ray.")))}
"""Options that may change when a run is resumed: they affect where it runs and finds its images, but not what it
computes. The images must be the same (`same_data`)."""
ASKING = {"api.budget", "api.price", "api.concurrency", "api.timeout", "api.replay"}
"""Options that don't change what an outside model is asked."""
SAME_TRAINING = ANYWHERE | {
    *("train.micro_batch", "train.checkpoint_minutes", "train.tracker", "train.cache_features"),
    *("evaluate.batch_size", "evaluate.top", "evaluate.calibration", "evaluate.labels"),
}
"""Options that may change when a training is resumed: they don't affect the final weights."""


@dataclass(frozen=True)
class Run:
    """A run in progress: its folder, recipe and images, and the callback for progress."""

    folder: Path
    recipe: Recipe
    dataset: ImageDataset
    tell: Tell = silent
    lock: IO[str] | None = field(default=None, repr=False, compare=False)
    """Held as long as this object and its copies exist; see `lock`."""

    def inner(self, name: str, recipe: Recipe) -> Run:
        """A run on the same images, in a subfolder of this one's folder."""
        return replace(self, folder=self.folder / name, recipe=recipe)

    @property
    def begun(self) -> bool:
        """Whether the folder contains a run already."""
        return (self.folder / "record.json").exists()

    def ensure_started(self) -> bool:
        """Start the run, creating its folder, unless it has begun; returns whether it had begun."""
        if not (begun := self.begun):
            self.folder.mkdir(exist_ok=True)
            self.start()
        return begun

    def detail(self, text: str) -> None:
        """Tell a sentence that few need, and keep it in record.json."""
        path = self.folder / "record.json"
        record = read_json(path)
        if text not in record.setdefault("details", []):
            record["details"].append(text)
            write_json(path, record)
        self.tell(Note(text, detail=True))

    def start(self, split: str = "test", verb: str = "") -> None:
        """Write recipe.yaml (all options) and record.json: the provenance, the images, the split to score, and the verb
        that can resume the run, if any."""
        from lensmith.runs.provenance import provenance

        write(self.folder / "recipe.yaml", written(settled(self.recipe).to_dict()))
        data: dict[str, Any] = {
            "uri": self.dataset.uri,
            "labels": list(self.dataset.labels),
            "notes": list(self.dataset.notes),
        }
        data |= {s.name: {"n": len(s), "hash": s.hash, "order": s.order} for s in self.dataset.splits}
        write_json(self.folder / "record.json", provenance() | {"verb": verb, "split": split, "data": data})


def begin_run(
    folder: Path | None,
    recipe: Recipe,
    dataset: ImageDataset,
    verb: str,
    tell: Tell = silent,
    resume: bool = False,
    split: str = "test",
    free: Collection[str] = ANYWHERE,
) -> Run:
    """Begin a verb's run, or continue the one being resumed.

    Args:
        free: options that may have changed since the run was started.

    Raises:
        UserError: the folder exists already or can't be created; or the recipe or the images have changed.
    """
    folder, lock = (folder, locked(folder)) if resume and folder else claimed(folder, recipe, verb)
    run = Run(folder, recipe, dataset, tell, lock)
    if resume and run.begun:
        same_recipe(run.folder, read_run(run.folder), recipe, free)
        same_data(run.folder, dataset)
        same_threads(run.folder)
    else:
        run.start(split, verb)
    return run


class Taken(UserError):
    """A run folder exists already."""


def new_run_folder(folder: Path) -> Path:
    """Create a run folder. Of several processes, one succeeds; it holds the lock until `begin_run` takes it over.

    Raises:
        Taken: it exists and isn't empty.
        UserError: it can't be created, or another process has just done so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise _taken(folder) from None
    except OSError as error:
        raise UserError(f"The run folder {folder} can't be created: {error.strerror}.") from None
    if any(path.name != LOCK for path in folder.iterdir()):
        raise _taken(folder)
    claim(folder)
    if any(path.name != LOCK for path in folder.iterdir()):  # another process was faster, and has ended
        raise _taken(folder)
    return folder


def _taken(folder: Path) -> Taken:
    return Taken(
        f"The run folder {folder} exists already.",
        "Choose another with --run, resume an unfinished run with `lensmith resume FOLDER`, or remove it.",
    )


def claimed(folder: Path | None, recipe: Recipe, verb: str) -> tuple[Path, IO[str] | None]:
    """A new run folder and its lock: the one that the user named, or else one that no other process has.

    Raises:
        UserError: as `new_run_folder`.
    """
    while True:
        try:
            new = new_run_folder(folder or default_folder(recipe, verb))
            return new, locked(new)
        except Taken:
            if folder:
                raise


def default_folder(recipe: Recipe, verb: str) -> Path:
    """runs/NAME-VERB-TIME, or ...-2 and so on if there is one already."""
    name = f"{recipe.name}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}"
    folders = (Path("runs") / (name if k == 1 else f"{name}-{k}") for k in count(1))
    return next(folder for folder in folders if not folder.exists())


def same_data(folder: Path, dataset: ImageDataset) -> None:
    """Raises UserError if the images, their labels or their order have changed since the run was started."""
    then = read_as(folder / "record.json", Record)["data"]
    for split in dataset.splits:
        old = of_split(then, split.name)
        if any(old.get(key) != now for key, now in (("hash", split.hash), ("order", split.order))):
            raise UserError(
                f"The {split.name} images of {dataset.uri} have changed since the run {folder} was started: "
                f"{old['n']:,} then, {len(split):,} now.",
                "Restore them, or start a new run.",
            )


def same_threads(folder: Path) -> None:
    """Compute with as many threads as the run was started with, because the last digits of results depend on it.

    On a machine with a GPU they don't.
    """
    threads, torch = read_as(folder / "record.json", Record)["machine"].get("threads"), sys.modules.get("torch")
    if threads and torch and not torch.cuda.is_available():
        torch.set_num_threads(threads)


def same_recipe(folder: Path, then: Recipe, now: Recipe, free: Collection[str] = ANYWHERE) -> None:
    """Raises UserError naming the options that have changed since the run was started; those in `free` may change."""
    old, new = flat(settled(then)), flat(settled(now))
    changed = [
        f"{key} was {old[key]!r} and is now {new[key]!r}" for key in old if old[key] != new[key] and key not in free
    ]
    if changed:
        raise UserError(
            f"The run {folder} was started with another recipe: {'; '.join(changed)}.",
            "Change it back, or start a new run.",
        )


def settled(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that its run can be used from another folder."""

    def place(path: str | None) -> str | None:
        if path is None:
            return None
        scheme, colon, inner = path.partition(":")
        if not os.path.exists(os.path.expanduser(path)) and colon and len(scheme) > 1:
            return f"{scheme}:{place(inner)}" if inner and os.path.exists(os.path.expanduser(inner)) else path
        return os.path.abspath(os.path.expanduser(path)) if os.path.exists(os.path.expanduser(path)) else path

    data, model = recipe.data, recipe.model
    values = {name: getattr(data, name) for name in ("uri", "images", "corrections", "more", "unlabelled")}
    paths: dict[str, Any] = {n: list(map(place, v)) if isinstance(v, list) else place(v) for n, v in values.items()}
    base = place(model.base) if os.path.isdir(os.path.expanduser(model.base)) and model.base != "nano" else model.base
    return replace(
        recipe,
        data=replace(data, **paths),
        model=replace(model, base=str(base), adapter=place(model.adapter)),
    )


def same_training(recipe: Recipe) -> set[str]:
    """`SAME_TRAINING` for a recipe: with dropout, results also depend on the micro-batch."""
    return SAME_TRAINING - ({"train.micro_batch"} if recipe.tune.dropout else set())


def verb_of(folder: Path) -> str:
    """The verb that started a run, and that can resume it.

    Raises:
        UserError: it is not a run folder, or belongs to a larger run.
    """
    read_run(folder)
    # A remote job may not have started yet. Then there is no record, only the note of where it runs.
    records = (folder / name for name in ("record.json", "place.json"))
    verb = next((name for path in records if path.exists() and (name := read_json(path).get("verb"))), "")
    if not verb and not (folder / "record.json").exists():
        raise UserError(f"The run {folder} was stopped before it began.", "Remove the folder, and start the run again.")
    if not verb:
        raise UserError(f"The run {folder} can't be resumed by itself.", "Resume the run that contains it.")
    return str(verb)


def unfinished(folder: Path, record: str) -> Recipe:
    """The recipe of a run to resume; `record` is the file that only a finished run has.

    Raises:
        UserError: it is not a run folder, or it is finished.
    """
    recipe = read_run(folder)
    if is_finished(folder, record):
        raise UserError(f"The run {folder} is finished: there is nothing to resume.")
    return recipe


def is_finished(folder: Path, record: str) -> bool:
    """Whether a run is finished: its record is there, and its page, unless the record says that it has none."""
    path = folder / record
    return path.exists() and ((folder / REPORT).exists() or ("report", None) in read_json(path).items())


def require_one_process(verb: str) -> None:
    """Raises UserError under torchrun: only training supports several processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        hint = (
            "To add a worker to a sweep, use: lensmith resume RUN" if verb == "sweep" else "Start it without torchrun."
        )
        raise UserError(f"`lensmith {verb}` runs in one process, but torchrun started several.", hint)


def recipe_for(source: str | None, overrides: Sequence[str], base: Recipe | None = None) -> Recipe:
    """The recipe of a file, a shipped name or a run folder (with the run's adapter); without a source, `base`."""
    if source and Path(source).is_dir():
        recipe = read_run(Path(source))
        recipe.model.adapter = source if (Path(source) / "adapter").is_dir() else None
        return load_recipe(None, overrides, base=recipe)
    return load_recipe(source, overrides, base)


def name_of(adapter: str | None) -> str:
    """The name of a classifier: `zero-shot`, or the name stored beside its weights, such as `tuned` or `probe`."""
    if not adapter:
        return "zero-shot"
    folder = adapter_folder(Path(adapter))
    return read_as(folder / TASK, Task).get("name", "tuned") if (folder / TASK).exists() else "tuned"


def taught_labels(adapter: str | None) -> list[str]:
    """The classes that a run was taught; empty for the base model and for an adapter from elsewhere."""
    folder = adapter_folder(Path(adapter)) if adapter else Path()
    if not adapter or not (folder / TASK).exists():
        return []
    return read_as(folder / TASK, Task)["labels"]


def adapter_folder(folder: Path) -> Path:
    """Where an adapter's files are: inside a run folder, or in the folder itself if that is an adapter's."""
    inner = folder / "adapter"
    return inner if inner.is_dir() else folder


def keep_calibration(folder: Path) -> None:
    """Store a run's calibration beside its adapter, so that `lensmith predict` applies it."""
    task = folder / "adapter" / TASK
    calibration = read_as(folder / CALIBRATION, CalibrationFile)["calibration"]
    write_json(task, read_json(task) | {"calibration": calibration})


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder."""
    return (folder / "recipe.yaml").exists()


def read_run(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        UserError: it isn't one.
    """
    if not is_run(folder):
        raise UserError(f"{folder} is not a run folder: it has no recipe.yaml.")
    return load_recipe(folder / "recipe.yaml", quiet=True)


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation of a finished run.

    Raises:
        UserError: the run isn't finished, or its evaluation.json is damaged.
    """
    if (folder / "predictions.unfinished").exists():
        raise UserError(f"The run {folder} isn't finished.", f"Resume it with: lensmith resume {folder}")
    values = read_json(folder / "evaluation.json")
    for row in [*(values.get("reliability") or []), *(values.get("coverage") or [])]:
        if isinstance(row, dict) and "share" in row:  # its name before version 0.2
            row["confidence"] = row.pop("share")
    return made(folder / "evaluation.json", values, Evaluation)
