"""A plain model folder in safetensors, LoRA merged: for transformers, vLLM, SGLang, Ollama, and further converters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.export import format
from lensmith.export.card import model_card
from lensmith.export.format import Way
from lensmith.export.original import Original, answers, spoken
from lensmith.export.published import require_no_head, write_model
from lensmith.progress import Tell, working
from lensmith.runs.files import write, write_json


class Format(format.Format):
    """See `format.Format`."""

    about = "a model folder with LoRA merged: transformers, vLLM, SGLang, Ollama"
    numbers: ClassVar[dict[str, float]] = {"float16": 0.005, "float32": 0.001, "bfloat16": 0.01}

    def require(self, original: Original) -> None:
        require_no_head(original.has_head, "a model folder")

    def size(self, original: Original) -> int:
        dtype: torch.dtype = getattr(torch, self.chosen)
        return original.parameters * dtype.itemsize + 20_000_000

    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        write_json(folder / "labels.json", original.about() | {"options": original.task["question"]})
        write(folder / "README.md", model_card(original, USE))
        _write_decision(original, folder)
        with working("writing the weights", tell):
            write_model(original.model, folder, getattr(torch, self.chosen))
        original.release()

    @contextmanager
    def opened(self, original: Original, folder: Path) -> Iterator[list[Way]]:
        import transformers

        # Read as it was written, computed in float32: what is proven are the files, not this processor's arithmetic.
        options = ModelOptions(base=str(folder), dtype="float32", device="cpu")
        model = models.load_base(options)
        question = make_question(model, original.recipe.question, original.labels)
        classifier = Classifier(model, question, calibration=original.calibration)
        yield [
            Way(f"the folder, read by transformers {transformers.__version__}", partial(answers, original, classifier))
        ]

    def usage(self, folder: Path) -> str:
        return f"AutoModelForImageTextToText.from_pretrained({str(folder)!r})"


def _write_decision(original: Original, folder: Path) -> None:
    """decision.json and its template, with which `pipeline("decision")` asks the question that was taught.

    It reads single tokens and has one temperature, so the answers must be codes, and the calibration without a prior.
    """
    calibration = original.classifier.calibration
    if original.recipe.question.answers != "codes" or calibration.offsets:
        return
    said, chat = spoken(original)
    prompt = original.model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    # The question is always the one that was taught; what the request says is used for nothing but its image.
    template = "{%- set asked = (state, question) -%}{% raw %}" + prompt + "{% endraw %}"
    config = {"labels": {"choice": said}, "temperature": {"choice": calibration.temperature}}
    write_json(folder / "decision.json", config | {"sanitize_control_tokens": False})
    write(folder / "decision_template.jinja", template)


USE = """In Lensmith, with exact probabilities of the classes:

```sh
lensmith evaluate my-images model.base=THIS-FOLDER
```

In transformers, ask the question above in the chat template's words, with the image after it. The answer is the name of
a class. In vLLM or SGLang: `vllm serve THIS-FOLDER`."""
