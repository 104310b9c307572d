"""What of a model learns: LoRA on chosen components (through PEFT), their own weights, or a class head.

Bare suffixes such as `q_proj` also match the vision tower, and Llama's names miss most of LFM2. So LoRA's layers are
taken from the model itself: every linear layer of each chosen component, unless the recipe names some, and a name that
hits nothing, or what the recipe froze, is an error.
"""

from __future__ import annotations

import json
import re
import shutil
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
from lensmith.runs.folder import Run

WEIGHTS, HEAD = "weights.safetensors", "head.safetensors"
"""Files beside PEFT's in a folder of tuned weights: weights of the model's own, and a class head's."""


@dataclass(frozen=True)
class Coverage:
    """One line of the table: the layers of one name within a component, and what of them learns."""

    component: str
    layer: str
    count: int
    parameters: int
    """That learn: those that LoRA adds, or the layer's own."""
    share: float
    """Of all the base model's parameters."""


@dataclass(frozen=True)
class Tuned:
    """A model with what was tuned of it, and what answers: its own decoder, or a head."""

    model: Model
    head: Head | None = None


def attach(model: Model, tune: TuneOptions, labels: Sequence[str], seed: int = 0) -> Tuned:
    """Make ready to learn what the recipe says; nothing else requires gradients afterwards.

    Args:
        labels: the classes, which a class head is for.
        seed: of LoRA's first matrices.

    Raises:
        UserError: nothing is tuned, a target hits no layer or a frozen one, a rate is for what is not tuned, or a
            quantised model is to be tuned fully.
    """
    chosen = {"lora": [c for c in model.components if getattr(tune, c)], "projector": ["projector"], "head": []}
    chosen["full"] = chosen["lora"]
    parts, with_head = chosen[tune.method], tune.head or tune.method == "head"
    if not parts and not with_head:
        raise UserError("Nothing is tuned.", f"Set one of {', '.join(f'tune.{c}' for c in model.components)} to true.")
    for name in tune.rates:
        if name not in parts and not (name == "head" and with_head):
            raise UserError(f"tune.rates has a rate for {name}, which is not tuned.", "Remove it, or tune it.")
    if tune.method != "lora" and parts:
        if model.options.quantize != "none" and "language_model" in parts:
            raise UserError("Four-bit weights can't learn.", "Use tune.method=lora, or model.quantize=none.")
        for name, weight in model.network.named_parameters():
            if component_of(model, name) in parts:
                weight.data = weight.data.float()  # steps are smaller than what bfloat16 can tell apart
                weight.requires_grad_()
    elif parts:
        _add_lora(model, tune, parts, seed)
    if not with_head:
        return Tuned(model)
    size = int(model.network.get_output_embeddings().weight.shape[1])
    return Tuned(model, ClassHead(size, labels).to(model.device))


def _add_lora(model: Model, tune: TuneOptions, parts: list[str], seed: int) -> None:
    from peft import LoraConfig, get_peft_model

    if tune.targets is None:
        targets: Any = "|".join(_pattern(model, component) for component in parts)
    else:
        targets = _targets(model, tune.targets, parts)
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
    # The name the recipe gave, and not this machine's path to it, which PEFT fills in.
    model.peft.peft_config["default"].base_model_name_or_path = model.options.base


def linear_layers(model: Model) -> dict[str, str]:
    """Name -> component of every linear layer in a component."""
    named = ((name, component_of(model, name)) for name, m in model.network.named_modules() if isinstance(m, nn.Linear))
    return {name: component for name, component in named if component}


def _pattern(model: Model, component: str) -> str:
    leaves = {name.rpartition(".")[2] for name, c in linear_layers(model).items() if c == component}
    prefix = model.components[component]
    if not leaves:
        raise UserError(f"tune.{component}: there is no linear layer under {prefix}.")
    return rf"{re.escape(prefix)}\.(?:.+\.)?(?:{'|'.join(sorted(leaves))})"


def _targets(model: Model, targets: Sequence[str], parts: Sequence[str]) -> list[str]:
    """The full names of the layers that the recipe's targets hit."""
    layers = linear_layers(model)
    found: list[str] = []
    for target in targets:
        hit = [name for name in layers if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")]
        if not hit:
            real = sorted({short_name(model, name) for name in layers})
            raise UserError(
                f"tune.targets: {target!r} hits no linear layer of {model.options.base}.",
                f"Its layers are called {', '.join(real)}.",
            )
        for component in {layers[name]: None for name in hit}:
            frozen = [name for name in hit if layers[name] == component]
            if component not in parts:
                anchored = f"{model.components[parts[0]].rpartition('.')[2]}.*.{target}"
                raise UserError(
                    f"tune.targets: {target!r} also hits {len(frozen)} layers of the {component}, which the recipe "
                    f"freezes, such as {frozen[0]}.",
                    f"Write {anchored!r}, or set tune.{component}=true.",
                )
        found += hit
    return list(dict.fromkeys(found))


def component_of(model: Model, name: str) -> str | None:
    """The component that a module or weight is in, if any."""
    return next((c for c, prefix in model.components.items() if name.startswith(prefix + ".")), None)


def short_name(model: Model, name: str) -> str:
    """A layer's name within one block of its component: `self_attn.q_proj`."""
    component = component_of(model, name)
    inner = name.removeprefix(model.components[component] + ".") if component else name
    return re.sub(r"^.*?\.\d+\.", "", inner)


def coverage(model: Model, head: Head | None = None) -> list[Coverage]:
    """What of a model learns, by component and layer name.

    Raises:
        UserError: nothing does.
    """
    layers: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for name, weight in trainable(model, head).items():
        layer = re.split(r"\.lora_", name)[0] if ".lora_" in name else name.rpartition(".")[0]
        key = (component_of(model, name) or "head", short_name(model, layer))
        layers[key].add(layer)
        counts[key] += weight.numel()
    if not counts:
        raise UserError("Nothing of the model learns.")
    # Counted by transformers, because two four-bit weights are one number to torch.
    lora = sum(p.numel() for name, p in model.network.named_parameters() if ".lora_" in name)
    total = int(model.network.num_parameters()) - lora
    return [Coverage(*key, len(layers[key]), n, n / total) for key, n in sorted(counts.items())]


def coverage_table(rows: list[Coverage]) -> str:
    """The table as text."""
    added, share = sum(row.parameters for row in rows), sum(row.share for row in rows)
    total = Coverage("total", "", sum(row.count for row in rows), added, share)
    width = max(28, *(len(row.layer) + 2 for row in rows))
    lines = [f"{'component':<16}{'layer':<{width}}{'layers':>7}{'parameters':>14}{'share':>9}"]
    lines += [
        f"{r.component:<16}{r.layer:<{width}}{r.count:>7}{r.parameters:>14,}{r.share:>9.2%}" for r in [*rows, total]
    ]
    return "\n".join(lines)


def trainable(model: Model, head: Head | None = None) -> dict[str, nn.Parameter]:
    """The weights of a model and of its head that learn, by name."""
    found = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    if head is not None:
        found |= {f"head.{name}": p for name, p in head.named_parameters() if p.requires_grad}
    return found


def weight_groups(
    model: Model, tune: TuneOptions, train: TrainOptions, head: Head | None = None
) -> list[dict[str, Any]]:
    """The weights that learn as an optimizer's groups, each with its peak learning rate as `peak`.

    A component's rate is its own from the recipe; LoRA's second matrices have it times `tune.lora_plus` (Hayou et al.,
    LoRA+, 2402.12354). Biases, norms and a head's weights are not decayed.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, weight in trainable(model, head).items():
        component = component_of(model, name) or "head"
        rate = tune.rates.get(component, train.learning_rate)  # type: ignore[call-overload]
        rate *= tune.lora_plus if "lora_B" in name else 1
        groups[rate, train.weight_decay if weight.ndim > 1 and component != "head" else 0.0].append(weight)
    return [{"params": ws, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), ws in groups.items()]


def save_tuned(model: Model, folder: Path, head: Head | None = None) -> None:
    """What was tuned, tokenizer and image settings: what `load_tuned` and a processor need, in one folder."""
    if model.peft is not None:
        # Embeddings are never LoRA's; left to find out, PEFT would ask the hub about the base model at every save.
        model.peft.save_pretrained(folder, save_embedding_layers=False)
    if own := _own(model):
        save_file({name: weight.detach().contiguous() for name, weight in own.items()}, folder / WEIGHTS)
    if head is not None:
        head.save(folder / HEAD)
    model.tokenizer.save_pretrained(folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (model.folder / name).exists():
            shutil.copyfile(model.folder / name, folder / name)


def keep_tuned(run: Run, tuned: Tuned, name: str = "tuned") -> None:
    """Save what was tuned or fitted into a run's folder, with processor, question and labels: all that `predict` needs.

    Args:
        name: what the run is called where it is scored: `tuned`, `probe`.
    """
    recipe = run.recipe
    with replacing(run.folder / "adapter") as new:
        save_tuned(tuned.model, new, tuned.head)
        task: dict[str, Any] = {"name": name, "labels": list(run.dataset.labels), "question": asdict(recipe.question)}
        task |= {"base": recipe.model.base, "image_tokens": recipe.model.image_tokens}
        (new / TASK).write_text(json.dumps(task, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tuned(model: Model, folder: Path) -> Head | None:
    """Put what `save_tuned` has saved on the model: a run folder that holds it, or a PEFT folder from elsewhere.

    Returns:
        The head that answers in the decoder's place, if there is one.

    Raises:
        UserError: there is nothing of it, or it doesn't fit the model.
    """
    from peft import PeftModel

    inner = folder / "adapter" if (folder / "adapter").is_dir() else folder
    if not any((inner / name).exists() for name in ("adapter_config.json", WEIGHTS, HEAD)):
        raise UserError(f"There is no adapter in {folder}.", "Give a run folder of `lensmith train`, or a PEFT folder.")
    head: Head | None = None
    try:
        if (inner / "adapter_config.json").exists():
            model.peft = PeftModel.from_pretrained(model.network, str(inner))
        _load_own(model, inner)
        if (inner / HEAD).exists():
            head = load_head(inner / HEAD).to(model.device)
        # Images are shown as they were in training, unless the recipe says otherwise.
        task = json.loads((inner / TASK).read_text(encoding="utf-8")) if (inner / TASK).exists() else {}
        if task.get("image_tokens") and not model.options.image_tokens:
            model.options = replace(model.options, image_tokens=task["image_tokens"])
            model.limit(task["image_tokens"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The adapter in {inner} doesn't fit {model.options.base}: {reason}") from error
    model.network.requires_grad_(False).eval()
    return head


def restore(model: Model, folder: Path, head: Head | None = None) -> None:
    """Bring a model that is being tuned back to the weights that `save_tuned` put into a folder."""
    from peft import set_peft_model_state_dict

    if model.peft is not None:
        set_peft_model_state_dict(model.peft, load_file(folder / "adapter_model.safetensors"))
    _load_own(model, folder)
    if head is not None:
        head.load_state_dict(load_head(folder / HEAD).state_dict())


def _own(model: Model) -> dict[str, nn.Parameter]:
    """The model's own weights that learn: neither LoRA's nor the head's."""
    return {n: w for n, w in trainable(model).items() if ".lora_" not in n and component_of(model, n)}


@torch.no_grad()
def _load_own(model: Model, folder: Path) -> None:
    if not (folder / WEIGHTS).exists():
        return
    weights, modules = dict(model.network.named_parameters()), dict(model.network.named_modules())
    for name, value in load_file(folder / WEIGHTS).items():
        if isinstance(modules[name.rpartition(".")[0]], nn.Linear):
            weights[name].copy_(value)  # held in the type that products run in; see `family.hold_products`
        else:  # as it was learned
            weights[name].data = value.to(weights[name].device)
