"""Tuned weights on disk: save them with all that is needed to use them, and load only what fits the model in full."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.heads import Head, load_head
from lensmith.models.tuning import Tuned, component_of, trainable
from lensmith.records import TASK
from lensmith.runs.files import read_json, replacing
from lensmith.runs.folder import Run, adapter_folder, settled
from lensmith.runs.shapes import Task, read_as

WEIGHTS, HEAD = "weights.safetensors", "head.safetensors"
"""Files beside PEFT's in a folder of tuned weights: fully trained weights of the model, and a class head."""
_LORA_SETTINGS = "adapter_config.json"
_END = 1 << 20  # bytes


def save_tuned(model: Model, folder: Path, head: Head | None = None) -> None:
    """Save the tuned weights, the tokenizer and the image settings: what `load_tuned` and a processor need."""
    if model.peft is not None:
        # LoRA never contains embeddings. Without this argument PEFT would query the hub at every save.
        model.peft.save_pretrained(folder, save_embedding_layers=False)
    if weights := _full_weights(model):
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
    if head is not None:
        head.save(folder / HEAD)
    model.tokenizer.save_pretrained(folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (model.folder / name).exists():
            shutil.copyfile(model.folder / name, folder / name)


def keep_tuned(run: Run, tuned: Tuned, name: str = "tuned") -> None:
    """Save the tuned model into a run's folder, with processor, question and labels: everything `predict` needs.

    Args:
        name: the model's name in reports: `tuned`, `probe`.
    """
    with replacing(run.folder / "adapter") as new:
        save_tuned(tuned.model, new, tuned.head)
        write_task(new, task_for(run, tuned.model, name))


def task_for(run: Run, model: Model, name: str) -> dict[str, Any]:
    """What a run taught a model, as plain values for lensmith.json: question, labels and base."""
    recipe = settled(run.recipe)
    task: dict[str, Any] = {"name": name, "labels": list(run.dataset.labels), "question": asdict(recipe.question)}
    task |= {"base": recipe.model.base, "image_tokens": recipe.model.image_tokens}
    return task | {"base_weights": weights_digest(model.folder)}


def write_task(folder: Path, task: dict[str, Any]) -> None:
    """Write lensmith.json into a folder of tuned weights that is complete otherwise."""
    files = [path.relative_to(folder).as_posix() for path in _adapter_files(folder)]
    content = json.dumps(task | {"files": files}, indent=2, ensure_ascii=False) + "\n"
    (folder / TASK).write_text(content, encoding="utf-8")


def load_tuned(model: Model, folder: Path) -> Head | None:
    """Load what `save_tuned` saved into the model.

    Args:
        folder: a run folder, the folder inside it, or a PEFT folder from elsewhere.

    Returns:
        The head that answers instead of the decoder, if there is one.

    Raises:
        UserError: the folder holds no adapter, or it doesn't fit the model.
    """
    inner = adapter_folder(folder)
    if not holds_tuned(inner):
        raise UserError(f"There is no adapter in {folder}.", "Give a run folder of `lensmith train`, or a PEFT folder.")
    task = task_of(inner)
    require_complete(model, inner, task)
    head: Head | None = None
    try:
        _require_same_tokens(model, inner)
        if (inner / _LORA_SETTINGS).exists():
            _load_lora(model, inner)
        _load_full_weights(model, inner)
        if (inner / HEAD).exists():
            head = load_head(inner / HEAD).to(model.device)
        show_as_taught(model, task)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The adapter in {inner} doesn't fit {model.options.base}: {reason}") from error
    model.network.requires_grad_(False).eval()
    return head


def task_of(inner: Path) -> dict[str, Any]:
    """What lensmith.json beside tuned weights says; an adapter from elsewhere has none."""
    return {**read_as(inner / TASK, Task)} if (inner / TASK).exists() else {}


def require_complete(model: Model, inner: Path, task: dict[str, Any]) -> None:
    """Raises UserError if a file of tuned weights is missing, or if they were made for other weights of the base."""
    if lost := [name for name in task.get("files", ()) if not (inner / name).is_file()]:
        raise UserError(f"{inner} is incomplete: it has no {lost[0]}.", "Copy the whole run folder, or repeat the run.")
    if task.get("base_weights", (ours := weights_digest(model.folder))) != ours:
        raise UserError(
            f"The adapter in {inner} was trained on a model with other weights than {model.options.base}.",
            f"Set model.base to that model; it was {task.get('base')}.",
        )


def show_as_taught(model: Model, task: dict[str, Any]) -> None:
    """Show images as in training, unless the recipe sets another budget."""
    if task.get("image_tokens") and not model.options.image_tokens:
        model.options = replace(model.options, image_tokens=task["image_tokens"])
        model.limit_image_tokens(task["image_tokens"])


def holds_tuned(folder: Path) -> bool:
    """Whether a folder has tuned weights of one model, or a head."""
    return any((adapter_folder(folder) / name).exists() for name in (_LORA_SETTINGS, WEIGHTS, HEAD))


def only_head(folder: Path) -> bool:
    """Whether what `save_tuned` saved leaves the model's own weights as they are."""
    inner = adapter_folder(folder)
    return (inner / HEAD).exists() and not any((inner / name).exists() for name in (_LORA_SETTINGS, WEIGHTS))


def _require_same_tokens(model: Model, folder: Path) -> None:
    """Raises UserError if the tokenizer beside an adapter gives a token another number than the model's does."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    from tokenizers import Tokenizer

    try:
        theirs = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"{path} is damaged: {error}.", "Copy the adapter again.") from error
    ours = model.tokenizer.get_vocab()
    if other := sorted(token for token, i in theirs.items() if ours.get(token, i) != i):
        raise UserError(
            f"The adapter in {folder} was trained with another tokenizer than that of {model.options.base}: "
            f"{len(other):,} tokens have other numbers, such as {other[0]!r}.",
            "Set model.base to the model that it was trained on.",
        )


def _load_lora(model: Model, folder: Path) -> None:
    """Put an adapter's layers into the model, and its weights into the layers.

    PEFT only warns of weights that the file lacks, and says nothing of those that have no place in the model: an
    adapter of another model would be scored as if it had been applied.

    Raises:
        UserError: it isn't a LoRA, or it doesn't fit the model weight by weight.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict

    from lensmith.models.layers.lora import speed_up

    path = folder / "adapter_model.safetensors"
    if not path.is_file():  # PEFT would read a pickle instead, or ask the hub for a repository with the folder's name
        raise UserError(f"{folder} has no {path.name}.", "Save the adapter with safetensors.")
    settings = read_json(folder / _LORA_SETTINGS)
    kind = settings.get("peft_type")
    if settings.get("alora_invocation_tokens"):
        kind = "activated LoRA"
    if kind != "LORA":  # the engine runs the model's layers one by one, so virtual tokens would have no effect
        raise UserError(f"The adapter in {folder} is of the type {kind}, which can't be used.", "Use a LoRA adapter.")
    known = {field.name for field in fields(LoraConfig)}
    if newer := [name for name, value in settings.items() if value and name not in known]:  # PEFT would ignore it
        raise UserError(
            f"The adapter in {folder} has the setting {newer[0]}, which this version of PEFT doesn't know.",
            "pip install --upgrade peft",
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing|Some weights of")  # below, they are errors
        model.peft = PeftModel.from_pretrained(model.network, str(folder), ignore_mismatched_sizes=True)
    speed_up(model.network)
    expected, found = get_peft_model_state_dict(model.peft, save_embedding_layers=False), load_file(path)
    # Beside the adapter's own weights, the file may have some of the model's, which replace them.
    places = {name: weight.shape for name, weight in (model.peft.state_dict() | expected).items()}
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise UserError(f"The adapter in {folder} contains NaN or infinity, in {name}.", "Train it again.")
    lost, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - places.keys())
    misshapen = sorted(name for name in found.keys() & places.keys() if found[name].shape != places[name])
    parts = [
        f"{len(names):,} of {len(of):,} {what}, such as {names[0]}"
        for names, of, what in (
            (lost, expected, "are missing"),
            (unknown, found, "have no place in the model"),
            (misshapen, found, "have another shape than in the model"),
        )
        if names
    ]
    if parts:
        raise UserError(
            f"The adapter in {folder} doesn't fit the model: of its weights, {' and '.join(parts)}.",
            "Use the base model that it was trained on (model.base), and its own adapter_config.json.",
        )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _adapter_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))  # a blend has those of its parts


def weights_digest(base: Path, adapter: str | None = None) -> str:
    """16 hex digits that identify a model's weights: an adapter's bytes, and the sizes and ends of the base's files.

    The base may have many gigabytes, and isn't trained in place.

    Args:
        base: the folder of the base model.
        adapter: a run folder or adapter folder; None for the base alone.
    """
    digest = hashlib.sha256()
    for path in _weight_files(base):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(_END))
            file.seek(max(0, path.stat().st_size - _END))
            digest.update(file.read(_END))
    inner = adapter_folder(Path(adapter)) if adapter else None
    for path in [*_adapter_files(inner), inner / _LORA_SETTINGS] if inner else ():  # the settings scale the weights
        if path.exists():
            with path.open("rb") as file:
                name = str(path.relative_to(inner or path.parent).as_posix())
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def restore(model: Model, folder: Path, head: Head | None = None) -> None:
    """Reset a model that is being tuned to the weights that `save_tuned` wrote to a folder."""
    from peft import set_peft_model_state_dict

    if model.peft is not None:
        set_peft_model_state_dict(model.peft, load_file(folder / "adapter_model.safetensors"))
    _load_full_weights(model, folder)
    if head is not None:
        head.load_state_dict(load_head(folder / HEAD).state_dict())


def _full_weights(model: Model) -> dict[str, nn.Parameter]:
    """The trainable weights of the base model itself: neither LoRA's nor the head's."""
    return {n: w for n, w in trainable(model).items() if ".lora_" not in n and component_of(model, n)}


@torch.no_grad()
def _load_full_weights(model: Model, folder: Path) -> None:
    if not (folder / WEIGHTS).exists():
        return
    weights, modules = dict(model.network.named_parameters()), dict(model.network.named_modules())
    found = load_file(folder / WEIGHTS)
    for name, value in found.items():
        if name not in weights or weights[name].shape != value.shape or not value.isfinite().all():
            problem = "contains NaN or infinity"
            if value.isfinite().all():
                problem = f"has no counterpart of the same {'shape' if name in weights else 'name'} in the model"
            raise UserError(f"In {folder / WEIGHTS}, {name} {tuple(value.shape)} {problem}.", "Train it again.")
    trained = {component_of(model, name) for name in found}
    if lost := [name for name in weights if component_of(model, name) in trained and name not in found]:
        whole = f"{len(lost):,} weights of the {component_of(model, lost[0])} are missing"
        raise UserError(f"In {folder / WEIGHTS}, {whole}, such as {lost[0]}.", "Copy the adapter again.")
    for name, value in found.items():
        if isinstance(modules[name.rpartition(".")[0]], nn.Linear):
            weights[name].copy_(value)  # keeps the dtype of products; see `loading.cast_linear_layers`
        else:  # takes the dtype that it was trained in
            weights[name].data = value.to(weights[name].device)
