"""Ways of asking, one module each. To add one, add a file here with `routes(service)`; nothing else needs editing."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import cast

from starlette.routing import Route

from lensmith.serve.service import Service


def all_routes(service: Service) -> list[Route]:
    """The routes of all protocols."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [route for name in names for route in cast(list[Route], import_module(f"{__name__}.{name}").routes(service))]
