"""Which weights of a model are trained: LoRA on chosen components (through PEFT), their original weights, or a class
head.

Bare suffixes such as `q_proj` also match the vision tower, and Llama's layer names miss most of LFM2. LoRA's layers are
therefore read from the model: every linear layer of each chosen component, unless the recipe names targets. A target
that matches no layer, or a layer of a frozen component, is an error.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lensmith.config import TrainOptions, TuneOptions
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.heads import ClassHead, Head, load_head
from lensmith.records import TASK
from lensmith.runs.files import replacing
from lensmith.runs.folder import Run, adapter_folder

WEIGHTS, HEAD = "weights.safetensors", "head.safetensors"
"""Files beside PEFT's in a folder of tuned weights: fully trained weights of the model, and a class head."""


@dataclass(frozen=True)
class Coverage:
    """One row of the coverage table: the layers of one name within a component, and their trainable parameters."""

    component: str
    layer: str
    count: int
    parameters: int
    """Trainable parameters: those that LoRA adds, or the layer's original ones."""
    share: float
    """Trainable parameters as a fraction of all of the base model's. (run.json uses this name.)"""


@dataclass(frozen=True)
class Tuned:
    """A model with its tuned weights, and the head that answers; None if its decoder answers."""

    model: Model
    head: Head | None = None


def attach(model: Model, tune: TuneOptions, labels: Sequence[str], seed: int = 0) -> Tuned:
    """Make the weights that the recipe tunes trainable. No other weight requires gradients afterwards.

    Args:
        labels: the classes, for a class head.
        seed: for the initial values of LoRA's first matrices.

    Raises:
        UserError: nothing is tuned, a target matches no layer or a frozen one, a learning rate is given for a
            component that is not tuned, or a quantised model would be tuned fully.
    """
    chosen = {"lora": [c for c in model.components if getattr(tune, c)], "projector": ["projector"], "head": []}
    chosen["full"] = chosen["lora"]
    components, with_head = chosen[tune.method], tune.head or tune.method == "head"
    if not components and not with_head:
        raise UserError("Nothing is tuned.", f"Set one of {', '.join(f'tune.{c}' for c in model.components)} to true.")
    for name in tune.rates:
        if name not in components and not (name == "head" and with_head):
            raise UserError(f"tune.rates has a rate for {name}, which is not tuned.", "Remove it, or tune it.")
    if tune.method != "lora" and components:
        if model.options.quantize != "none" and "language_model" in components:
            raise UserError("Four-bit weights can't be trained.", "Use tune.method=lora, or model.quantize=none.")
        for name, weight in model.network.named_parameters():
            if component_of(model, name) in components:
                weight.data = weight.data.float()  # updates are smaller than bfloat16 can represent
                weight.requires_grad_()
    elif components:
        _add_lora(model, tune, components, seed)
    if not with_head:
        return Tuned(model)
    size = int(model.network.get_output_embeddings().weight.shape[1])
    return Tuned(model, ClassHead(size, labels).to(model.device))


def _add_lora(model: Model, tune: TuneOptions, components: list[str], seed: int) -> None:
    from peft import LoraConfig, get_peft_model

    if tune.targets is None:
        targets: Any = "|".join(_pattern(model, component) for component in components)
    else:
        targets = _targets(model, tune.targets, components)
    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,
        lora_dropout=tune.dropout,
        target_modules=targets,
        use_rslora=tune.rslora,
        use_dora=tune.dora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.peft = get_peft_model(model.network, config)
    # PEFT fills in this machine's path to the model; the recipe's name is valid elsewhere too.
    model.peft.peft_config["default"].base_model_name_or_path = model.options.base


def linear_layers(model: Model) -> dict[str, str]:
    """Name -> component of every linear layer in a component."""
    named = ((name, component_of(model, name)) for name, m in model.network.named_modules() if isinstance(m, nn.Linear))
    return {name: component for name, component in named if component}


def _pattern(model: Model, component: str) -> str:
    leaves = {name.rpartition(".")[2] for name, c in linear_layers(model).items() if c == component}
    prefix = model.components[component]
    if not leaves:
        raise UserError(f"tune.{component}: {prefix} has no linear layer.")
    return rf"{re.escape(prefix)}\.(?:.+\.)?(?:{'|'.join(sorted(leaves))})"


def _targets(model: Model, targets: Sequence[str], components: Sequence[str]) -> list[str]:
    """The full names of the layers that the recipe's targets match."""
    layers = linear_layers(model)
    matched: list[str] = []
    for target in targets:
        hits = [name for name in layers if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")]
        if not hits:
            existing = sorted({short_name(model, name) for name in layers})
            raise UserError(
                f"tune.targets: {target!r} matches no linear layer of {model.options.base}.",
                f"Its layers are called {', '.join(existing)}.",
            )
        for component in {layers[name]: None for name in hits}:
            frozen = [name for name in hits if layers[name] == component]
            if component not in components:
                anchored = f"{model.components[components[0]].rpartition('.')[2]}.*.{target}"
                raise UserError(
                    f"tune.targets: {target!r} also matches {len(frozen)} layers of the {component}, which the recipe "
                    f"freezes, such as {frozen[0]}.",
                    f"Write {anchored!r}, or set tune.{component}=true.",
                )
        matched += hits
    return list(dict.fromkeys(matched))


def component_of(model: Model, name: str) -> str | None:
    """The component that contains a module or weight, if any."""
    return next((c for c, prefix in model.components.items() if name.startswith(prefix + ".")), None)


def short_name(model: Model, name: str) -> str:
    """A layer's name within one block of its component: `self_attn.q_proj`."""
    component = component_of(model, name)
    inner = name.removeprefix(model.components[component] + ".") if component else name
    return re.sub(r"^.*?\.\d+\.", "", inner)


def coverage(model: Model, head: Head | None = None) -> list[Coverage]:
    """The trainable parameters of a model, by component and layer name.

    Raises:
        UserError: there are none.
    """
    layers: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for name, weight in trainable(model, head).items():
        layer = re.split(r"\.lora_", name)[0] if ".lora_" in name else name.rpartition(".")[0]
        key = (component_of(model, name) or "head", short_name(model, layer))
        layers[key].add(layer)
        counts[key] += weight.numel()
    if not counts:
        raise UserError("The model has no trainable parameters.")
    # Counted by transformers, because torch stores two four-bit weights in one number.
    lora = sum(p.numel() for name, p in model.network.named_parameters() if ".lora_" in name)
    total = int(model.network.num_parameters()) - lora
    return [Coverage(*key, len(layers[key]), n, n / total) for key, n in sorted(counts.items())]


def coverage_table(rows: list[Coverage]) -> str:
    """The coverage table as text."""
    parameters, fraction = sum(row.parameters for row in rows), sum(row.share for row in rows)
    total = Coverage("total", "", sum(row.count for row in rows), parameters, fraction)
    width = max(28, *(len(row.layer) + 2 for row in rows))
    lines = [f"{'component':<16}{'layer':<{width}}{'layers':>7}{'parameters':>14}{'fraction':>9}"]
    lines += [
        f"{r.component:<16}{r.layer:<{width}}{r.count:>7}{r.parameters:>14,}{r.share:>9.2%}" for r in [*rows, total]
    ]
    return "\n".join(lines)


def trainable(model: Model, head: Head | None = None) -> dict[str, nn.Parameter]:
    """The trainable weights of a model and its head, by name."""
    weights = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    if head is not None:
        weights |= {f"head.{name}": p for name, p in head.named_parameters() if p.requires_grad}
    return weights


def weight_groups(
    model: Model, tune: TuneOptions, train: TrainOptions, head: Head | None = None
) -> list[dict[str, Any]]:
    """The trainable weights as parameter groups of an optimizer, each with its peak learning rate as `peak`.

    `tune.rates` may give each component a learning rate. LoRA's second matrices multiply it by `tune.lora_plus` (Hayou
    et al., LoRA+, 2402.12354). Biases, norms and a head's weights have no weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, weight in trainable(model, head).items():
        component = component_of(model, name) or "head"
        rate = tune.rates.get(component, train.learning_rate)  # type: ignore[call-overload]
        rate *= tune.lora_plus if "lora_B" in name else 1
        groups[rate, train.weight_decay if weight.ndim > 1 and component != "head" else 0.0].append(weight)
    return [{"params": ws, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), ws in groups.items()]


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
    recipe = run.recipe
    with replacing(run.folder / "adapter") as new:
        save_tuned(tuned.model, new, tuned.head)
        task: dict[str, Any] = {"name": name, "labels": list(run.dataset.labels), "question": asdict(recipe.question)}
        task |= {"base": recipe.model.base, "image_tokens": recipe.model.image_tokens}
        (new / TASK).write_text(json.dumps(task, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tuned(model: Model, folder: Path) -> Head | None:
    """Load what `save_tuned` saved into the model.

    Args:
        folder: a run folder, the folder inside it, or a PEFT folder from elsewhere.

    Returns:
        The head that answers instead of the decoder, if there is one.

    Raises:
        UserError: the folder holds no adapter, or it doesn't fit the model.
    """
    from peft import PeftModel

    inner = adapter_folder(folder)
    if not any((inner / name).exists() for name in ("adapter_config.json", WEIGHTS, HEAD)):
        raise UserError(f"There is no adapter in {folder}.", "Give a run folder of `lensmith train`, or a PEFT folder.")
    has_lora = (inner / "adapter_config.json").exists()
    if has_lora and not (inner / "adapter_model.safetensors").is_file():
        # PEFT would read a pickle instead, or ask the hub for a repository with the folder's name.
        raise UserError(f"{inner} has no adapter_model.safetensors.", "Save the adapter with safetensors.")
    head: Head | None = None
    try:
        if has_lora:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error, below
                model.peft = PeftModel.from_pretrained(model.network, str(inner))
            _require_all(model.peft, inner)
        _load_full_weights(model, inner)
        if (inner / HEAD).exists():
            head = load_head(inner / HEAD).to(model.device)
        # Images are shown as in training, unless the recipe sets another budget.
        task = json.loads((inner / TASK).read_text(encoding="utf-8")) if (inner / TASK).exists() else {}
        if task.get("image_tokens") and not model.options.image_tokens:
            model.options = replace(model.options, image_tokens=task["image_tokens"])
            model.limit_image_tokens(task["image_tokens"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The adapter in {inner} doesn't fit {model.options.base}: {reason}") from error
    model.network.requires_grad_(False).eval()
    return head


def _require_all(peft: Any, folder: Path) -> None:
    """Raises UserError unless each of an adapter's weights is in its file, and each in the file is one of them.

    PEFT only warns of weights that it misses, and says nothing of those that it does not know: an adapter of another
    model would be scored as if it had been applied.
    """
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(peft, save_embedding_layers=False)
    found = load_file(folder / "adapter_model.safetensors")
    for name, weight in found.items():
        if not weight.isfinite().all():
            raise UserError(f"The adapter in {folder} contains NaN or infinity, in {name}.", "Train it again.")
    lost, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if lost or unknown:
        parts = [
            f"{len(names):,} of {len(of):,} {what}, such as {names[0]}"
            for names, of, what in ((lost, expected, "are missing"), (unknown, found, "have no place in the model"))
            if names
        ]
        raise UserError(
            f"The adapter in {folder} doesn't fit the model: of its weights, {' and '.join(parts)}.",
            "Use the base model that it was trained on (model.base), and its own adapter_config.json.",
        )


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
    for name, value in load_file(folder / WEIGHTS).items():
        if name not in weights or weights[name].shape != value.shape or not value.isfinite().all():
            problem = "contains NaN or infinity"
            if value.isfinite().all():
                problem = f"has no counterpart of the same {'shape' if name in weights else 'name'} in the model"
            raise UserError(f"In {folder / WEIGHTS}, {name} {tuple(value.shape)} {problem}.", "Train it again.")
        if isinstance(modules[name.rpartition(".")[0]], nn.Linear):
            weights[name].copy_(value)  # keeps the dtype of products; see `loading.cast_linear_layers`
        else:  # takes the dtype that it was trained in
            weights[name].data = value.to(weights[name].device)
