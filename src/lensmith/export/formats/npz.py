"""A probe as NumPy arrays, for a program that has the features already: scikit-learn, a database, a notebook."""

from __future__ import annotations

import io
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lensmith.errors import UserError
from lensmith.export import format
from lensmith.export.format import Way
from lensmith.export.original import Original, decoded
from lensmith.models.heads import ClassHead
from lensmith.progress import Tell
from lensmith.runs.files import write, write_json

FILE, PROGRAM = "probe.npz", "probe.py"


class Format(format.Format):
    """See `format.Format`."""

    about = "a probe as NumPy arrays: scikit-learn, notebooks"
    numbers: ClassVar[dict[str, float]] = {"float32": 0.001}

    def require(self, original: Original) -> None:
        if not isinstance(original.classifier.head, ClassHead):
            kind = "nearest neighbours" if original.has_head else "the decoder"
            raise UserError(
                f"The run {original.run} answers by {kind}, and npz holds a linear probe.",
                "Give a run of `lensmith probe` that chose the probe, or use --to onnx.",
            )

    def size(self, original: Original) -> int:
        return 1_000_000

    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        head, calibration = original.classifier.head, original.classifier.calibration
        assert isinstance(head, ClassHead)
        # softmax((x W' + b - offsets) / t), as one linear layer.
        offsets = np.array(calibration.offsets or [0.0] * len(original.labels), np.float32)
        arrays: dict[str, Any] = {
            "weight": head.weight.numpy() / np.float32(calibration.temperature),
            "bias": (head.bias.numpy() - offsets) / np.float32(calibration.temperature),
            "labels": np.array(original.labels),
            "feature": np.array(head.feature),
            "base": np.array(original.public_base),
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write(folder / FILE, buffer.getvalue())
        write_json(folder / "labels.json", original.about() | {"feature": head.feature})
        write(folder / PROGRAM, files("lensmith.export").joinpath("files", PROGRAM).read_bytes())

    @contextmanager
    def opened(self, original: Original, folder: Path) -> Iterator[list[Way]]:
        program, classifier = runpy.run_path(str(folder / PROGRAM)), original.classifier
        feature = str(np.load(folder / FILE)["feature"])

        def ask(image: bytes) -> list[float]:
            views = tuple(view[None] for view in original.model.prepare(decoded(original, image)))
            found = classifier.features(views, [feature])[feature].numpy()
            logs: list[float] = program["log_probabilities"](found)[0].tolist()
            return logs

        yield [Way(f"NumPy {np.__version__}", ask)]

    def usage(self, folder: Path) -> str:
        return f"numpy.load({str(folder / FILE)!r}); {PROGRAM} beside it computes the probabilities"
