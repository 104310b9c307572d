"""LoRA on the parts of a model that a recipe names, through PEFT, and a table of what that hit.

Bare suffixes such as `q_proj` also match the vision tower, and Llama's names miss most of LFM2. So the layers are
taken from the model itself: every linear layer of each chosen component, as one anchored pattern.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lensmith.config import TuneOptions
from lensmith.errors import UserError
from lensmith.models.family import Model


@dataclass(frozen=True)
class Coverage:
    """One line of the table: the linear layers of one name within a component, and what LoRA adds to them."""

    component: str
    layer: str
    count: int
    parameters: int
    """Trainable parameters added."""
    share: float
    """Of all the model's parameters."""


def attach(model: Model, tune: TuneOptions, seed: int = 0) -> list[Coverage]:
    """Put a fresh adapter on the model; only its weights require gradients afterwards.

    Raises:
        UserError: the recipe chooses no component, or one in which there is no linear layer.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    chosen = [name for name in model.components if getattr(tune, name)]
    if not chosen:
        raise UserError("Nothing is tuned.", f"Set one of {', '.join(f'tune.{c}' for c in model.components)} to true.")
    pattern = "|".join(_pattern(model, component) for component in chosen)
    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,
        lora_dropout=tune.dropout,
        target_modules=pattern,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.peft = get_peft_model(model.network, config)
    # The name the recipe gave, and not this machine's path to it, which PEFT fills in.
    model.peft.peft_config["default"].base_model_name_or_path = model.options.base
    return coverage(model)


def _pattern(model: Model, component: str) -> str:
    prefix = model.components[component]
    leaves = {
        name.rpartition(".")[2]
        for name, module in model.network.named_modules()
        if name.startswith(prefix + ".") and isinstance(module, nn.Linear)
    }
    if not leaves:
        raise UserError(f"tune.{component}: there is no linear layer under {prefix}.")
    return rf"{re.escape(prefix)}\.(?:.+\.)?(?:{'|'.join(sorted(leaves))})"


def coverage(model: Model) -> list[Coverage]:
    """What the adapter on the model hit, by component and layer name.

    Raises:
        UserError: an adapter was asked for and hit nothing.
    """
    from peft.tuners.lora import LoraLayer

    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for name, module in model.network.named_modules():
        if isinstance(module, LoraLayer):
            component = next(c for c, prefix in model.components.items() if name.startswith(prefix))
            short = re.sub(r"^.*?\.\d+\.", "", name.removeprefix(model.components[component] + "."))
            row = counts[component, short]
            row[0] += 1
            row[1] += sum(p.numel() for key, p in module.named_parameters() if "lora_" in key)
    if not counts:
        raise UserError("The adapter hits no layer of the model.")
    added = sum(parameters for _, parameters in counts.values())
    total = sum(p.numel() for p in model.network.parameters()) - added
    return [Coverage(c, layer, n, params, params / total) for (c, layer), (n, params) in sorted(counts.items())]


def coverage_table(rows: list[Coverage]) -> str:
    """The table as text."""
    added, share = sum(row.parameters for row in rows), sum(row.share for row in rows)
    total = Coverage("total", "", sum(row.count for row in rows), added, share)
    lines = [f"{'component':<16}{'layer':<28}{'layers':>7}{'parameters':>14}{'share':>9}"]
    lines += [f"{r.component:<16}{r.layer:<28}{r.count:>7}{r.parameters:>14,}{r.share:>9.2%}" for r in [*rows, total]]
    return "\n".join(lines)


def save_adapter(model: Model, folder: Path) -> None:
    """Adapter, tokenizer and image settings: what PEFT and a processor need, in one folder."""
    import shutil

    # Embeddings are never tuned; left to find out, PEFT would ask the hub about the base model at every save.
    model.peft.save_pretrained(folder, save_embedding_layers=False)
    model.tokenizer.save_pretrained(folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (model.folder / name).exists():
            shutil.copyfile(model.folder / name, folder / name)


def load_adapter(model: Model, folder: Path) -> None:
    """Put a saved adapter on the model: a PEFT folder, or a run folder that holds one.

    Raises:
        UserError: there is no adapter, or it doesn't fit the model.
    """
    from peft import PeftModel

    inner = folder / "adapter" if (folder / "adapter").is_dir() else folder
    if not (inner / "adapter_config.json").exists():
        raise UserError(f"There is no adapter in {folder}.", "Give a run folder of `lensmith train`, or a PEFT folder.")
    try:
        model.peft = PeftModel.from_pretrained(model.network, str(inner))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The adapter in {inner} doesn't fit {model.options.base}: {reason}") from error
    model.network.requires_grad_(False).eval()


def trainable(model: Model) -> dict[str, Any]:
    """The adapter's weights by name."""
    return {name: p for name, p in model.network.named_parameters() if p.requires_grad}
