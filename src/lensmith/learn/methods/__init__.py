"""Methods: the ways to make a classifier. Each module here defines `METHODS`; each method's result is a run folder.

Probe, ladder, learning curve and demo use methods only through this interface. To add a method, add a `Method` to a
module of this folder; nothing else has to be edited.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module

from torch import Tensor

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.errors import UserError, nearest
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.measure.pace import Pace
from lensmith.runs.folder import Run


@dataclass(frozen=True)
class MakeResult:
    """How long it took to make a classifier, and what was chosen."""

    seconds: float
    note: str = ""
    """A sentence about what was chosen, for the report."""
    cached: bool = False
    """Whether features were cached, so that `seconds` excludes their extraction."""


class Method(ABC):
    """One way to make a classifier for a dataset."""

    name: str
    about: str
    """What it is, in a few words."""
    cost: int
    """Its rank by cost: methods are sorted by it, the cheapest first."""
    learns: bool = True
    """Whether it learns from training images."""
    trains: bool = False
    """Whether it trains weights of the model, which takes longer than all else."""
    deterministic: bool = False
    """Whether the same images always give the same classifier."""
    listed: bool = True
    """Whether it is used when the recipe names no methods."""

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with which this method makes and scores its classifier."""
        return replace(recipe, model=replace(recipe.model, adapter=None))

    def labels(self, dataset: ImageDataset) -> int:
        """The number of labelled images it needs, including those used to choose settings or weights."""
        return len(dataset.train) + len(dataset.validation)

    def seconds(self, pace: Pace, recipe: Recipe, dataset: ImageDataset) -> float:
        """About how long making it will take, once features have been extracted."""
        return 0.0

    @abstractmethod
    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        """Raises UserError if it can't work with this recipe (from `recipe`) and dataset."""

    @abstractmethod
    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> MakeResult:
        """Make the classifier, without using test images, and write it into a run folder that has been started.

        Args:
            run: has this method's recipe.
            resume: whether to continue with what an earlier call has written into the folder.

        Raises:
            UserError, Stopped: see `learn.loop.train` and `FrozenModel.fit`.
        """

    def held_out(self, run: Run, shared: SharedFrozenModel, parts: Sequence[Sequence[int]]) -> Tensor | None:
        """What classifiers of this method say of validation images that chose none of their settings.

        Args:
            run: the method's folder, with the classifier that was made there.
            parts: indices of validation images: each part is scored by the classifier that the other parts choose. If
                there is only one, by the one that it chooses itself.

        Returns:
            (validation images, classes) log-probabilities, NaN for an image that can't be read. None if validation
            images choose nothing but a checkpoint and a calibration, so that the classifier itself is judged.
        """
        return None

    @abstractmethod
    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        """The number of correctly classified test images after learning from `size` training images.

        Args:
            run: has this method's recipe. Its folder need not exist yet and can be removed afterwards.
            seed: selects the subset; the subsets of one seed are nested.
        """


@cache
def methods() -> dict[str, Method]:
    """All methods by name, the cheapest first."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    unsorted: list[Method] = [method for module in modules for method in module.METHODS]
    return {method.name: method for method in sorted(unsorted, key=lambda method: method.cost)}


def chosen(option: str, names: Sequence[str] | None, learning: bool = False) -> list[Method]:
    """The methods that an option names, the cheapest first; all listed ones if `names` is None.

    Args:
        option: the option's name, for the error message.
        learning: allow only methods that learn from training images.

    Raises:
        UserError: there is no such method, or it isn't allowed here.
    """
    known = {name: method for name, method in methods().items() if method.learns or not learning}
    for name in names or []:
        if name not in known:
            hint = f"{nearest(name, known)} Known: {', '.join(known)}.".strip()
            raise UserError(f"{option} contains {name!r}, which is not a method it can use.", hint)
    return [method for name, method in known.items() if (method.listed if names is None else name in names)]
