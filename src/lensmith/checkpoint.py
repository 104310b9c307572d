"""State of an unfinished training on disk: written beside the old one and swapped in whole, in safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from lensmith.errors import UserError
from lensmith.models.family import Model
from lensmith.models.lora import trainable
from lensmith.records import Rate, disk_error

if TYPE_CHECKING:
    from lensmith.training import Training


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes `folder`'s place when the block ends well, and goes when it doesn't.

    Raises:
        UserError: the disk is full or can't be written; the old folder is kept.
    """
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        new.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise disk_error(folder, error) from None
    except Exception as error:
        # safetensors reports a full disk as an error of its own, with the system's words in it.
        if "No space left" in str(error):
            raise disk_error(folder, OSError(28, "No space left on device")) from None
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save(folder: Path, model: Model, optimizer: torch.optim.Optimizer, state: Training) -> None:
    """Write a checkpoint."""
    tensors: dict[str, torch.Tensor] = {"rng.cpu": torch.get_rng_state()}
    if model.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(model.device)
    for name, weight in trainable(model).items():
        tensors[f"weight.{name}"] = weight.detach()
        for key, value in optimizer.state[weight].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    with replacing(folder) as new:
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, new / "state.safetensors")
        (new / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")


def load(folder: Path, model: Model, optimizer: torch.optim.Optimizer, state: Training) -> None:
    """Bring model, optimizer, random state and `state` back to where the checkpoint was.

    Raises:
        UserError: there is none, or it doesn't fit the recipe.
    """
    try:
        tensors = load_file(folder / "state.safetensors")
        read_state(folder / "state.json", state)
    except FileNotFoundError:
        raise UserError(
            f"There is no checkpoint in {folder.parent}.", "Start a new run with `lensmith train`."
        ) from None
    except Exception as error:
        raise UserError(f"The checkpoint in {folder} can't be read: {error}.", "Start a new run.") from error
    weights = trainable(model)
    if {key.removeprefix("weight.") for key in tensors if key.startswith("weight.")} != set(weights):
        raise UserError(f"The checkpoint in {folder} doesn't fit the recipe's tune options.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            prefix, suffix = "optimizer.", f".{name}"
            kept = {
                key[len(prefix) : -len(suffix)]: value
                for key, value in tensors.items()
                if key.startswith(prefix) and key.endswith(suffix)
            }
            # The step counter stays on the CPU, as AdamW keeps it.
            optimizer.state[weight] = {k: v if k == "step" else v.to(weight.device) for k, v in kept.items()}
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], model.device)


def read_state(path: Path, state: Training) -> Training:
    """`state`, with the values that were written to a file."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values["validation"] = Rate(**values["validation"]) if values["validation"] else None
    for key, value in values.items():
        setattr(state, key, value)
    return state


def remove(folder: Path) -> None:
    """Remove a checkpoint that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


def load_adapter_weights(folder: Path, model: Model) -> None:
    """Put a saved adapter's weights on the adapter that the model carries."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model.peft, load_file(folder / "adapter_model.safetensors"))
