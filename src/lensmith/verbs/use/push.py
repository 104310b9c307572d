"""`lensmith push`: put a taught model, or an export of it, onto the Hugging Face hub, with a card made from its run."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import UserError
from lensmith.progress import Note, Tell, silent, size, working
from lensmith.records import TASK
from lensmith.runs.files import read_json, write, write_json
from lensmith.runs.folder import REPORT
from lensmith.verbs import terminal
from lensmith.verbs.use.export import ABOUT, UNPROVEN

if TYPE_CHECKING:
    from lensmith.export.original import Original

EXAMPLES = (
    "lensmith push runs/mine me/my-classes",
    "lensmith push runs/mine/export/onnx me/my-classes-onnx",
)
BASE = {"base", "base_model_name_or_path"}
"""Keys under which Lensmith and PEFT name the base model."""
KEPT_HERE = {REPORT, ABOUT, "proof.json"}
"""Files of an export that stay on this machine: they show test images, or name folders."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN|EXPORT", help="a run folder, or what `lensmith export` wrote")
    parser.add_argument("name", metavar="OWNER/NAME", help="the repository on the hub; it is created if there is none")
    parser.add_argument("--public", action="store_true", help="let everyone see it (default: only you)")
    parser.add_argument("--yes", action="store_true", help="don't ask for confirmation before sending")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    record = push(args.folder, args.name, args.public, args.yes, screen)
    return terminal.Output(record, [f"{len(record['files'])} files sent.", terminal.path_line("Model", record["url"])])


def push(folder: Path, name: str, public: bool = False, yes: bool = False, tell: Tell = silent) -> dict[str, Any]:
    """Send a taught model, or an export of it, to the hub: weights, classes, question and a model card, but no image.

    The token is that of `hf auth login`, or the environment variable HF_TOKEN.

    Args:
        public: let everyone see the repository; otherwise it is created as a private one.
        yes: don't ask before sending.

    Returns:
        `name`, `url`, `files`, `bytes`, `private`.

    Raises:
        UserError: the folder holds nothing to send or an export that isn't proven, nobody can be asked, the repository
            is public and `public` isn't set, or the hub refuses.
        KeyboardInterrupt: the user doesn't agree.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    from lensmith.hub.errors import explain, is_network

    with tempfile.TemporaryDirectory(prefix="lensmith-push-") as temporary:
        ready = Path(temporary)
        _gather(folder, ready)
        files = sorted(str(path.relative_to(ready)) for path in ready.rglob("*") if path.is_file())
        total, api = sum((ready / file).stat().st_size for file in files), HfApi()
        try:
            try:
                existing = api.repo_info(name)
            except RepositoryNotFoundError:
                existing = None
            private = bool(existing.private) if existing else not public
            if not private and not public:
                raise UserError(
                    f"{name} exists on the hub and is public: everyone would see the model.",
                    "Add --public if that is wanted, or choose another name.",
                )
            _ask(name, files, total, private, existing is not None, tell, yes)
            api.create_repo(name, private=private, exist_ok=True)
            with working(f"sending to {name}", tell):
                api.upload_folder(repo_id=name, folder_path=ready, commit_message="Sent by Lensmith")
        except UserError:
            raise
        except Exception as error:
            if is_network(error) or isinstance(error, ConnectionError):
                where = "Try again where there is a network."
                raise UserError(f"The hub can't be reached, so nothing was sent to {name}.", where) from error
            raise explain(error, name) from error
        return {"name": name, "url": f"{api.endpoint}/{name}", "files": files, "bytes": total, "private": private}


def _ask(name: str, files: list[str], total: int, private: bool, exists: bool, tell: Tell, yes: bool) -> None:
    seen = "only you and those you allow can see it" if private else "everyone can see it"
    what = "exists, and files of the same names are replaced" if exists else "is created"
    tell(Note(f"{len(files)} files, {size(total)}: {', '.join(files)}."))
    tell(Note(f"They go to {name} on the hub, which {what}; {seen}. No image is sent; the names of the classes are."))
    if not yes:
        terminal.ask(tell, f"Nothing was sent to {name}.")


def _gather(folder: Path, ready: Path) -> None:
    """Copy what is sent into the folder `ready`: without images, and without the names of folders on this machine."""
    from lensmith.export.card import model_card
    from lensmith.export.original import open_original

    if (folder / UNPROVEN).exists():
        raise UserError(
            f"The export {folder} isn't proven: {(folder / UNPROVEN).read_text(encoding='utf-8').strip()}",
            "Export it again, until it is proven.",
        )
    if (folder / ABOUT).exists():
        about = read_json(folder / ABOUT)
        for path in folder.iterdir():
            if path.name not in KEPT_HERE:
                shutil.copyfile(path, ready / path.name)
        original = open_original(Path(about["run"]))
        if not (ready / "README.md").exists():
            use = f"The format is {about['format']} ({about['numbers']}). See the programs beside this card."
            write(ready / "README.md", model_card(original, use))
        return
    original = open_original(folder)
    _gather_run(folder, ready, original)
    write(ready / "README.md", model_card(original, USE))


def _gather_run(folder: Path, ready: Path, original: Original) -> None:
    """A run folder that `lensmith predict` and `lensmith export` take, without its data."""
    from lensmith.config import DataOptions, written

    shutil.copytree(folder / "adapter", ready / "adapter")
    recipe = original.recipe
    data = DataOptions(max_pixels=recipe.data.max_pixels)
    model = replace(recipe.model, base=original.public_base, adapter=None)
    write(ready / "recipe.yaml", written(replace(recipe, data=data, model=model).to_dict()))
    _anonymous(ready, original)


def _anonymous(ready: Path, original: Original) -> None:
    """Replace the path of the base model, if it is a folder here, in the files that name it."""
    for path in (path for name in (TASK, "adapter_config.json") for path in (ready / "adapter").rglob(name)):
        values = read_json(path)
        write_json(path, {key: original.public_base if key in BASE else value for key, value in values.items()})


USE = """```sh
hf download THIS-REPOSITORY --local-dir mine
lensmith predict mine new-images
lensmith export mine --to onnx
```

With PEFT: `PeftModel.from_pretrained(base, "THIS-REPOSITORY", subfolder="adapter")`, if it was taught by LoRA."""
