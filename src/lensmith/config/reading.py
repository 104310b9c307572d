"""Recipes read from YAML files and command lines, checked, and explained.

Single options are set as `section.key=value` and win over the file. Unknown keys and wrong types are refused by name,
with the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensmith.config.options import Range, Recipe
from lensmith.errors import UserError, nearest

SHIPPED = Path(__file__).with_name("recipes")
"""Where the recipes that come with Lensmith lie."""


def known_keys(options: type = Recipe, prefix: str = "") -> list[str]:
    """Every option as `section.key`."""
    keys = []
    for f in dataclasses.fields(options):
        section = f.default_factory
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            keys += known_keys(section, f"{prefix}{f.name}.")
        else:
            keys.append(prefix + f.name)
    return keys


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every option of a recipe as `section.key`, with its value."""
    values = {}
    for key in known_keys():
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        values[key] = value
    return values


def load_recipe(source: Path | str | None = None, overrides: Sequence[str] = (), base: Recipe | None = None) -> Recipe:
    """Read a recipe and apply `section.key=value` overrides (values are read as YAML).

    Args:
        source: a YAML file, or the name of a recipe that comes with Lensmith.
        overrides: single options, which win over the file.
        base: the recipe to start from where there is no file; the defaults if None.

    Raises:
        UserError: the file is missing or isn't YAML; a key is unknown; a value has the wrong type or range.
    """
    import yaml

    where = str(source) if source else "the command line"
    values: Any = base.to_dict() if base else {}
    if source is not None:
        path = SHIPPED / f"{source}.yaml"
        path = path if path.exists() and not Path(source).exists() else Path(source)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
            raise UserError(f"There is no recipe {path}.", f"Give a YAML file, or one of: {names}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The recipe {path} can't be read: {error}.") from None
        except yaml.YAMLError as error:
            raise UserError(f"The recipe {path} isn't valid YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(values, dict):
            raise UserError(f"The recipe {path} must hold sections and keys, such as `tune: {{rank: 16}}`.")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is neither a file nor an option.", "Options are written section.key=value.")
        if key not in known_keys():
            raise UserError(f"There is no option {key!r}.", nearest(key, known_keys()))
        section = values
        *path_to, last = key.split(".")
        for part in path_to:
            section = section.setdefault(part, {}) if isinstance(section, dict) else {}
        try:
            section[last] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            section[last] = text
    return recipe_from(values, where)


def recipe_from(values: dict[str, Any], where: str = "the recipe") -> Recipe:
    """A typed recipe from nested plain values; `where` names their origin in messages.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or range.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    sections = [f.default_factory for f in dataclasses.fields(Recipe) if dataclasses.is_dataclass(f.default_factory)]
    for options in (Recipe, Range, *sections):
        setattr(options, "__pydantic_config__", ConfigDict(extra="forbid", allow_inf_nan=False))  # noqa: B010 (no such attribute to mypy)
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        # Of what may be a list or a range, one that is written as a range is meant as one.
        found = error.errors()
        first = next((e for e in found if not (e["type"] == "list_type" and isinstance(e["input"], dict))), found[0])
        key = ".".join(str(part) for part in first["loc"] if part not in ("float", "list[any]", "Range"))
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            raise UserError(f"There is no option {key!r} in {where}.", nearest(key, known_keys())) from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"Option {key} in {where} is {first['input']!r}, but {message}.") from None


def help_text() -> str:
    """Every option with its default and meaning, for `lensmith recipe`."""
    import ast
    import inspect

    lines, defaults = [], flat(Recipe())
    for node in ast.parse(inspect.getsource(inspect.getmodule(Recipe))).body:  # type: ignore[arg-type]
        if not (isinstance(node, ast.ClassDef) and (node.name == "Recipe" or node.name.endswith("Options"))):
            continue
        section = "" if node.name == "Recipe" else node.name.removesuffix("Options").lower()
        lines.append(f"\n{section or 'recipe'}: {ast.get_docstring(node)}")
        for option, note in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(option, ast.AnnAssign)
                and isinstance(note, ast.Expr)
                and isinstance(note.value, ast.Constant)
            ):
                key = f"{section}.{ast.unparse(option.target)}".lstrip(".")
                if key in defaults:
                    lines.append(f"  {key} = {defaults[key]!r}\n      {note.value.value!s}")
    return "\n".join(lines).strip()
