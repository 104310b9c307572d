"""GGUF: two files for llama.cpp, LM Studio and Ollama, with a grammar that allows the classes alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from lensmith.errors import UserError, optional
from lensmith.export import format
from lensmith.export.card import model_card
from lensmith.export.format import Way
from lensmith.export.original import Original, spoken
from lensmith.export.published import family_of, require_no_head
from lensmith.progress import Tell, working
from lensmith.runs.files import write, write_json

OWN_LIMITS = (64, 256)
"""The least and the most tokens of an image that llama.cpp assumes, whatever a checkpoint says."""
CONSTANTS = {"tile_size": 512, "min_tiles": 2, "max_tiles": 10, "use_thumbnail": True}
"""What else it assumes for images shown as tiles."""
USE = """```sh
sh start.sh --port 8080
```

Then send the messages of question.json, with the image in place, to `/v1/chat/completions`."""
SMALL_VOCABULARY = 8192
"""Tokens up to which all of a token's successors are asked for in many images; more make answers of megabytes."""


class Format(format.Format):
    """See `format.Format`."""

    about = "two files for llama.cpp, LM Studio and Ollama"
    numbers: ClassVar[dict[str, float]] = {"f16": 0.005, "q8_0": 0.02}

    def require(self, original: Original) -> None:
        for package in ("gguf", "xllamacpp"):
            optional(package, "gguf", "The format gguf")
        require_no_head(original.has_head, "GGUF")
        model, settings = original.model, original.model.settings
        if family_of(model) != "lfm2_vl":
            raise UserError(
                f"{original.task['base']} is a {family_of(model)}, and only LFM2-VL can be written as GGUF here.",
                "Use --to weights and llama.cpp's own converter.",
            )
        ignored = [f"{key}={settings[key]}" for key, value in CONSTANTS.items() if settings.get(key, value) != value]
        ignored = ignored if model.tiled else []
        if model.resample != 2:
            ignored.append(f"resample={model.resample}")
        if float(settings.get("max_pixels_tolerance", 2.0)) != 2.0:
            ignored.append(f"max_pixels_tolerance={settings['max_pixels_tolerance']}")
        if model.patch_side != 16:
            ignored.append(f"patch_size={model.patch_side}")
        if ignored:
            raise UserError(
                f"llama.cpp ignores how {original.task['base']} prepares images ({', '.join(ignored)}), so its answers "
                "would be others.",
                "Use --to onnx, or --to weights with vLLM, SGLang or Ollama, which read these settings.",
            )

    def size(self, original: Original) -> int:
        return int(original.parameters * {"f16": 2, "q8_0": 1.1}[self.chosen]) + 5_000_000

    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        from lensmith.export.gguf_model import write_decoder, write_mmproj

        decoder, mmproj = self._files()
        with working("writing GGUF", tell):
            write_decoder(original.model, folder / decoder, self.chosen, original.recipe.name)
            write_mmproj(original.model, folder / mmproj, self.chosen, original.recipe.name)
        names, talk = spoken(original)
        labels = dict(zip(original.labels, names, strict=True))
        write(folder / "labels.gbnf", grammar(names))
        write_json(folder / "question.json", {"messages": talk, "labels": labels})
        limits, fit = token_limits(original), original.model.fit
        given = "" if limits is None else f" --image-min-tokens {limits[0]} --image-max-tokens {limits[1]}"
        note = ""
        if fit is not None and not original.model.tiled:
            note = f"# Scale images of more than {2 * fit.max_pixels:,} pixels down first: they'd be cut into tiles.\n"
        command = f"llama-server -m {decoder} --mmproj {mmproj}{given} --grammar-file labels.gbnf --temp 0 --jinja"
        write(folder / "start.sh", f'#!/bin/sh\n{note}cd "$(dirname "$0")" && exec {command} "$@"\n')
        (folder / "start.sh").chmod(0o755)
        if limits is None:  # Ollama has no place for the limits; it reads them from the format weights
            write(folder / "Modelfile", f"FROM ./{decoder}\nFROM ./{mmproj}\nPARAMETER temperature 0\n")
        write(folder / "README.md", model_card(original, USE))

    @contextmanager
    def opened(self, original: Original, folder: Path) -> Iterator[list[Way]]:
        from importlib.metadata import version

        from lensmith.export.llama import Llama

        names, talk = spoken(original)
        decoder, mmproj = (folder / name for name in self._files())
        llama = Llama(original, decoder, mmproj, token_limits(original), talk, names, grammar(names))
        program = f"llama.cpp (xllamacpp {version('xllamacpp')})"
        few = 100 if original.model.network.config.text_config.vocab_size <= SMALL_VOCABULARY else 10
        chat, exact = f"{program}, chat with the grammar", f"{program}, label scores"
        yield [Way(chat, llama.says), Way(exact, llama.scores, few)]

    def usage(self, folder: Path) -> str:
        return f"sh {shlex.quote(str(folder / 'start.sh'))} --port 8080"

    def _files(self) -> tuple[str, str]:
        return f"model-{self.chosen}.gguf", f"mmproj-{self.chosen}.gguf"


def grammar(names: list[str]) -> str:
    """A GBNF grammar that allows these answers alone."""
    return "root ::= " + " | ".join(json.dumps(name, ensure_ascii=False) for name in names) + "\n"


def token_limits(original: Original) -> tuple[int, int] | None:
    """The least and the most tokens of an image, if they aren't llama.cpp's own."""
    fit = original.model.fit
    assert fit is not None  # of LFM2-VL
    limits = fit.min_pixels // fit.step**2, fit.max_pixels // fit.step**2
    return None if limits == OWN_LIMITS else limits
