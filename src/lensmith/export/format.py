"""What every format has: what it can't hold, the files it writes, and how they are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lensmith.export.original import Original
from lensmith.progress import Tell

Ask = Callable[[bytes], Sequence[float] | str]
"""The file of one image -> the log-probabilities of the labels in their order, or the label alone."""


@dataclass(frozen=True)
class Way:
    """One way in which an exported file is asked, by the program that will use it."""

    name: str
    """The program, with its version: `onnxruntime 1.32.0`."""
    ask: Ask
    most: int | None = None
    """The number of images that it is proven on; None for all."""


class Format(ABC):
    """One format. A plug-in is a class of this name in a module of `formats/`.

    Args:
        chosen: how its numbers are stored: one of `numbers`.
    """

    about: ClassVar[str]
    """What it is for, in a few words."""
    numbers: ClassVar[dict[str, float]]
    """How numbers can be stored, and for each the largest fraction of the answers that may differ from the run's."""
    blends: ClassVar[bool] = False
    """Whether it can hold a blend."""

    def __init__(self, chosen: str) -> None:
        self.chosen = chosen

    @abstractmethod
    def require(self, original: Original) -> None:
        """Raises UserError if a package is missing, or if the format can't hold the model."""

    @abstractmethod
    def size(self, original: Original) -> int:
        """About how many bytes the files will take."""

    @abstractmethod
    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        """Write the files into an empty folder. Raises UserError if the converter fails."""

    @abstractmethod
    def opened(self, original: Original, folder: Path) -> AbstractContextManager[list[Way]]:
        """The ways to ask the exported file, while it is open in the program that will use it."""

    @abstractmethod
    def usage(self, folder: Path) -> str:
        """How to use it, in a line or a few."""
