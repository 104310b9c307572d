"""A taught model written for other programs, and proven again in each: its test images through the exported file.

`formats/` has one module for each format, found by its name, as in `lensmith export RUN --to onnx`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from lensmith.export.format import Format


def known() -> list[str]:
    """The names of all formats, which are the modules of their folder."""
    from lensmith.export import formats

    return [module.name for module in pkgutil.iter_modules(formats.__path__)]


def find(name: str, numbers: str | None = None) -> Format:
    """A format, with a format of its numbers; None takes its first.

    Raises:
        UserError: there is no such format, or it doesn't have such numbers.
    """
    if name not in known():
        raise UserError(
            f"There is no format {name!r}.", f"{nearest(name, known())} Known: {', '.join(known())}.".strip()
        )
    kind: type[Format] = importlib.import_module(f"lensmith.export.formats.{name}").Format
    if numbers is not None and numbers not in kind.numbers:
        raise UserError(f"{name} has no numbers {numbers!r}.", f"It has: {', '.join(kind.numbers)}.")
    return kind(numbers or next(iter(kind.numbers)))
