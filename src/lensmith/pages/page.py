"""What the report's pages share: templates, how figures are written, pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.pages.charts import cells
from lensmith.records import Evaluation

_SMALL, _LARGE = 96, 256  # pixels of the longer side of a picture


def fill(template: str, evaluations: Sequence[Evaluation], notes: Iterable[str], **values: Any) -> str:
    """A page as HTML that can be written. `notes` are joined with those of the evaluations."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update({f.__name__: f for f in cells.FILTERS}, glue=_glue)
    page = environment.get_template(template).render(
        evaluations=evaluations,
        same_images=len({e.data.get("hash") for e in evaluations}) <= 1,
        notes=list(dict.fromkeys([*notes, *(note for e in evaluations for note in e.notes)])),
        percent_axis=cells.percent_axis(),
        **values,
    )
    # File names that are not UTF-8 reach us as lone surrogates, which can't be written.
    return page.encode("utf-8", "replace").decode()


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a URI: small ones enlarged without smoothing, large ones reduced."""
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
    """Whether a picture is so small that its pixels are to be seen."""
    return max(image.size) < _SMALL


def _glue(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
