"""Read recipes from YAML files and command lines, validate them, and print the help for all options.

Options given as `section.key=value` override the file. An unknown key or a wrong type is an error that names the key
and suggests the closest existing one. Renamed options are still accepted under their former names, with a note.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import textwrap
import threading
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import plain_yaml
from lensmith.config.options import RENAMED, Recipe
from lensmith.config.other_tools import in_our_words
from lensmith.config.plain_yaml import LONGEST, Word
from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SHIPPED = Path(__file__).with_name("recipes")
"""The folder with the recipes that are shipped with Lensmith."""


class OldName(UserWarning):
    """An option was set by its former name."""


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
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = value
    return values


def load_recipe(
    source: Path | str | None = None, overrides: Sequence[str] = (), base: Recipe | None = None, quiet: bool = False
) -> Recipe:
    """Read a recipe and apply `section.key=value` overrides.

    An option that takes text takes it as it is typed. Other values are YAML; see `plain_yaml`.

    Args:
        source: a YAML file, or the name of a shipped recipe.
        overrides: options that override the file.
        base: the recipe to start from if there is no file; the defaults if None.
        quiet: don't warn (`OldName`) about former names of options.

    Raises:
        UserError: the file is missing or isn't YAML; a key is unknown; a value has the wrong type or is out of range.
    """
    values: Any = base.to_dict() if base else {}
    if source is not None:
        values = _read(source)
    old = renamed(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is neither a file nor an option.", "Write options as section.key=value.")
        if key in RENAMED:
            old.append(key)
            key = RENAMED[key]
        if key not in known_keys():
            hint = in_our_words(key, text, known_keys()) or nearest(key, known_keys())
            raise UserError(f"There is no option {key!r}.", hint)
        _set(values, key, _option_value(key, text))
    for key in dict.fromkeys([] if quiet else old):
        warnings.warn(f"{key} is now called {RENAMED[key]}.", OldName, stacklevel=2)
    return recipe_from(plain_yaml.typed(values, Recipe), str(source) if source else "the command line")


def _read(source: Path | str) -> dict[str, Any]:
    """The plain values of a recipe file."""
    # `demo-fashion.yaml` also names a shipped recipe, for a folder that contains something called `demo-fashion`.
    path = SHIPPED / f"{str(source).removesuffix('.yaml')}.yaml"
    path = path if os.path.exists(path) and not os.path.isfile(source) else Path(source)
    try:
        if path.stat().st_size > LONGEST:
            raise UserError(f"{path} is too large for a recipe.", "Check the path.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"There is no recipe {path}.", f"Give a YAML file, or one of: {', '.join(shipped())}."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"The recipe {path} isn't text in UTF-8.", "Save it as UTF-8, or check the path.") from None
    except OSError as error:
        raise UserError(f"The recipe {path} can't be read: {error.strerror}.", "Check the path.") from None
    values = plain_yaml.parse(text, f"The recipe {path}")
    if values == "":
        return {}
    if not isinstance(values, dict):
        raise UserError(f"The recipe {path} must contain sections and keys, such as `tune: {{rank: 16}}`.")
    return values


@functools.cache
def _kinds() -> dict[str, Any]:
    """The type of every option, as `section.key`."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(Recipe, include_extras=True).items():
        inner = typing.get_type_hints(kind, include_extras=True) if dataclasses.is_dataclass(kind) else {}
        found |= {f"{name}.{key}": inner[key] for key in inner} or {name: kind}
    return found


def _option_value(key: str, text: str) -> Any:
    """The value of an option on the command line: text as it is typed, everything else as YAML."""
    if not text or not plain_yaml.is_text(_kinds()[key]):
        return plain_yaml.parse(text, key) if text else ""
    # Where nothing is allowed, `null` says so. A folder of this name is `./null`.
    return Word(text) if text == "null" else text


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in nested plain values."""
    section, _, name = key.rpartition(".")
    inner = values.setdefault(section, {}) if section else values
    if isinstance(inner, dict):  # otherwise recipe_from reports the section
        inner[name] = value


def renamed(values: dict[str, Any]) -> list[str]:
    """Replace former option names in nested plain values, in place; returns the former names that occurred."""
    former = []
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        inner = values.get(section)
        if not isinstance(inner, dict) or name not in inner:
            continue
        goal, _, key = new.partition(".")
        target = values.setdefault(goal, {})
        if isinstance(target, dict):  # otherwise recipe_from reports the section
            target[key] = inner.pop(name)
            former.append(old)
        if not inner and section not in sections():
            del values[section]
    sweep = values.get("sweep")
    over = sweep.get("over") if isinstance(sweep, dict) else None
    if isinstance(sweep, dict) and isinstance(over, dict):
        former += [key for key in over if key in RENAMED]
        sweep["over"] = {RENAMED.get(key, key): value for key, value in over.items()}
    return former


def recipe_from(values: dict[str, Any], where: str = "the recipe") -> Recipe:
    """A validated recipe from nested plain values; `where` names their origin in messages.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or is out of range.
    """
    from pydantic import ValidationError

    values = copy.deepcopy(values)
    renamed(values)
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        # An option may accept a list or a range. For a value written as a range, skip the error about lists.
        errors = error.errors()
        first = next((e for e in errors if not (e["type"] == "list_type" and isinstance(e["input"], dict))), errors[0])
        key = ".".join(str(name) for name in first["loc"] if name not in ("float", "list[any]", "Range"))
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            raise UserError(f"There is no option {key!r} in {where}.", nearest(key, known_keys())) from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"Option {key} in {where} is {first['input']!r}, but {message}.") from None


_LOCK = threading.Lock()


@functools.cache
def _built() -> TypeAdapter[Recipe]:
    from pydantic import TypeAdapter

    return TypeAdapter(Recipe)


def _adapter() -> TypeAdapter[Recipe]:
    # pydantic parses the options' docstrings from source, and Python's parser isn't safe in two threads at once.
    with _LOCK:
        return _built()


def help_text(only: str | None = None) -> str:
    """The text of `lensmith recipe`: every option with its default and meaning.

    Args:
        only: a section; None for all.

    Raises:
        UserError: there is no such section.
    """
    from pydantic import TypeAdapter

    if only is not None and only not in sections():
        hint = nearest(only, sections()) or f"Sections: {', '.join(sections())}."
        raise UserError(f"A recipe has no section {only!r}.", hint)
    lines, defaults = [], flat(Recipe())
    for section, options in {"": Recipe, **sections()}.items():
        if only not in (None, section):
            continue
        lines.append(f"\n{section or 'recipe'}: {options.__doc__}")
        for name, about in TypeAdapter(options).json_schema()["properties"].items():
            key = f"{section}.{name}".lstrip(".")
            if key in defaults:
                meaning = textwrap.fill(about["description"], 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
                lines.append(f"  {key} = {defaults[key]!r}\n{meaning}")
    return "\n".join(lines).strip()


def sections() -> dict[str, Any]:
    """The sections of a recipe by name, with their classes."""
    return {f.name: f.default_factory for f in dataclasses.fields(Recipe) if isinstance(f.default_factory, type)}


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Lensmith recipe"}
    return about | _adapter().json_schema()


def shipped() -> list[str]:
    """The names of the recipes that are shipped with Lensmith."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def changed(recipe: Recipe) -> dict[str, Any]:
    """The options of a recipe that differ from the defaults, as `section.key`."""
    defaults = flat(Recipe())
    return {key: value for key, value in flat(recipe).items() if value != defaults[key]}
