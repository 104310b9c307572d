"""What the pages share that classify pictures as a person drops them: the server's, and the one that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensmith.pages.page import templates

_PARTS = Path(__file__).with_name("live")


def part(name: str) -> str:
    """A shared file: `pictures.css`, or `pictures.js`."""
    return (_PARTS / name).read_text(encoding="utf-8")


def render(template: Path, **values: Any) -> str:
    """A page as HTML. Its template extends `pictures.html.j2`."""
    return templates(template.parent, _PARTS).get_template(template.name).render(**values)
