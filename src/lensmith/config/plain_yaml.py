"""Read YAML so that no text is changed: a word is a number, a switch or nothing only where its option is.

YAML's own rules turn `2024-01-01` into a date and `no` into false. Here words stay words until the option's type is
known. Numbers and switches follow the core schema of YAML 1.2.2 (section 10.3), in which yes, no, on and off are words.
What a recipe has no use for is refused: tags, references to other parts of the file, and nesting without end.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from lensmith.errors import UserError

LONGEST, DEEPEST = 1_000_000, 20
"""Bytes of the largest recipe, and levels of the deepest nesting."""
_NOTHING = {"", "~", "null", "Null", "NULL"}
_SWITCHES = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+")


class Word(str):
    """Text without quotes, whose meaning depends on the option."""

    __slots__ = ()


def parse(text: str, where: str) -> Any:
    """The mappings, lists and texts of a YAML document; text without quotes is a `Word`.

    Raises:
        UserError: it isn't YAML, contains what a recipe has no use for, or gives a key twice.
    """
    import yaml

    if len(text) > LONGEST:
        raise UserError(f"{where} is too large for a recipe: {len(text):,} characters.", "Check the path.")
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        first = next((event for event in events if not isinstance(event, _framing())), None)
        value = Word("") if first is None or isinstance(first, yaml.StreamEndEvent) else _value(first, events, where, 1)
        if any(isinstance(event, yaml.DocumentStartEvent) for event in events):
            raise UserError(f"{where} contains several documents.", "Remove the line `---` between them.")
        return value
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: a character that doesn't exist
        raise UserError(f"{where} isn't valid YAML: {' '.join(str(error).split())}.") from None


def written(values: dict[str, Any]) -> str:
    """Plain values as YAML, from which `parse` and `typed` make the same values."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # PyYAML writes line separators other than a line feed as they are, and reads them back as spaces.
        style = '"' if any(mark in value for mark in "\x85\u2028\u2029\r") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _framing() -> tuple[type, ...]:
    import yaml

    return yaml.StreamStartEvent, yaml.DocumentStartEvent


def _value(event: Any, events: Iterator[Any], where: str, depth: int) -> Any:
    import yaml

    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise UserError(f"{where} refers to another part of itself in line {line}.", "Write the value out.")
    # A `!` alone says that a word is text, as quotes do.
    if (tag := getattr(event, "tag", None)) and tag != "!":
        raise UserError(f"{where} has the tag {tag!r} in line {line}.", "Remove it.")
    if depth > DEEPEST:
        raise UserError(f"{where} is nested too deeply in line {line}.", "A recipe has sections and options.")
    if isinstance(event, yaml.ScalarEvent):
        return Word(event.value) if event.style is None and not tag else str(event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            items.append(_value(inner, events, where, depth + 1))
        return items
    values: dict[str, Any] = {}
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        line = inner.start_mark.line + 1
        key = _value(inner, events, where, depth + 1)
        if not isinstance(key, str):
            raise UserError(f"{where} has a key that isn't text in line {line}.", "Write it as `option: value`.")
        if key in values:
            raise UserError(f"{where} gives {str(key)!r} twice, again in line {line}.", "Keep one of them.")
        values[str(key)] = _value(next(events), events, where, depth + 1)
    return values


def typed(value: Any, kind: Any, key: str = "") -> Any:
    """Plain values in which each word has the meaning that its option's type gives it.

    What doesn't fit the type stays as it is, for the validation of the recipe to report.

    Args:
        value: as from `parse`.
        kind: the type of the option, or the class of a section.
        key: the option, for messages.

    Raises:
        UserError: a number has a decimal comma.
    """
    if get_origin(kind) is typing.Annotated:
        return typed(value, get_args(kind)[0], key)
    if isinstance(value, dict):
        if section := next((one for one in _alternatives(kind) if dataclasses.is_dataclass(one)), None):
            kinds = typing.get_type_hints(section, include_extras=True)
            return {k: typed(v, kinds.get(k, Any), f"{key}.{k}".lstrip(".")) for k, v in value.items()}
        inner = next((get_args(one)[1] for one in _alternatives(kind) if get_origin(one) is dict), Any)
        return {k: typed(v, inner, key) for k, v in value.items()}
    if isinstance(value, list):
        inner = next((get_args(one)[0] for one in _alternatives(kind) if get_origin(one) is list), Any)
        return [typed(item, inner, key) for item in value]
    return _meaning(value, kind, key) if isinstance(value, Word) else value


def is_text(kind: Any) -> bool:
    """Whether an option of this type takes text, or text or nothing."""
    return set(_alternatives(kind)) in ({str}, {str, type(None)})


def _alternatives(kind: Any) -> list[Any]:
    """The types of a union, or the type alone, without annotations."""
    if get_origin(kind) is typing.Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for one in get_args(kind) for inner in _alternatives(one)]
    return [kind]


def _meaning(word: Word, kind: Any, key: str) -> Any:
    text, kinds = str(word), _alternatives(kind)
    if type(None) in kinds and text in _NOTHING:
        return None
    if str in kinds or any(get_origin(one) is Literal and text in get_args(one) for one in kinds):
        return text
    if (int in kinds or float in kinds) and _DECIMAL_COMMA.fullmatch(text):
        raise UserError(f"Option {key} is {text}, with a decimal comma.", f"Write {text.replace(',', '.')}.")
    if text in _NOTHING:
        return None
    if text in _SWITCHES:
        return _SWITCHES[text]
    if _INTEGER.fullmatch(text) and len(text) < 400:
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    special = {".inf": "inf", "-.inf": "-inf", ".nan": "nan"}
    return float(special[text.lower()]) if text.lower() in special else text
