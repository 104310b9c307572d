"""Ways of asking, one module each.

To add one, add a file here with `routes(service)` and `OPERATIONS`, its descriptions for /openapi.json by method and
path; nothing else needs editing.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

from starlette.routing import Route

from lensmith.serve.openapi import Operation
from lensmith.serve.service import Service


def all_routes(service: Service) -> list[Route]:
    """The routes of all protocols."""
    return [route for module in _modules() for route in module.routes(service)]


def all_operations() -> dict[str, Operation]:
    """The descriptions of all protocols."""
    return {name: operation for module in _modules() for name, operation in module.OPERATIONS.items()}


def _modules() -> list[ModuleType]:
    return [
        import_module(f"{__name__}.{name}") for name in sorted(info.name for info in pkgutil.iter_modules(__path__))
    ]
