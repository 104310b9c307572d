"""What all pages share: filling in a template, and pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lensmith.pages import numbers
from lensmith.pages.charts import cells
from lensmith.records import Evaluation

if TYPE_CHECKING:
    import jinja2

_LIVE = Path(__file__).with_name("live")
_SMALL, _LARGE = 96, 256  # pixels of the longer side of a picture
_FILTERS = (
    numbers.percentage,
    numbers.whole_percentage,
    numbers.percentage_interval,
    numbers.decimal,
    numbers.decimal_interval,
    numbers.points,
    numbers.points_interval,
    numbers.p_value,
    numbers.rounded_up,
    numbers.duration,
    numbers.dollars,
    cells.interval,
    cells.change,
    cells.difference,
)


def fill_template(name: str, notes: Iterable[str], evaluations: Sequence[Evaluation] = (), **values: Any) -> str:
    """Fill in a template and return the page as HTML.

    Args:
        name: file name of the template.
        notes: sentences for the section "Notes"; the notes of the evaluations are appended.
        evaluations: rows of the table of results.
        values: everything else that the template uses.
    """
    environment = templates(Path(__file__).with_name("templates"))
    environment.filters.update({f.__name__: f for f in _FILTERS}, no_break=_no_break)
    page = environment.get_template(name).render(
        evaluations=evaluations,
        same_images=len({e.data.get("hash") for e in evaluations}) <= 1,
        notes=list(dict.fromkeys([*notes, *(note for e in evaluations for note in e.notes)])),
        percent_axis=cells.percent_axis(),
        **values,
    )
    # File names that are not UTF-8 contain lone surrogates, which can't be written.
    return page.encode("utf-8", "replace").decode()


def templates(*folders: Path) -> jinja2.Environment:
    """The templates in some folders, as all pages are filled in: escaped, and strict about names."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def live_part(name: str) -> str:
    """A file that the pages share that classify pictures as a person drops them, the server's and the exported one:
    `pictures.css`, or `pictures.js`."""
    return (_LIVE / name).read_text(encoding="utf-8")


def render_live(template: Path, **values: Any) -> str:
    """A page that classifies pictures, as HTML. Its template extends `pictures.html.j2`."""
    return templates(template.parent, _LIVE).get_template(template.name).render(**values)


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG in a data URI. Small pictures are enlarged without smoothing, large ones are reduced."""
    picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    longer = max(picture.size)
    if longer < _SMALL:
        factor = math.ceil(_SMALL / longer)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    elif longer > _LARGE:
        picture.thumbnail((_LARGE, _LARGE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def is_small(image: Image.Image) -> bool:
    """Whether a picture is so small that the page should show its single pixels."""
    return max(image.size) < _SMALL


def _no_break(text: str) -> str:
    """Keep numbers and their percent signs on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
