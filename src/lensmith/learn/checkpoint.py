"""The state of an unfinished training on disk, so that the training can be killed at any moment and resumed.

Each checkpoint is a separate folder, written under a temporary name and renamed once it is complete. The last two are
kept. A checkpoint contains a digest of its tensors: if a power cut left it half-written, this is detected and the
previous one is used. Random state is not saved, since all randomness is a function of (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lensmith.config import Recipe, recipe_from
from lensmith.errors import UserError
from lensmith.records import Training
from lensmith.runs.files import read_json, recover, replacing
from lensmith.runs.folder import same_recipe, same_training, settled
from lensmith.runs.shapes import made

KEPT = 2
TENSORS, STATE = "state.safetensors", "state.json"


def save(
    folder: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, state: Training, recipe: Recipe
) -> None:
    """Write a checkpoint, and remove all but the last `KEPT`.

    Args:
        weights: the trainable weights, by name.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        tensors[f"weight.{name}"] = weight.detach().cpu().contiguous()
        for key, value in optimizer.state[weight].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    with replacing(folder / f"{state.steps:08d}") as new:
        save_file(tensors, new / TENSORS)
        about = {"state": asdict(state), "recipe": settled(recipe).to_dict(), "digest": _digest(new / TENSORS)}
        (new / STATE).write_text(json.dumps(about), encoding="utf-8")
    for obsolete in [*_checkpoints(folder)[KEPT:], *folder.glob(".*.part")]:
        shutil.rmtree(obsolete, ignore_errors=True)


def load(
    folder: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, state: Training, recipe: Recipe
) -> str | None:
    """Restore weights, optimizer and `state` from the newest undamaged checkpoint; does nothing if there is none yet.

    Returns:
        A warning if a newer checkpoint was damaged, otherwise None.

    Raises:
        UserError: all checkpoints are damaged, or the recipe has changed.
    """
    damaged: list[Path] = []
    for path in _checkpoints(folder):
        try:
            about = json.loads((path / STATE).read_text(encoding="utf-8"))
            if about["digest"] != _digest(path / TENSORS):
                raise ValueError("the digest doesn't match")
            tensors, then = load_file(path / TENSORS), about["recipe"]
            _set(state, made(path / STATE, about["state"], Training))
        except Exception:  # a truncated file can raise anything
            damaged.append(path)
            continue
        same_recipe(folder.parent, recipe_from(then), recipe, same_training(recipe))
        _restore(path, weights, optimizer, tensors)
        for obsolete in damaged:
            shutil.rmtree(obsolete, ignore_errors=True)
        return f"The checkpoint {damaged[0]} is damaged; the previous one is used." if damaged else None
    if damaged:
        raise UserError(f"The checkpoint in {damaged[0]} can't be read: it is damaged.", "Start a new run.")
    return None


def _restore(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
) -> None:
    if {key.removeprefix("weight.") for key in tensors if key.startswith("weight.")} != set(weights):
        raise UserError(f"The checkpoint in {path} doesn't match the recipe's tune options.", "Start a new run.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            prefix, suffix = "optimizer.", f".{name}"
            saved = {
                key[len(prefix) : -len(suffix)]: value
                for key, value in tensors.items()
                if key.startswith(prefix) and key.endswith(suffix)
            }
            # Only a fused optimizer keeps its step counter on the device.
            fused = optimizer.param_groups[0].get("fused")
            optimizer.state[weight] = {k: v.to(weight.device) if fused or k != "step" else v for k, v in saved.items()}


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints, newest first."""
    for old in folder.glob(".*.old"):
        recover(folder / old.name[1:-4])
    return sorted((path for path in folder.glob("[0-9]*") if path.is_dir()), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _set(state: Training, then: Training) -> Training:
    for field in fields(Training):
        setattr(state, field.name, getattr(then, field.name))
    return state


def read_state(path: Path, state: Training) -> Training:
    """`state`, updated with the values in a file. Raises `UserError` if it is damaged."""
    return _set(state, made(path, read_json(path), Training))


def remove(folder: Path) -> None:
    """Remove checkpoints that are no longer needed."""
    with suppress(OSError):
        shutil.rmtree(folder)
