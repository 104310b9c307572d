"""State of an unfinished training on disk, so that it survives being killed at any moment.

Each checkpoint is a folder of its own, written under another name and renamed when it is whole; the one before is kept
until the next. A checkpoint holds a digest of its tensors, so that one that a power cut has left half-written is
noticed, and the one before is used. What is random needs no state of its own: it follows from seed and step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lensmith.config import Recipe, recipe_from
from lensmith.errors import UserError
from lensmith.records import Rate, Training
from lensmith.runs.files import recover, replacing
from lensmith.runs.folder import same_recipe, same_training

KEPT = 2
TENSORS, STATE = "state.safetensors", "state.json"


def save(
    folder: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, state: Training, recipe: Recipe
) -> None:
    """Write a checkpoint, and remove those before the last.

    Args:
        weights: what learns, by name.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        tensors[f"weight.{name}"] = weight.detach().cpu().contiguous()
        for key, value in optimizer.state[weight].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    with replacing(folder / f"{state.steps:08d}") as new:
        save_file(tensors, new / TENSORS)
        about = {"state": asdict(state), "recipe": recipe.to_dict(), "digest": _digest(new / TENSORS)}
        (new / STATE).write_text(json.dumps(about), encoding="utf-8")
    for other in [*_found(folder)[KEPT:], *folder.glob(".*.part")]:
        shutil.rmtree(other, ignore_errors=True)


def load(
    folder: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, state: Training, recipe: Recipe
) -> str | None:
    """Bring weights, optimizer and `state` back to where the newest whole checkpoint was.

    Returns:
        A sentence if a newer one was damaged. Where there is none yet, nothing happens: the training begins anew.

    Raises:
        UserError: all are damaged, or the recipe has changed.
    """
    broken: list[Path] = []
    for path in _found(folder):
        try:
            about = json.loads((path / STATE).read_text(encoding="utf-8"))
            if about["digest"] != _digest(path / TENSORS):
                raise ValueError("its digest is another")
            tensors = load_file(path / TENSORS)
            _set(state, about["state"])
        except Exception:  # whatever half of a file makes its reader trip over
            broken.append(path)
            continue
        same_recipe(folder.parent, recipe_from(about["recipe"]), recipe, same_training(recipe))
        _restore(path, weights, optimizer, tensors)
        for other in broken:
            shutil.rmtree(other, ignore_errors=True)
        return f"The checkpoint {broken[0]} is damaged; the one before it is used." if broken else None
    if broken:
        raise UserError(f"The checkpoint in {broken[0]} can't be read: it is damaged.", "Start a new run.")
    return None


def _restore(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
) -> None:
    if {key.removeprefix("weight.") for key in tensors if key.startswith("weight.")} != set(weights):
        raise UserError(f"The checkpoint in {path} doesn't fit the recipe's tune options.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            prefix, suffix = "optimizer.", f".{name}"
            kept = {
                key[len(prefix) : -len(suffix)]: value
                for key, value in tensors.items()
                if key.startswith(prefix) and key.endswith(suffix)
            }
            # Only a fused optimizer has its step counter on the device.
            fused = optimizer.param_groups[0].get("fused")
            optimizer.state[weight] = {k: v.to(weight.device) if fused or k != "step" else v for k, v in kept.items()}


def _found(folder: Path) -> list[Path]:
    """The checkpoints, newest first."""
    for old in folder.glob(".*.old"):
        recover(folder / old.name[1:-4])
    return sorted((path for path in folder.glob("[0-9]*") if path.is_dir()), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _set(state: Training, values: dict[str, Any]) -> Training:
    values["validation"] = Rate(**values["validation"]) if values["validation"] else None
    for key, value in values.items():
        setattr(state, key, value)
    return state


def read_state(path: Path, state: Training) -> Training:
    """`state`, with the values that were written to a file."""
    return _set(state, json.loads(path.read_text(encoding="utf-8")))


def remove(folder: Path) -> None:
    """Remove checkpoints that are no longer needed."""
    with suppress(OSError):
        shutil.rmtree(folder)
