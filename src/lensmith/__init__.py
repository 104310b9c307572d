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
    from lensmith.config import Recipe, load_recipe
    from lensmith.errors import UserError
    from lensmith.verbs.compare import compare
    from lensmith.verbs.curve import curve
    from lensmith.verbs.demo import demo
    from lensmith.verbs.evaluate import evaluate, resume_evaluation
    from lensmith.verbs.fetch import fetch
    from lensmith.verbs.ladder import ladder
    from lensmith.verbs.predict import predict
    from lensmith.verbs.probe import probe
    from lensmith.verbs.resume import resume
    from lensmith.verbs.suspects import suspects
    from lensmith.verbs.sweep import sweep
    from lensmith.verbs.train import train

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

_HOME = {"Recipe": "config", "load_recipe": "config", "UserError": "errors", "resume_evaluation": "verbs.evaluate"}
"""The module of each name; a verb's function is in the module of its name."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lensmith' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lensmith.{_HOME.get(name, f'verbs.{name}')}"), name)
