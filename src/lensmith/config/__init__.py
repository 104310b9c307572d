"""Every option of Lensmith, declared once (`options`), and recipes read from files and command lines (`reading`)."""

from lensmith.config.options import (
    AugmentOptions,
    CurveOptions,
    DataOptions,
    EvaluateOptions,
    LadderOptions,
    ModelOptions,
    PlaceOptions,
    ProbeOptions,
    QuestionOptions,
    Range,
    Recipe,
    SuspectsOptions,
    SweepOptions,
    TrainOptions,
    TuneOptions,
)
from lensmith.config.reading import SHIPPED, flat, help_text, known_keys, load_recipe, recipe_from

__all__ = [
    "SHIPPED",
    "AugmentOptions",
    "CurveOptions",
    "DataOptions",
    "EvaluateOptions",
    "LadderOptions",
    "ModelOptions",
    "PlaceOptions",
    "ProbeOptions",
    "QuestionOptions",
    "Range",
    "Recipe",
    "SuspectsOptions",
    "SweepOptions",
    "TrainOptions",
    "TuneOptions",
    "flat",
    "help_text",
    "known_keys",
    "load_recipe",
    "recipe_from",
]
