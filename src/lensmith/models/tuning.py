"""Which weights of a model are trained: LoRA on chosen components (through PEFT), their original weights, or a class
head.

Bare suffixes such as `q_proj` also match the vision tower, and Llama's layer names miss most of LFM2. LoRA's layers are
therefore read from the model: every linear layer of each chosen component, unless the recipe names targets. A target
that matches no layer, or a layer of a frozen component, is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lensmith.config import TrainOptions, TuneOptions
from lensmith.errors import UserError
from lensmith.models.base import Model
from lensmith.models.heads import ClassHead, Head
from lensmith.models.views import AS_IT_IS, Look
from lensmith.records import Calibration


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
    """A model with its tuned weights, and what answers: the head, the parts of a blend, or, without them, its
    decoder."""

    model: Model
    head: Head | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Part:
    """One of the models of a blend."""

    name: str
    weight: float
    """Of its log-probabilities, above 0."""
    tuned: Tuned
    calibration: Calibration
    """How its scores become probabilities."""
    looks: tuple[Look, ...] = (AS_IT_IS,)
    """An image is shown to it under each of these, and the log-probabilities are averaged."""


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
    if model.options.quantize == "int8" and "vision_tower" in components:
        raise UserError(
            "A vision tower in eight bits can't be trained.", "Use tune.vision_tower=false, or model.quantize=none."
        )
    if tune.method != "lora" and components:
        if model.options.quantize == "4bit" and "language_model" in components:
            raise UserError("Four-bit weights can't be trained.", "Use tune.method=lora, or model.quantize=none.")
        numbers = (p.numel() for name, p in model.network.named_parameters() if component_of(model, name) in components)
        _require_memory(model, sum(numbers), f"tune.method={tune.method}", "tune.method=lora")
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


BYTES_PER_WEIGHT = 16
"""Memory that a trained weight takes: itself, its gradient, and the two averages of AdamW, each in float32."""


def _add_lora(model: Model, tune: TuneOptions, components: list[str], seed: int) -> None:
    from peft import LoraConfig, get_peft_model

    from lensmith.models.layers.lora import speed_up

    layers = [name for name, component in linear_layers(model).items() if component in components]
    if tune.targets is None:
        targets: Any = "|".join(_pattern(model, component) for component in components)
    else:
        targets = layers = _targets(model, tune.targets, components)
    _require_sense(model, tune.rank, layers)
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
    speed_up(model.network)
    # PEFT fills in this machine's path to the model; the recipe's name is valid elsewhere too.
    model.peft.peft_config["default"].base_model_name_or_path = model.options.base


def _require_sense(model: Model, rank: int, layers: Sequence[str]) -> None:
    """Raises UserError if the rank is above that of any layer's own matrix, or its matrices don't fit into memory."""
    modules = dict(model.network.named_modules())
    # Of a four-bit layer, only these attributes tell the shape.
    shapes = [(int(m.in_features), int(m.out_features)) for m in map(modules.__getitem__, layers)]
    if shapes and rank > (most := max(map(min, shapes))):
        raise UserError(
            f"tune.rank is {rank:,}, but no layer that is tuned has more than {most:,} inputs or outputs: a higher "
            "rank can't add anything.",
            f"Use {most:,} at most; 8 to 64 are usual.",
        )
    _require_memory(model, rank * sum(map(sum, shapes)), f"tune.rank={rank:,}", "a lower rank")


def _require_memory(model: Model, weights: int, option: str, instead: str) -> None:
    needed, free = BYTES_PER_WEIGHT * weights, model.free_memory()
    if needed > free:
        raise UserError(
            f"Training with {option} needs {needed / 1e9:,.1f} GB for its weights alone, and {free / 1e9:,.1f} GB are "
            "free.",
            f"Use {instead}, or tune fewer layers.",
        )


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
