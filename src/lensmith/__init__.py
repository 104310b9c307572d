"""Lensmith teaches a small open vision-language model a person's own image classes, and proves how good it got.

The verbs are functions too, loaded on demand:

    import lensmith
    recipe = lensmith.load_recipe("recipe.yaml", ["tune.rank=32"])
    record = lensmith.train(recipe)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lensmith.comparing import compare
    from lensmith.config import Recipe, load_recipe
    from lensmith.errors import UserError
    from lensmith.fetching import fetch
    from lensmith.ladders import ladder
    from lensmith.learning_curves import curve
    from lensmith.probing import probe
    from lensmith.quickstart import demo
    from lensmith.suspicion import suspects
    from lensmith.sweeps import sweep
    from lensmith.verbs import evaluate, predict, resume, resume_evaluation, train

__all__ = [
    "Recipe",
    "UserError",
    "compare",
    "curve",
    "demo",
    "evaluate",
    "fetch",
    "ladder",
    "load_recipe",
    "predict",
    "probe",
    "resume",
    "resume_evaluation",
    "suspects",
    "sweep",
    "train",
]

_HOME = {
    "Recipe": "config",
    "load_recipe": "config",
    "UserError": "errors",
    "demo": "quickstart",
    "compare": "comparing",
    "fetch": "fetching",
    "probe": "probing",
    "ladder": "ladders",
    "curve": "learning_curves",
    "sweep": "sweeps",
    "suspects": "suspicion",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lensmith' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lensmith.{_HOME.get(name, 'verbs')}"), name)
