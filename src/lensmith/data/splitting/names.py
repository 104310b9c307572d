"""Which words name a split: those of folders, of a table's cells, and of a dataset's own splits.

What looks like a split is used as one, or the run stops and says what it saw: a test image that is trained on makes a
wrong figure without a word. `data.splits` says it in the user's words, where the names don't.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lensmith.config.options import SplitName
from lensmith.errors import UserError, nearest

SPLITS = ("train", "validation", "test")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),  # as in the `imagefolder` builder of `datasets`
}
_NAMES = {word: split for split, words in _WORDS.items() for word in words}


def split_name(word: str) -> str:
    """`train`, `validation` or `test` for a common name of it (`val`, `dev`, `Testing`, ...), else an empty string."""
    return _NAMES.get(word.strip().casefold(), "")


def split_like(word: str) -> str:
    """The split that a longer name contains, as in `seg_train`, `testset`, `PublicTest` and `val2017`, else an empty
    string. So is a name that contains two."""
    if exact := split_name(word):
        return exact
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", word)
    found = {split_name(part) or split_name(part.casefold().removesuffix("set")) for part in parts} - {""}
    return found.pop() if len(found) == 1 else ""


@dataclass(frozen=True)
class Meaning:
    """What a dataset's names of splits mean."""

    splits: dict[str, str] = field(default_factory=dict)
    """The split of each name that is used."""
    unused: tuple[str, ...] = ()


def meaning_of(names: Iterable[str], given: Mapping[SplitName, list[str] | str] | None, where: str) -> Meaning:
    """The splits that names mean. A name that only contains a split's word is used if no other name is that split.

    Args:
        names: the names of splits in the source.
        given: the names of each split, as the user says (`data.splits`); None to go by the words.
        where: the source, for messages.

    Raises:
        UserError: the user names a split that isn't there.
    """
    names = list(dict.fromkeys(names))
    if given is None:
        splits = {name: split for name in names if (split := split_name(name))}
        exact = set(splits.values())
        splits |= {name: split for name in names if (split := split_like(name)) and split not in exact}
    else:
        splits = {
            name: split for split, found in given.items() for name in ([found] if isinstance(found, str) else found)
        }
        for name in splits.keys() - set(names):
            listed = f"There are: {', '.join(names[:10])}." if names else ""
            raise UserError(
                f"{where} has no split {name!r}, which data.splits names.", f"{nearest(name, names)} {listed}".strip()
            )
    return Meaning(splits, tuple(name for name in names if name not in splits))


def how_to_say(examples: Mapping[str, str]) -> str:
    """The option that says which names are which split, for a hint, from a split to its name."""
    return f"data.splits={{{', '.join(f'{split}: {name}' for split, name in examples.items())}}}"
