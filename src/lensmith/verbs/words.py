"""The words of a command line, from which a recipe is made: what stands there decides what a word means.

A word with `=` is an option. Another word names a source: a folder with a recipe.yaml is a run; another folder, a table
or SCHEME:LOCATION is data; a YAML file or the name of a shipped recipe is a recipe. A run or recipe may be followed by
data, which then replaces its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lensmith.data.sources as sources
from lensmith.config import DataOptions, Recipe, changed, load_recipe, shipped
from lensmith.data.images import is_image
from lensmith.errors import UserError, nearest
from lensmith.runs.folder import is_run, read_run, recipe_for

Kind = Literal["run", "recipe", "data"]
OF_THE_IMAGES = (
    "image_column",
    "label_column",
    "split_column",
    "splits",
    "class_names",
    "group",
    "corrections",
    "more",
    "unlabelled",
)
"""Options of `data` that belong to certain images."""
FEW = 6
"""The largest number of options that are written out in a command; with more, a run folder stands for them."""


def recipe_from(words: Sequence[str], resumed: Path | None = None) -> Recipe:
    """The recipe that the words describe: sources, and options that change them.

    Args:
        resumed: a run folder whose recipe the options change.

    Raises:
        UserError: a word means nothing, or two things; or two words name the same thing.
    """
    if resumed:
        return recipe_for(None, words, read_run(resumed))
    named: dict[str, str] = {}
    options, sources = divided(words)
    for word in sources:
        role = "data" if kind_of(word) == "data" else "recipe"
        if role in named:
            what = "two sets of images" if role == "data" else "two recipes or runs"
            raise UserError(f"{named[role]!r} and {word!r} are {what}.", "Give one of them.")
        named[role] = word
    if "data" in named:
        if twice := [option for option in options if option.startswith("data.uri=")]:
            raise UserError(f"The images are named twice: {named['data']!r} and {twice[0]!r}.", "Give one of them.")
        base = recipe_for(named.get("recipe"), [])
        # What describes the other images (their columns, class names and corrections) doesn't describe these.
        ours = {key: getattr(DataOptions(), key) for key in OF_THE_IMAGES}
        base.data = replace(base.data, **ours | {"uri": named["data"]})
        return load_recipe(None, options, base)
    return recipe_for(named.get("recipe"), options)


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options among the words, and the others, which name sources."""
    options = [word for word in words if is_option(word)]
    return options, [word for word in words if word not in options]


def listed(text: str) -> list[str]:
    """The names in a list as it is typed: `a,b,c`."""
    return [name for part in text.split(",") if (name := part.strip())]


def is_option(word: str) -> bool:
    """Whether a word is an option and not a source."""
    return "=" in word and not os.path.exists(word)


def kind_of(word: str) -> Kind:
    """What a source is.

    Raises:
        UserError: it doesn't exist, or could be two things.
    """
    path = Path(os.path.expanduser(word))
    exists, is_folder = os.path.exists(path), os.path.isdir(path)  # those of `Path` raise errors for long names
    if exists and word in shipped():
        what = "a folder" if is_folder else "a file"
        raise UserError(
            f"{word!r} is both a shipped recipe and {what} here.",
            f"Write {word}.yaml for the recipe, or ./{word} for {what}.",
        )
    if is_folder:
        if not is_run(path):
            return "data"
        files = (file for pattern in ("*", "*/*") for file in path.glob(pattern))
        if image := next(filter(is_image, files), None):
            raise UserError(
                f"{word} is both a run folder and a folder with images ({image.relative_to(path)}).",
                f"Write data.uri={word} for the images, or move them out of the run folder.",
            )
        return "run"
    if path.suffix.lower() in (".yaml", ".yml") or word in shipped():
        return "recipe"  # reading it reports that it doesn't exist
    if not exists and (close := nearest(word, shipped())) and not re.search(r"[:/\\]", word):
        raise UserError(f"There is no folder, file or recipe {word!r}.", close)
    sources.parse_uri(word)  # raises what is wrong with it
    return "data"


def words_for(recipe: Recipe, run: Path | str) -> list[str]:
    """The shortest words that describe a recipe: its data and its changed options, or else a run folder that has it."""
    options = {key: value for key, value in changed(recipe).items() if key not in ("name", "model.adapter", "data.uri")}
    if len(options) > FEW or not all(isinstance(value, str | int | float | bool) for value in options.values()):
        return [str(run)]
    written = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()}
    return [recipe.data.uri, *(f"{key}={value}" for key, value in written.items())]
