"""Outside models: asked over the network for the classes of images, each answer recorded with its delay and its usage.

`providers/` has one module for each protocol, found by its name, as in `model.base=openai:NAME@URL`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

from lensmith.config.api import OUTSIDE
from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from lensmith.apis.provider import Provider


def known() -> list[str]:
    """The names of all providers, which are the modules of their folder."""
    from lensmith.apis import providers as folder

    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(folder.__path__)]


def is_outside(base: str) -> bool:
    """Whether a base model is an outside model (`PROVIDER:NAME` or `PROVIDER:NAME@URL`)."""
    return OUTSIDE.fullmatch(base) is not None


def find(base: str) -> Provider:
    """The provider of an outside model.

    Raises:
        UserError: there is no such provider, or the URL isn't one.
    """
    if not (found := OUTSIDE.fullmatch(base)):
        raise UserError(f"{base!r} doesn't name an outside model.", "Write PROVIDER:NAME or PROVIDER:NAME@URL.")
    names, word, url = known(), found["provider"], found["url"]
    if word not in names:
        raise UserError(f"There is no provider {word!r}.", f"{nearest(word, names)} Known: {', '.join(names)}.".strip())
    if url and not re.match(r"https?://[^/\s]+", url):
        raise UserError(f"{url!r} isn't the URL of a server.", f"Write {word}:NAME@http://HOST:PORT/v1, for example.")
    made: Provider = importlib.import_module(f"lensmith.apis.providers.{word.replace('-', '_')}").Provider(
        found["name"], url
    )
    return made
