"""`lensmith fetch`: download weights and data to a folder, for machines without network access.

A plan is shown first: the files, their size and their licence. Then the files are downloaded one after the other, each
under a temporary name until it is complete and its hash matches (`hub.download`). So a stop or a broken connection
loses nothing: the same command resumes the download.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lensmith.config import SHIPPED, load_recipe
from lensmith.errors import UserError, nearest
from lensmith.hub.download import File, begun, fits, load
from lensmith.progress import Note, Tell, counter, silent, size
from lensmith.verbs import terminal

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo

EXAMPLES = ("lensmith fetch LiquidAI/LFM2-VL-450M cifar100 --to assets",)
CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz"
CIFAR = {
    "cifar10": ("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
    "cifar100": ("cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
}
"""The published archives: file name, size in bytes, MD5."""

NO_LICENCE = "no stated licence"
DATA_FILES = ["*.parquet", "README.md", "LICENSE*"]
CONVERTED = "refs/convert/parquet"
"""The revision in which the hub keeps its own Parquet version of a dataset in another format."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    names = "owner/name (a model), hub:owner/name (a dataset), cifar10, cifar100, or a recipe"
    parser.add_argument("names", nargs="+", metavar="NAME", help=names)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="folder to download to")
    parser.add_argument("--yes", action="store_true", help="don't ask for confirmation before downloading")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    # Without a terminal, the caller is a script, which can't be asked.
    record = fetch(args.names, args.to, screen, None if args.yes or not sys.stdin.isatty() else screen.agree)
    options = [item["option"] for item in record["fetched"]]
    if not args.json:
        screen(Note(terminal.next_line("evaluate", *options)))  # standard output has only the options
    return terminal.Output(record, options)


@dataclass(frozen=True)
class Plan:
    """The download for one name: a model or dataset of the hub, or one of CIFAR's archives."""

    kind: str
    name: str
    source: str
    licence: str
    folder: Path
    option: str
    files: tuple[File, ...]
    notes: tuple[str, ...] = ()

    def target(self, file: File) -> Path:
        """The final path of a file."""
        return self.folder / file.path

    def present(self, file: File) -> bool:
        """Whether a file of this name and size exists; its hash is checked later."""
        return self.target(file).is_file() and self.target(file).stat().st_size == file.size

    @property
    def missing(self) -> int:
        """Bytes still to download."""
        return sum(file.size - begun(file, self.target(file)) for file in self.files if not self.present(file))

    def text(self) -> str:
        """The plan as shown to the user before the download."""
        existing = sum(map(self.present, self.files))
        other = [f.path for f in self.files if not self.present(f) and self.target(f).exists()]
        amount = f"{_count(len(self.files))}, {size(sum(file.size for file in self.files))}"
        if not self.missing:
            amount += "; all already present, hashes are checked now"
        elif existing or self.missing < sum(file.size for file in self.files):
            amount += f"; {_count(existing)} already present, {size(self.missing)} to download"
        lines = [f"The {self.kind} {self.name}", f"  from     {self.source}", f"  licence  {self.licence}"]
        lines += [f"  size     {amount}", f"  to       {self.folder}"]
        lines += [f"  replaces {', '.join(other)} (different size)"] if other else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def fetch(
    names: Sequence[str], to: Path | str, tell: Tell = silent, agree: Callable[[], object] | None = None
) -> dict[str, Any]:
    """Download models and data to a folder, and verify their published hashes.

    Args:
        names: models of the hub (`owner/name`), its datasets (`hub:owner/name`), `cifar10`, `cifar100`, or recipes,
            which stand for their model and data.
        agree: called after the plan has been shown, if there is anything to download; raises to stop.

    Returns:
        `fetched`: for each item its `name`, `kind`, `source`, `licence`, `folder`, `option` (as written in a recipe),
        `files`, `bytes` and `loaded` (bytes downloaded now).

    Raises:
        UserError: a name can't be fetched, or the hub refuses it; there is no network, or the connection breaks; the
            disk has too little space; a file doesn't match its hash (it is removed).
    """
    folder = Path(to).expanduser()
    targets = list(dict.fromkeys(target for name in names for target in _targets(name)))
    plans = [_cifar(name, folder) if kind == "cifar" else _hub(kind, name, folder) for kind, name in targets]
    for plan in plans:
        if twin := next((p for p in plans if p.option == plan.option and p is not plan), None):
            raise UserError(
                f"{plan.name} and {twin.name} would both go to {plan.folder}.", "Fetch them to different folders."
            )
        tell(Note(plan.text()))
    missing = sum(plan.missing for plan in plans)
    _require_space(folder, missing)
    if missing and agree:
        agree()
    loaded = [plan.missing for plan in plans]
    try:
        for plan in plans:
            _download(plan, tell)
    except KeyboardInterrupt:
        tell(Note("Downloaded data is kept. Run the same command again to resume."))
        raise
    return {
        "fetched": [
            {
                "name": plan.name,
                "kind": plan.kind,
                "source": plan.source,
                "licence": plan.licence,
                "folder": str(plan.folder),
                "option": plan.option,
                "files": len(plan.files),
                "bytes": sum(file.size for file in plan.files),
                "loaded": new,
            }
            for plan, new in zip(plans, loaded, strict=True)
        ]
    }


def _targets(name: str) -> list[tuple[str, str]]:
    """What a name stands for, as pairs of kind and name. Raises `UserError` if there is nothing to fetch."""
    path = Path(name).expanduser()
    if (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml") or (SHIPPED / f"{name}.yaml").is_file():
        recipe = load_recipe(str(path))
        targets = [*_model(recipe.model.base), *_data(recipe.data.uri)]
        if not targets:
            raise UserError(
                f"There is nothing to fetch for the recipe {name}: its model is {recipe.model.base}, its data "
                f"{recipe.data.uri}.",
                "Models and data that are shipped with Lensmith or already on this machine need no download.",
            )
        return targets
    if name == "nano" or name.startswith("demo:"):
        raise UserError(f"{name} is shipped with Lensmith: there is nothing to fetch.")
    if name in CIFAR:
        return [("cifar", name)]
    if os.path.exists(path) or (name.startswith("hub:") and os.path.exists(os.path.expanduser(name[4:]))):
        raise UserError(f"{name} is on this machine already: there is nothing to fetch.")
    if targets := [*_data(name), *_model(name)]:
        return targets
    raise UserError(
        f"{name!r} can't be fetched.",
        f"{nearest(name, CIFAR)} Name a model (owner/name), a dataset (hub:owner/name, cifar10, cifar100), or a "
        "recipe.".strip(),
    )


def _model(base: str) -> list[tuple[str, str]]:
    from lensmith.models import on_hub

    return [("model", base)] if on_hub(base) and re.fullmatch(r"[\w.-]+/[\w.-]+", base) else []


def _data(uri: str) -> list[tuple[str, str]]:
    scheme, _, rest = uri.partition(":")
    if scheme == "hub" and rest and not os.path.exists(os.path.expanduser(rest)):
        return [("dataset", rest)]
    path = rest if scheme == "cifar" else uri
    if not os.path.exists(os.path.expanduser(path)):
        return [("cifar", name) for name, (file, _, _) in CIFAR.items() if PurePosixPath(path).name == file]
    return []


def _cifar(name: str, to: Path) -> Plan:
    file, length, digest = CIFAR[name]
    url = f"{CIFAR_PAGE}/{file}"
    files = (File(file, length, url, "md5", digest, hub=False),)
    return Plan("dataset", name, url, NO_LICENCE, to, f"data.uri=cifar:{to / file}", files)


def _hub(kind: str, name: str, to: Path) -> Plan:
    """The plan for a model or dataset of the hub, from the hub's list of files."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import RevisionNotFoundError
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # public by its documentation

    from lensmith.hub.errors import explain
    from lensmith.models import FILES

    api, notes = HfApi(), []
    try:
        about = api.model_info if kind == "model" else api.dataset_info
        info: ModelInfo | DatasetInfo = about(name, files_metadata=True)
        if getattr(info, "gated", False):
            api.auth_check(name, repo_type=kind)  # its list of files is public, but the files aren't
        siblings, revision = info.siblings or [], info.sha
        if kind == "dataset" and not any(s.rfilename.endswith(".parquet") for s in siblings):
            with suppress(RevisionNotFoundError):
                other = api.dataset_info(name, revision=CONVERTED, files_metadata=True)
                siblings, revision = other.siblings or [], other.sha
                notes.append("It is stored in another format; this is the hub's own Parquet version.")
    # The client also passes on errors of its HTTP library and of its native code.
    except Exception as error:
        raise explain(error, name, kind) from error
    patterns = [*FILES, "LICENSE*"] if kind == "model" else DATA_FILES
    chosen = list(filter_repo_objects(siblings, allow_patterns=patterns, key=lambda s: s.rfilename))
    _require_usable(kind, name, [s.rfilename for s in chosen])
    files = []
    for s in chosen:
        if s.size is None or not (s.lfs or s.blob_id) or not _safe(s.rfilename):
            raise UserError(
                f"The hub lists the file {s.rfilename} of {name} without size or hash, or with an unsafe name."
            )
        url = hf_hub_url(name, s.rfilename, repo_type=kind, revision=revision, endpoint=api.endpoint)
        method, digest = ("sha256", s.lfs.sha256) if s.lfs else ("git", str(s.blob_id))
        files.append(File(s.rfilename, s.size, url, method, digest))
    if kind == "dataset" and len(several := _dataset_folders(files)) > 1:
        notes.append(
            f"It contains several datasets, one per folder: {', '.join(several)}. Use the folder of one of them."
        )
    page = f"{api.endpoint}/{'' if kind == 'model' else 'datasets/'}{name}"
    folder = to / name.rpartition("/")[2]
    option = f"model.base={folder}" if kind == "model" else f"data.uri=hub:{folder}"
    licence = _licence(info, page)
    files.sort(key=lambda file: file.size)  # small files are complete even if the download is interrupted
    return Plan(kind, name, f"{page}, revision {revision}", licence, folder, option, tuple(files), tuple(notes))


def _require_usable(kind: str, name: str, files: list[str]) -> None:
    if kind == "dataset" and not any(file.endswith(".parquet") for file in files):
        raise UserError(f"The dataset {name} has no Parquet files.", "Lensmith reads no other format from the hub.")
    if kind == "model" and "config.json" not in files:
        raise UserError(f"{name} isn't a model that Lensmith can load: it has no config.json.")
    if kind == "model" and not any(file.endswith(".safetensors") for file in files):
        raise UserError(
            f"The model {name} has no weights in safetensors.",
            "Other formats use pickle and could execute arbitrary code, so Lensmith doesn't load them.",
        )


def _safe(path: str) -> bool:
    """Whether a file name from the hub stays inside the folder."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and not set(path) & {"\\", ":", "\0"}


def _dataset_folders(files: Sequence[File]) -> list[str]:
    """The folders with Parquet files, without path components that name a split (`default/train/0000.parquet`)."""
    from lensmith.data.splitting.names import split_name

    folders = (PurePosixPath(file.path).parent.parts for file in files if file.path.endswith(".parquet"))
    return sorted({"/".join(name for name in names if not split_name(name)) for names in folders})


def _licence(info: ModelInfo | DatasetInfo, page: str) -> str:
    """The licence in the card's metadata: its name and, if given, the address of its text."""
    card: Any = info.card_data or {}
    licence = card.get("license_name") or card.get("license") or NO_LICENCE
    link = card.get("license_link")
    if link and "://" not in link:
        link = f"{page}/blob/main/{link}"
    name = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return f"{name} ({link})" if link else name


def _require_space(folder: Path, needed: int) -> None:
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"The download needs {size(needed)}, but the disk of {folder} has only {size(free)} free.",
            "Free some space, or choose a folder on another disk with --to.",
        )


def _download(plan: Plan, tell: Tell) -> None:
    """Download missing files and verify all. Raises `UserError` naming the files whose hash doesn't match."""
    progress, done, mismatched = counter(f"fetching {plan.name}", plan.missing, tell, "bytes"), 0, []
    for file in plan.files:
        target = plan.target(file)
        if plan.present(file):
            if not fits(file, target):
                target.unlink()
                mismatched.append(file.path)
            continue
        before = done - begun(file, target)
        try:
            complete = load(file, target, lambda at, before=before: progress(before + at))  # type: ignore[misc]
        except UserError:
            raise
        # The client also passes on errors of its HTTP library and of its native code.
        except Exception as error:
            raise _refused(error, plan) from error
        mismatched += [] if complete else [file.path]
        done = before + file.size
    if mismatched:
        raise UserError(
            f"Files of {plan.name} don't match their published hashes and were removed: {', '.join(mismatched)}.",
            "Run the same command again to download them anew.",
        )
    tell(Note(f"{plan.name}: {_count(len(plan.files))} in {plan.folder}, all hashes match the published ones."))


def _refused(error: Exception, plan: Plan) -> UserError:
    from lensmith.hub.errors import explain, unreachable

    if plan.files[0].hub:
        return explain(error, plan.name, plan.kind)
    if response := getattr(error, "response", None):
        return UserError(f"{plan.source} responded with HTTP {response.status_code}.", "Try again later.")
    host = plan.source.split("/")[2]
    return unreachable(
        host, f"the archive of {plan.name}", plan.name, plan.option.replace(str(plan.folder), "FOLDER"), error
    )


def _count(number: int) -> str:
    return f"{number:,} {'file' if number == 1 else 'files'}"
