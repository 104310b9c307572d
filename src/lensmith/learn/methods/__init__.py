"""Methods: the ways to make a classifier. A module here offers `METHODS`; the result of each is a run folder.

Probe, ladder, learning curve and demo know methods by this interface alone, so a new method is a new `Method` in a
module of this folder, and nothing else to edit.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.errors import UserError, nearest
from lensmith.learn.frozen import SharedFrozenModel
from lensmith.runs.folder import Run


@dataclass(frozen=True)
class Made:
    """What making a classifier took."""

    seconds: float
    note: str = ""
    """A sentence on what was chosen, for the report."""
    cached: bool = False
    """Whether features were in the cache, so that the seconds exclude their extraction."""


class Method(ABC):
    """One way to make a classifier for a dataset."""

    name: str
    about: str
    """What it is, in a few words."""
    cost: int
    """Its position among the methods, the cheapest first."""
    learns: bool = True
    """Whether it learns from training images."""
    deterministic: bool = False
    """Whether the same images always make the same classifier."""
    listed: bool = True
    """Whether a ladder has it where the recipe names no methods."""

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe by which the classifier is made and scored."""
        return replace(recipe, model=replace(recipe.model, adapter=None))

    def labels(self, dataset: ImageDataset) -> int:
        """The number of labelled images it learns from, those it is chosen by included."""
        return len(dataset.train) + len(dataset.validation)

    @abstractmethod
    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        """Raises UserError if it can't work with this recipe (`recipe`) and dataset."""

    @abstractmethod
    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> Made:
        """Make the classifier into a run folder that has been started; test images are not touched.

        Args:
            run: with this method's recipe.
            resume: what an earlier call has left in the folder.

        Raises:
            UserError, Stopped: see `learn.loop.train` and `FrozenModel.fit`.
        """

    @abstractmethod
    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        """How many test images are correct after learning from `size` training images.

        Args:
            run: with this method's recipe, and a folder that need not exist yet and is not needed afterwards.
            seed: chooses the subset; subsets of one seed are nested.
        """


@cache
def methods() -> dict[str, Method]:
    """All methods by name, the cheapest first."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Method] = [method for module in modules for method in module.METHODS]
    return {method.name: method for method in sorted(found, key=lambda method: method.cost)}


def chosen(option: str, names: Sequence[str] | None, learning: bool = False) -> list[Method]:
    """The methods that an option names, the cheapest first; None for all that are listed.

    Args:
        option: its name, for the message.
        learning: only methods that learn from training images will do.

    Raises:
        UserError: there is no such method.
    """
    known = {name: method for name, method in methods().items() if method.learns or not learning}
    for name in names or []:
        if name not in known:
            hint = f"{nearest(name, known)} Known: {', '.join(known)}.".strip()
            raise UserError(f"{option} names {name!r}, which is not a method for it.", hint)
    return [method for name, method in known.items() if (method.listed if names is None else name in names)]
