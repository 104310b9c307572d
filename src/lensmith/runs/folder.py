"""A run folder: what it holds, how it begins, and reading it back.

It holds recipe.yaml (resolved), record.json (commit, versions, machine, data), predictions.parquet, evaluation.json,
calibration.json and report.html; of a training also metrics.jsonl (a line per step), adapter/ (what was tuned),
training.json and result.json; while unfinished, checkpoint/ or predictions.unfinished/.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe, load_recipe
from lensmith.errors import UserError
from lensmith.records import Evaluation
from lensmith.runs.files import read_json, write, write_json

if TYPE_CHECKING:
    from lensmith.data import ImageDataset

PREDICTIONS = "predictions.parquet"


def new_run_folder(folder: Path) -> Path:
    """Create a run folder.

    Raises:
        UserError: it exists and holds something, or can't be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"The run folder {folder} exists already.",
            "Choose another with --run, go on with an unfinished one by `lensmith VERB --resume FOLDER`, or remove it.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The run folder {folder} can't be created: {error.strerror}.") from None
    return folder


def default_folder(recipe: Recipe, verb: str) -> Path:
    """runs/NAME-VERB-TIME."""
    return Path("runs") / f"{recipe.name}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}"


def start_run(folder: Path, recipe: Recipe, dataset: ImageDataset, split: str = "test", verb: str = "") -> None:
    """What a run folder holds from its first moment: the resolved recipe, where it comes from, and what is scored; and
    the verb that it is resumed by, if any."""
    import yaml

    write(folder / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))
    parts = {
        s.name: {"n": len(s), "hash": s.hash, "order": s.order}
        for s in (dataset.train, dataset.validation, dataset.test)
    }
    data = {"uri": dataset.uri, "labels": list(dataset.labels), "notes": list(dataset.notes)} | parts
    write_json(folder / "record.json", provenance() | {"verb": verb, "split": split, "data": data})


def begin_run(folder: Path | None, recipe: Recipe, dataset: ImageDataset, verb: str, resume: bool) -> Path:
    """A verb's run folder: a new one, or the one that is gone on with.

    Raises:
        UserError: it exists already, can't be created, or was begun with other images.
    """
    folder = folder or default_folder(recipe, verb)
    if resume and (folder / "record.json").exists():
        same_data(folder, dataset)
    else:
        start_run(folder if resume else new_run_folder(folder), recipe, dataset, verb=verb)
    return folder


def same_data(folder: Path, dataset: ImageDataset) -> None:
    """Raises UserError if a run was begun with other images or labels than these, or in another order."""
    then = read_json(folder / "record.json")["data"]
    for part in (dataset.train, dataset.validation, dataset.test):
        if any(then[part.name].get(key) != now for key, now in (("hash", part.hash), ("order", part.order))):
            raise UserError(
                f"The {part.name} images of {dataset.uri} have changed since the run {folder} was begun: "
                f"{then[part.name]['n']:,} then, {len(part):,} now.",
                "Bring them back, or start a new run.",
            )


def resumed(folder: Path, verb: str, record: str) -> Recipe:
    """The recipe of a run that a verb is to go on with.

    Args:
        record: the file that stands in the folder when it is finished.

    Raises:
        UserError: it is no run, one of another verb, or finished.
    """
    recipe, path = read_run(folder), folder / "record.json"
    kind = read_json(path).get("verb") if path.exists() else None
    if kind and kind != verb:
        raise UserError(f"The run {folder} was begun by `lensmith {kind}`.", f"lensmith {kind} --resume {folder}")
    if (folder / record).exists():
        raise UserError(f"The run {folder} is finished: there is nothing to resume.")
    return recipe


def require_one_process(verb: str) -> None:
    """Raises UserError under torchrun: only a training takes several processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        hint = "Several workers share a sweep: lensmith sweep --resume RUN" if verb == "sweep" else "Start it without."
        raise UserError(f"`lensmith {verb}` runs in one process, and torchrun has started several.", hint)


def read_run(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        UserError: it isn't one.
    """
    if not (folder / "recipe.yaml").exists():
        raise UserError(f"{folder} is not a run folder: it has no recipe.yaml.")
    return load_recipe(folder / "recipe.yaml")


def read_evaluation(folder: Path) -> Evaluation:
    """The figures of a finished run.

    Raises:
        UserError: the run isn't finished, or its evaluation.json is damaged.
    """
    from pydantic import TypeAdapter, ValidationError

    if (folder / "predictions.unfinished").exists():
        raise UserError(f"The run {folder} isn't finished.", f"Go on with: lensmith evaluate --resume {folder}")
    values = read_json(folder / "evaluation.json")
    for row in [*values.get("reliability", []), *values.get("coverage", [])]:
        if "share" in row:  # its name before version 0.2
            row["confidence"] = row.pop("share")
    try:
        return TypeAdapter(Evaluation).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder / 'evaluation.json'} is damaged, or of another version: {where}: {first['msg']}.",
            "Make the run again.",
        ) from None


def provenance() -> dict[str, Any]:
    """Commit, versions and machine: what is needed to say which program made a figure."""
    packages = {}
    for name in ("lensmith", "torch", "transformers", "peft", "datasets", "pillow"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parents[3]
    commit = _git(here, "rev-parse", "HEAD") if (here / ".git").exists() else ""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit or None,
        "dirty": bool(_git(here, "status", "--porcelain")) if commit else None,
        "python": platform.python_version(),
        "packages": packages,
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
    }


def facts(folder: Path) -> list[tuple[str, str]]:
    """Where a run's figures come from, for a report."""
    record, recipe = read_json(folder / "record.json"), read_run(folder)
    data, machine = record["data"], record["machine"]
    part = data[record["split"]]
    return [
        ("Data", f"{data['uri']}, {part['n']:,} {record['split']} images, hash {part['hash']}"),
        ("Training images", f"{data['train']['n']:,}"),
        ("Validation images", f"{data['validation']['n']:,}"),
        ("Base model", recipe.model.base),
        ("Seed", str(recipe.seed)),
        ("Commit", f"{record['commit'] or 'unknown'}{' (changed since)' if record['dirty'] else ''}"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in record["packages"].items())),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("Made", record["created"]),
    ]


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
