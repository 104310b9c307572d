"""How images lie in folders: which folders are splits, which are classes, and which only wrap them.

The layouts are those of the datasets that people download: `CLASS`, `train/CLASS`, `seg_train/seg_train/CLASS`,
`images/train/CLASS` and `CLASS/train`. What could be read in two ways is refused, with the option that says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lensmith.config.options import SplitName
from lensmith.data.paths import natural_key
from lensmith.data.source import count
from lensmith.data.splitting.names import how_to_say, meaning_of, split_like, split_name
from lensmith.errors import UserError

DEPTH = 6
"""Levels of folders that are told apart; deeper ones count as their ancestor at this level."""
Place = tuple[str, ...]
"""The names of the folders from the root to an image."""


class Tree:
    """How many images lie directly in each folder, and nothing else of them."""

    def __init__(self, images: Mapping[Place, int]) -> None:
        self.images = Counter[Place]()
        for place, number in images.items():
            self.images[place[:DEPTH]] += number
        self._inner: dict[Place, set[str]] = {}
        for place in self.images:
            for k, name in enumerate(place):
                self._inner.setdefault(place[:k], set()).add(name)

    def inner(self, place: Place = ()) -> list[str]:
        """The folders in a folder that have images, at any depth."""
        return sorted(self._inner.get(place, ()), key=natural_key)

    def places(self) -> list[Place]:
        """Every folder that has images, at any depth, and isn't the root."""
        return [(*place, name) for place in sorted(self._inner) for name in self.inner(place)]


@dataclass(frozen=True)
class Layout:
    """Where the class folders are."""

    tops: Mapping[Place, str]
    """The folders that contain class folders, with their split; it is empty where the source doesn't assign one."""
    split_below: bool = False
    """Whether each class folder contains the splits, instead of the other way round."""
    notes: tuple[str, ...] = ()

    def of(self, place: Place) -> tuple[str, str] | None:
        """The class and the split of an image in this folder; None if it is outside any class folder."""
        for k in range(len(place) - 1, -1, -1):
            if place[:k] in self.tops:
                if not self.split_below:
                    return place[k], self.tops[place[:k]]
                return (place[k], split_name(place[k + 1])) if len(place) > k + 1 else None
        return None


def layout_of(root: Path, tree: Tree, given: Mapping[SplitName, list[str] | str] | None) -> Layout:
    """The layout of a folder.

    Args:
        given: the folders of each split, as the user says (`data.splits`), relative to the root; None to go by their
            names, and an empty mapping if all folders are classes.

    Raises:
        UserError: the folders could be splits or classes; or the user names one that isn't there.
    """
    if given == {}:
        return Layout({(): ""})
    if given is not None:
        meaning = meaning_of(["/".join(place) for place in tree.places()], given, str(root))
        tops = {tuple(name.split("/")): split for name, split in meaning.splits.items()}
        return _within(tree, tops, named=True)
    base: Place = ()
    while True:
        if tops := _splits_in(root, tree, base):
            return _within(tree, tops)
        if _splits_below(root, tree, base):
            return Layout({base: ""}, split_below=True)
        names = tree.inner(base)
        if len(names) != 1 or tree.images[base]:
            break
        base = (*base, names[0])  # perhaps a folder that only wraps splits, as `images` in images/train/CLASS
    first = tree.inner()
    if len(first) == 1 and not tree.images[()] and not tree.images[(first[0],)] and len(tree.inner((first[0],))) > 1:
        raise UserError(
            f"All images of {root} are in the folder {first[0]!r}, so there is only one class.",
            f"If the folders in it are the classes, give {root / first[0]}.",
        )
    return Layout({(): ""})


def _within(tree: Tree, tops: Mapping[Place, str], named: bool = False) -> Layout:
    """The layout with these splits, inside the folders that repeat a split's name (`seg_train/seg_train`)."""
    inside: dict[Place, str] = {}
    for top, split in tops.items():
        place = top
        while not tree.images[place] and len(names := tree.inner(place)) == 1:
            if names[0] != place[-1] and split_like(names[0]) != split:
                break
            place = (*place, names[0])
        inside[place] = split
    plain = all(split_name(top[-1]) for top in tops) and not named
    said = "; ".join(f"{'/'.join(top)} is {split}" for top, split in tops.items())
    notes = [] if plain else [f"Splits by folder: {said}."]
    outside = sum(n for place, n in tree.images.items() if place and not any(place[: len(t)] == t for t in tops))
    if outside:
        notes.append(f"Outside the folders of the splits, ignored: {count(outside, 'image')}.")
    return Layout(inside, notes=tuple(notes))


def _splits_in(root: Path, tree: Tree, place: Place) -> dict[Place, str]:
    """The folders in a folder that are splits; empty if they are classes."""
    names = tree.inner(place)
    like = {name: split for name in names if (split := split_like(name))}
    filled = {name for name in like if tree.images[(*place, name)]}
    if like and len(like) == len(names):
        # Folders full of images that all name one split are classes: `train horn` and `train bell`.
        if all(map(split_name, names)) or len(set(like.values())) > 1 or not filled:
            return {(*place, name): split for name, split in like.items()}
        return {}
    # A folder `train` full of images beside `bus` is a class of vehicles; one that contains only folders is a split.
    hollow = [name for name in like if name not in filled and (split_name(name) or len(set(like.values())) > 1)]
    exact = [name for name in like if split_name(name)]
    if splits := hollow or (exact if len({split_name(name) for name in exact}) > 1 else []):
        other = next(name for name in names if name not in splits)
        places = {like[name]: "/".join((*place, name)) for name in splits}
        raise UserError(
            f"{root.joinpath(*place)} has both splits ({', '.join(splits)}) and other folders ({other!r}).",
            f"Keep one kind of folder there, or say which is which: {how_to_say(places)}, "
            "or data.splits={} if all are classes.",
        )
    return {}


def _splits_below(root: Path, tree: Tree, base: Place) -> bool:
    """Whether all class folders in a folder contain split folders (`CLASS/train`, `CLASS/test`) and no other images."""
    names = tree.inner(base)

    def splits(name: str) -> set[str]:
        inner = tree.inner((*base, name))
        found = {split_name(folder) for folder in inner}
        return found if inner and "" not in found and not tree.images[(*base, name)] else set()

    found = {name: splits(name) for name in names}
    if len(names) < 2 or len(set().union(*found.values())) < 2:
        return False
    if without := [name for name in names if not found[name]]:
        other = next(name for name in names if found[name])
        raise UserError(
            f"In {root.joinpath(*base)}, the class folder {other!r} contains splits "
            f"({', '.join(tree.inner((*base, other)))}), but {without[0]!r} doesn't.",
            "Arrange all class folders alike, or write data.splits={} to use no splits.",
        )
    return True
