"""ONNX: one graph from the pixels of an image to the probabilities of the labels, for onnxruntime in any language."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from lensmith.errors import optional
from lensmith.export import format
from lensmith.export.format import Way
from lensmith.export.original import Original
from lensmith.progress import Tell, working
from lensmith.runs.files import write_json

FILE = "model.onnx"
EXAMPLES = ("classify.py", "classify.mjs")


class Format(format.Format):
    """See `format.Format`."""

    about = "one graph from pixels to probabilities: Python, JavaScript, C#, Java, Rust, phones"
    numbers: ClassVar[dict[str, float]] = {"float32": 0.001, "int8": 0.01}
    blends = True

    def require(self, original: Original) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            optional(package, "onnx", "The format onnx")
        from lensmith.export.onnx_model import require_one_view

        require_one_view(original)

    def size(self, original: Original) -> int:
        # The parts that a probe doesn't need are left out, so this is the most that it can be.
        return 4 * original.parameters + 1_000_000

    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        from lensmith.export.onnx_model import write_onnx

        with working("converting to ONNX", tell):
            write_onnx(original, folder / FILE, self.chosen == "int8")
        write_json(folder / "labels.json", list(original.labels))  # JavaScript's runtimes don't show the metadata
        for name in EXAMPLES:
            with files("lensmith.export").joinpath("files", name).open("rb") as source:
                (folder / name).write_bytes(source.read())

    @contextmanager
    def opened(self, original: Original, folder: Path) -> Iterator[list[Way]]:
        import onnxruntime

        example = _loaded(folder / EXAMPLES[0])
        yield [Way(f"onnxruntime {onnxruntime.__version__}", example["scores"])]

    def usage(self, folder: Path) -> str:
        return f"python {shlex.quote(str(folder / EXAMPLES[0]))} IMAGE"


def _loaded(path: Path) -> dict[str, Any]:
    """The names of an exported program: what is proven is the code that is handed over."""
    import runpy

    return runpy.run_path(str(path))
