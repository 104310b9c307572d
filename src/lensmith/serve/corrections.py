"""Answers that a person put right, kept as labelled images.

A model's folder holds `images/`, in which each image is called by its content, and `labels.csv`, which `data.uri` reads
as a table and `data.corrections` adds to other images. An image is never overwritten; of two labels that it was given,
the later one counts.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shlex
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.data.text_tables import rows_of
from lensmith.errors import UserError
from lensmith.runs.files import write
from lensmith.runs.lock import locked

TABLE = "labels.csv"
COLUMNS = ("image", "label", "answer", "probability")
"""Of the table: the image's path, the label that it was given, and what the model had answered."""
SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic", "JPEG2000": ".jp2", "PPM": ".ppm"}
"""Of formats that aren't named after their suffix."""


class Corrections:
    """Keeps corrections in a folder for each model, which is made when it is needed.

    Args:
        folder: of all models.
        commands: by model, the command that teaches it again.
    """

    def __init__(self, folder: Path, commands: Mapping[str, str]) -> None:
        self.folder, self.commands = folder, commands
        self._lock = threading.Lock()
        self._held: dict[str, Any] = {}

    def table(self, model: str) -> Path:
        """The table of a model's corrections."""
        return self.folder / model / TABLE

    def keep(self, model: str, image: bytes, label: str, answer: str, probability: float) -> int:
        """Keep an image with its label; returns the number of images that the model's folder holds.

        Raises:
            UserError: another server keeps corrections there, the disk is full or can't be written, or the table is
                damaged.
        """
        with self._lock:
            table = self.table(model)
            try:
                (table.parent / "images").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{table.parent} can't be made: {error.strerror}.") from None
            if model not in self._held:
                self._held[model] = locked(table.parent)
            name = f"images/{hashlib.sha256(image).hexdigest()[:16]}{_suffix(image)}"
            rows = {row["image"]: row for _, row in rows_of(table)} if table.exists() else {}
            if not (table.parent / name).exists():
                write(table.parent / name, image)
            rows[name] = dict(zip(COLUMNS, (name, label, answer, f"{probability:.4f}"), strict=True))
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())
            write(table, text.getvalue())
            return len(rows)

    def command(self, model: str) -> str:
        """The command that teaches a model's corrections."""
        return f"{self.commands[model]} {shlex.quote(f'data.corrections={self.table(model)}')}"


def _suffix(image: bytes) -> str:
    with Image.open(io.BytesIO(image)) as opened:
        kind = str(opened.format)
    return SUFFIXES.get(kind, f".{kind.casefold()}")
