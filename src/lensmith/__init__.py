"""Teach a small open vision-language model your own image classes, and measure how good it is.

Each verb is also a function, imported on first use:

    import lensmith
    recipe = lensmith.load_recipe("recipe.yaml", ["tune.rank=32"])
    record = lensmith.train(recipe)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lensmith import threads

__version__ = "0.2.0"

threads.prepare()

if TYPE_CHECKING:
    from lensmith.config import Recipe, load_recipe
    from lensmith.errors import UserError
    from lensmith.verbs.compare.compare import compare
    from lensmith.verbs.compare.curve import curve
    from lensmith.verbs.compare.ladder import ladder
    from lensmith.verbs.compare.sweep import sweep
    from lensmith.verbs.estimator import Classifier
    from lensmith.verbs.see.check import check
    from lensmith.verbs.see.demo import demo
    from lensmith.verbs.see.evaluate import evaluate, resume_evaluation
    from lensmith.verbs.see.next import next
    from lensmith.verbs.see.report import report
    from lensmith.verbs.see.stress import stress
    from lensmith.verbs.see.suspects import suspects
    from lensmith.verbs.teach.blend import blend
    from lensmith.verbs.teach.probe import probe
    from lensmith.verbs.teach.resume import resume
    from lensmith.verbs.teach.train import train
    from lensmith.verbs.use.fetch import fetch
    from lensmith.verbs.use.label import label
    from lensmith.verbs.use.manifest import manifest
    from lensmith.verbs.use.predict import predict, predict_many

__all__ = [
    "Classifier",
    "Recipe",
    "UserError",
    "blend",
    "check",
    "compare",
    "curve",
    "demo",
    "evaluate",
    "fetch",
    "label",
    "ladder",
    "load_recipe",
    "manifest",
    "next",
    "predict",
    "predict_many",
    "probe",
    "report",
    "resume",
    "resume_evaluation",
    "stress",
    "suspects",
    "sweep",
    "train",
]

_MODULES = {"Recipe": "config", "load_recipe": "config", "UserError": "errors", "Classifier": "verbs.estimator"}
"""Modules of the names that aren't verbs."""
_VERBS = {"resume_evaluation": "evaluate", "predict_many": "predict"}
"""The verbs of further functions."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lensmith' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(f"lensmith.{_MODULES[name]}"), name)
    verb = _VERBS.get(name, name)
    return getattr(import_module("lensmith.verbs").module(verb), name)
