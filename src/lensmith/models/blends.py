"""Blends on disk: several taught models of one base, each with its weight.

`adapter/parts/NAME` of a run folder has the tuned weights of a part and its own lensmith.json; a part that is the base
model itself has lensmith.json alone. `adapter/blend.json` has the weights.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.heads import Head
from lensmith.models.tuned_files import (
    HEAD,
    WEIGHTS,
    holds_tuned,
    load_tuned,
    only_head,
    require_complete,
    show_as_taught,
    task_for,
    task_of,
    write_task,
)
from lensmith.models.tuning import Part, Tuned
from lensmith.models.views import AS_IT_IS, Look
from lensmith.runs.files import replacing
from lensmith.runs.folder import Run, adapter_folder
from lensmith.runs.shapes import BlendFile, read_as, stored_calibration

BLEND, PARTS = "blend.json", "parts"
"""File and folder inside an adapter's folder."""
KEPT = ("adapter_config.json", "*.safetensors")
"""What of a part's tuned weights is copied; tokenizer and image settings are those of the base."""


@dataclass(frozen=True)
class StoredPart:
    """A part to be written into a blend."""

    weight: float
    adapter: Path | None
    """The folder of its tuned weights; None for the base model itself."""
    task: dict[str, Any]
    """What its lensmith.json says, with its calibration."""
    head: Head | None = None
    """A head that has no folder yet."""
    looks: tuple[Look, ...] = (AS_IT_IS,)


def is_blend(folder: Path) -> bool:
    """Whether a run folder, or a folder of tuned weights, is that of a blend."""
    return (adapter_folder(folder) / BLEND).exists()


def keep_blend(run: Run, model: Model, parts: Mapping[str, StoredPart], kind: str = "blend") -> None:
    """Save a blend into a run's folder: everything `predict` needs, whatever becomes of the parts' own runs.

    Args:
        model: the base model.
        parts: by name.
        kind: the classifier's name in reports.
    """
    with replacing(run.folder / "adapter") as new:
        for name, part in parts.items():
            place = new / PARTS / name
            place.mkdir(parents=True)
            for path in (path for kept in KEPT if part.adapter for path in part.adapter.glob(kept)):
                shutil.copyfile(path, place / path.name)
            if part.head is not None:
                part.head.save(place / HEAD)
            write_task(place, part.task)
        content = [
            {"name": name, "weight": part.weight, "looks": list(map(asdict, part.looks))}
            for name, part in parts.items()
        ]
        (new / BLEND).write_text(json.dumps({"parts": content}, indent=2) + "\n", encoding="utf-8")
        model.tokenizer.save_pretrained(new)
        write_task(new, task_for(run, model, kind))


def load_parts(model: Model, folder: Path) -> tuple[Part, ...]:
    """The parts of a blend. Those that differ in their heads only share the model; the others share its weights.

    Args:
        model: the base model, with nothing loaded into it; its weights stay as they are.
        folder: a run folder or an adapter's folder.

    Raises:
        UserError: the files are incomplete, damaged or made for other classes, or as `load_tuned` does.
    """
    inner = adapter_folder(folder)
    whole = task_of(inner)
    require_complete(model, inner, whole)
    show_as_taught(model, whole)
    parts = []
    for stored in read_as(inner / BLEND, BlendFile)["parts"]:
        name, looks = stored["name"], tuple(Look(**look) for look in stored["looks"])
        place = inner / PARTS / name
        task = task_of(place)
        if task.get("labels") != whole["labels"]:
            raise UserError(f"{place} is missing or of other classes than {inner}.", "Copy the whole run folder.")
        if only_head(place):
            tuned = Tuned(model, load_tuned(model, place))
        elif holds_tuned(place):
            own = _own(model, shared=not (place / WEIGHTS).exists())
            tuned = Tuned(own, load_tuned(own, place))
        else:
            tuned = Tuned(model)
        calibration = stored_calibration(place, task, whole["labels"])
        parts.append(Part(name, stored["weight"], tuned, calibration, looks))
    return tuple(parts)


def _own(model: Model, shared: bool) -> Model:
    """A copy of a model into which tuned weights can be loaded.

    Args:
        shared: whether its tensors are the model's own, which then must not be written to. New values can be assigned.
    """
    network = model.network
    memo: dict[int, Any] = {}
    if shared:
        # New parameters around the same memory: what is assigned to the one leaves the other as it is.
        memo = {id(p): nn.Parameter(p.data, requires_grad=False) for p in network.parameters()}
        memo |= {id(b): b for b in network.buffers()}
    own = copy.copy(model)
    own.network = copy.deepcopy(network, memo)
    return own
