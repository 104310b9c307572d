"""Groups of images that aren't independent: of one house, patient, camera or film. They stay in one split.

A column of the source names each image's group, or a pattern finds the name in its path. An image without a group is
one by itself, with its exact copies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lensmith.data.source import count
from lensmith.data.splitting.names import SPLITS
from lensmith.errors import UserError, nearest


def group_column(named: str | None, available: Sequence[str], where: str) -> str | None:
    """The column that names the groups; None if nothing does, or a pattern.

    Raises:
        UserError: `data.group` is neither a column of the table nor a pattern.
    """
    if named is None or named in available:
        return named
    if "(" not in named:
        raise UserError(
            f"data.group names {named!r}, which isn't a column of {where}.",
            f"{nearest(named, available)} Its columns: {', '.join(available)}. Or give a pattern of paths, with "
            "parentheses around the group's name.".strip(),
        )
    return None


def group_pattern(named: str | None, uri: str) -> Callable[[str], str]:
    """Finds the name of an image's group in its path; empty if there is none.

    Raises:
        UserError: `data.group` isn't a pattern that can be searched for.
    """
    if named is None or "(" not in named:  # a column, which the source has read
        return lambda _: ""
    try:
        pattern = re.compile(named)
    except re.error as error:
        raise UserError(f"data.group={named} isn't a pattern: {error}.", "It is a regular expression.") from None
    if not pattern.groups:
        raise UserError(
            f"data.group={named} has no parentheses that name a group in {uri}.",
            "Put them around what images of a group have in common, as in (house[0-9]+)_.",
        )

    def group(path: str) -> str:
        found = pattern.search(path.replace("\\", "/"))
        return "/".join(text for text in found.groups() if text) if found else ""

    return group


def units(contents: Sequence[str], groups: Sequence[str]) -> list[str]:
    """What can only be moved together: of each image, the name of its group, or else its content id.

    Groups that contain copies of the same image are one unit, named by the first of them in alphabetical order.
    """
    if not any(groups):
        return list(contents)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (up := parent.setdefault(key, key)) != key:
            parent[key] = key = parent[up]
        return key

    keys = [f"group {group}" if group else content for content, group in zip(contents, groups, strict=True)]
    for content, key in zip(contents, keys, strict=True):
        first, second = sorted((root(f"image {content}"), root(key)))
        parent[second] = first  # "group ..." comes before "image ..."
    return [found.removeprefix("image ") for found in map(root, keys)]


def group_notes(groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Sentences on the groups of all images: how many each split has, and which couldn't be kept together."""
    of_group: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        if group:
            of_group.setdefault(group, set()).add(split)
    if not of_group:
        return []
    numbers = ", ".join(f"{sum(split in found for found in of_group.values()):,} in {split}" for split in SPLITS)
    alone = sum(not group for group in groups)
    others = f"; {count(alone, 'image')} without one" if alone else ""
    notes = [f"Groups that stay together: {len(of_group):,} ({numbers}){others}."]
    if crossing := [group for group, found in of_group.items() if len(found) > 1]:
        notes.append(
            f"Groups in several splits, since the source gives the splits: {len(crossing):,}, for example "
            f"{crossing[0]}. Test results will look too good."
        )
    return notes
