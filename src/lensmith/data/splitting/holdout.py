"""Which images are held out for validation and test, where the source doesn't say.

The choice depends on an image's content, or on the name of its group: adding images moves no others, and exact copies
stay together, as do the images of a group. Only where a class would have no image in a split, one stands in from
another split: first for training, then for validation, then for the test. So a class of three images has one in each. A
stand-in may go back when its class gets more images. Where a split would have no group at all, one stands in likewise.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial

from lensmith.data.splitting.names import SPLITS


def assign_splits(
    units: Sequence[str],
    labels: Sequence[str],
    given: Sequence[str],
    *,
    validation: float,
    test: float,
) -> list[str]:
    """The split of each image.

    Splits that the source defines are kept. Missing ones are held out, from the training images only. `test` and
    `validation` are fractions of all images; if the source defines a test split, `validation` is a fraction of the
    remaining images. Every class is held out with the same probability, so the splits are stratified in expectation,
    not exactly: the number of held-out images of a small class varies as in a random draw.

    Args:
        units: what can only be moved together: of each image, its content id or its group's name; see `groups.units`.
        labels: class of each image.
        given: the split that the source puts each image into; empty if it doesn't say.
        validation: fraction to hold out, from 0 up to but excluding 1.
        test: likewise. Together they are below 1.
    """
    defined = set(given)
    fractions = {split: part for split, part in (("validation", validation), ("test", test)) if split not in defined}
    wanted = ["train", *(split for split, part in fractions.items() if part > 0)]
    splits = []
    classes: dict[str, dict[str, str]] = defaultdict(dict)  # class -> unit -> split, of images that may move
    owners: dict[str, str] = {}
    shared: set[str] = set()  # in several classes, so that they would move in all of them
    for unit, label, source in zip(units, labels, given, strict=True):
        split = assign_split(unit, source, defined, validation=validation, test=test)
        splits.append(split)
        if owners.setdefault(unit, label) != label:
            shared.add(unit)
        if _free(source):
            classes[label][unit] = split
    everything = {unit: split for members in classes.values() for unit, split in members.items()}
    moved = _moves(everything, wanted) if set(wanted) - set(everything.values()) and shared else {}
    for members in classes.values():
        if not set(wanted) <= set(members.values()):
            moved |= _moves({unit: split for unit, split in members.items() if unit not in shared}, wanted)
    if not moved:
        return splits
    return [
        moved.get(unit, split) if _free(source) else split
        for unit, split, source in zip(units, splits, given, strict=True)
    ]


def _free(given: str) -> bool:
    return given not in ("validation", "test")


def _moves(members: dict[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """The images of one class that are put into another split, so that none of its splits is empty.

    Args:
        members: the split of each image, by content id.
        wanted: the splits to fill, the most important one first.
    """
    pools = {split: [content for content, of in members.items() if of == split] for split in SPLITS}
    moved = {}
    for k, split in enumerate(wanted):
        if pools[split]:
            continue
        # From a less important split the last image is taken too.
        donors = [name for name in SPLITS if len(pools[name]) > (name not in wanted[k + 1 :])]
        if not donors:
            break
        donor = max(donors, key=lambda name: (len(pools[name]), SPLITS.index(name)))
        # The image that was closest to belonging there by itself, so that the choice is stable too.
        if split == "train":
            content = max(pools[donor], key=partial(_position, split=donor))
        else:
            content = min(pools[donor], key=partial(_position, split=split))
        pools[donor].remove(content)
        pools[split].append(content)
        moved[content] = split
    return moved


def assign_split(content: str, given: str, defined: Collection[str], *, validation: float, test: float) -> str:
    """The split of the image with this content id (or the group with this name) by itself; see `assign_splits`.

    Args:
        defined: the splits that the source defines.
    """
    if given in ("validation", "test"):
        return given
    if "test" not in defined:
        if held_out(content, "test", test):
            return "test"
        validation /= 1 - test
    if "validation" not in defined and held_out(content, "validation", validation):
        return "validation"
    return "train"


def held_out(content: str, split: str, fraction: float) -> bool:
    """Whether the image with this content id is among the `fraction` (0 to 1) of images held out for `split`."""
    return _position(content, split) < fraction


def _position(content: str, split: str) -> float:
    """Where an image stands among all, from 0 to 1; those below a fraction are held out for the split."""
    # The split's name is a salt, so that the choices for validation and test are independent.
    salted = hashlib.sha256(split.encode() + content.encode()).digest()
    return int.from_bytes(salted[:8], "big") / 2**64
