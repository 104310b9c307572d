"""What the sections of a recipe have in common."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

Fraction = Annotated[float, Ge(0.0), Le(1.0)]
Positive = Annotated[int, Gt(0)]


class Options:
    """Base class of all sections: tells pydantic how to validate them."""

    # Not annotated, so that dataclasses don't take it for a field.
    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}  # noqa: RUF012
