"""Models: `load` picks the module of a model family by the checkpoint's `model_type`.

A new family is one module in `families/`, named after its `model_type`, with a class `Model` that derives from
`base.Model`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import ModelOptions
from lensmith.config.api import OUTSIDE
from lensmith.errors import UserError

if TYPE_CHECKING:
    from lensmith.models.base import Model
    from lensmith.models.tuning import Tuned

NANO = Path(__file__).parent / "nano"
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""The files needed to load a model from the hub. Pickle files are excluded."""


def known_families() -> list[str]:
    """The model types that can be loaded: the modules of `families/`."""
    from lensmith.models import families

    return [module.name for module in pkgutil.iter_modules(families.__path__)]


def load(options: ModelOptions, model: Model | None = None) -> Tuned:
    """Load the base model, and its adapter if the options name one.

    Args:
        model: the base model, if it is loaded already.

    Raises:
        UserError: the folder or name doesn't exist, isn't a model, is damaged, or is of an unknown family.
    """
    from lensmith.models.blends import is_blend, load_parts
    from lensmith.models.tuned_files import load_tuned
    from lensmith.models.tuning import Tuned

    model, adapter = model or load_base(options), Path(options.adapter) if options.adapter else None
    if adapter and is_blend(adapter):
        return Tuned(model, parts=load_parts(model, adapter))
    return Tuned(model, load_tuned(model, adapter) if adapter else None)


def load_base(options: ModelOptions) -> Model:
    """Load the base model alone, even if the options name an adapter. Raises UserError as `load` does."""
    from lensmith.models.memory import out_of_memory

    if OUTSIDE.fullmatch(options.base):
        raise UserError(
            f"{options.base} is an outside model, which can only be asked.",
            "Ask it with `lensmith evaluate` or `lensmith label`, and teach another: leave model.base out.",
        )
    folder = find(options.base)
    config = read_config(folder, options.base)
    family = str(config.get("model_type", "")).replace("-", "_")
    if family not in known_families():
        raise UserError(
            f"{options.base} is a model of type {config.get('model_type')!r}, which Lensmith does not know.",
            f"Known types: {', '.join(known_families())}.",
        )
    try:
        module = importlib.import_module(f"lensmith.models.families.{family}")
    except ImportError as error:
        import transformers

        raise UserError(
            f"{options.base} is a model of type {family}, which transformers {transformers.__version__} does not have.",
            "pip install --upgrade transformers",
        ) from error
    try:
        model: Model = module.Model.from_folder(folder, options)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if out_of_memory(error):
            raise UserError(f"There is not enough memory for {options.base}.", "Use a smaller model.") from error
        raise UserError(
            f"The image settings of {options.base} can't be used: {type(error).__name__}: {error}.",
            "See preprocessor_config.json in its folder, or fetch the model again.",
        ) from error
    return model


def find(base: str) -> Path:
    """The folder of a base model: `nano`, a folder, or a snapshot of a model on the hub.

    Raises:
        UserError: the folder doesn't exist, or the hub doesn't provide the model (see `hub.errors`).
    """
    if base == "nano":
        return NANO
    if not on_hub(base):
        folder = Path(base).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"There is no model folder {base}.",
                "Give `nano`, a folder, or a model's name on the hub (owner/name): model.base=...",
            )
        return folder
    from huggingface_hub import snapshot_download

    from lensmith.hub.errors import explain

    try:
        return Path(snapshot_download(base, allow_patterns=FILES))
    # The client also raises errors of its HTTP library and of its Rust extension.
    except Exception as error:
        raise explain(error, base) from error


def on_hub(base: str) -> bool:
    """Whether a base model's name is a name on the hub, not a folder."""
    return not (Path(base).exists() or base.startswith((".", "/", "~")) or base.count("/") != 1)


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Read config.json of a model folder.

    Raises:
        UserError: it doesn't exist or can't be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        adapter = (folder / "adapter_config.json").exists() or (folder / "adapter").is_dir()
        hint = (
            "It holds an adapter. Set model.adapter to it instead."
            if adapter
            else "Give a folder saved by transformers."
        )
        raise UserError(f"{name} isn't a model: it has no config.json.", hint) from None
    except (OSError, ValueError) as error:
        raise UserError(f"The config.json of the model {name} can't be read: {error}.") from None
    if not isinstance(config, dict):
        raise UserError(f"The config.json of the model {name} holds no settings.")
    return config
