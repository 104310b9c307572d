"""A model folder for Apple's MLX (mlx-vlm), with a program that scores the classes."""

from __future__ import annotations

import runpy
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from lensmith.errors import UserError, optional
from lensmith.export.format import Way
from lensmith.export.formats import weights
from lensmith.export.original import Original, spoken
from lensmith.export.published import family_of
from lensmith.progress import Tell
from lensmith.runs.files import write, write_json

PROGRAM = "classify_mlx.py"
MOST, MOST_ON_CPU = 500, 20
"""Images that it is proven on. On two CPU cores, MLX takes two seconds for an image with `nano`."""


class Format(weights.Format):
    """See `format.Format`."""

    about = "a model folder for Apple's MLX"
    numbers: ClassVar[dict[str, float]] = {"float16": 0.01, "float32": 0.005, "bfloat16": 0.02}

    def require(self, original: Original) -> None:
        super().require(original)
        for package in ("mlx.core", "mlx_vlm"):
            optional(package, "mlx", "The format mlx")
        if family_of(original.model) != "lfm2_vl":
            raise UserError(
                f"{original.task['base']} is a {family_of(original.model)}, and only LFM2-VL is proven with mlx-vlm.",
                "Use --to weights, which mlx-vlm may read.",
            )

    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        classifier, (_, chat) = original.classifier, spoken(original)
        prompt = original.model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        calibration = classifier.calibration
        task = {"labels": list(original.labels), "prompt": prompt, "answers": classifier.prompt.answers}
        task |= {"offsets": list(calibration.offsets) or [0.0] * len(original.labels)}
        task |= {"temperature": calibration.temperature, "tiles": original.model.tiled}
        write_json(folder / "classes.json", task)
        super().write(original, folder, tell)
        write(folder / PROGRAM, files("lensmith.export").joinpath("files", PROGRAM).read_bytes())

    @contextmanager
    def opened(self, original: Original, folder: Path) -> Iterator[list[Way]]:
        import mlx.core

        metal = mlx.core.metal.is_available()
        if not metal:
            mlx.core.set_default_device(mlx.core.cpu)
        program = runpy.run_path(str(folder / PROGRAM))
        where, most = ("the GPU", MOST) if metal else ("the CPU", MOST_ON_CPU)
        yield [Way(f"mlx-vlm {version('mlx-vlm')} on {where}", program["scores"], most)]

    def usage(self, folder: Path) -> str:
        return f"python {shlex.quote(str(folder / PROGRAM))} IMAGE"
