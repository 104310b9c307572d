"""Claim: a model of LFM2-VL's true size can be trained and scored on an ordinary two-core machine, by the code that
runs nano.

Writes LFM2-VL-450M at its published shape with random bfloat16 weights to a temporary folder, and loads it like any
other model. Times scoring, and steps of LoRA on the decoder, with a question of about 620 tokens and 100 classes, on
photographs of 32 and 512 pixels. Time and memory don't depend on the values of weights, with one exception: random
weights give no confident answer, so scoring runs nearly all 100 answers for each image. That is the worst case. The
tokenizer is nano's, whose answers have more tokens than with LFM2's.

Run: python benchmarks/true_size.py [--size 450m|1.6b|3b|tiny]   (four minutes at 450m; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lensmith import models
from lensmith.config import ModelOptions, QuestionOptions, Recipe, load_recipe
from lensmith.engine.classifier import Classifier, predict
from lensmith.engine.objective import SoftLabels
from lensmith.engine.question import Prompt, make_prompt, make_question
from lensmith.engine.step import Step
from lensmith.learn.loop import average_gradients
from lensmith.learn.processes import Processes
from lensmith.models.base import Model
from lensmith.models.tuning import attach, coverage, trainable, weight_groups
from lensmith.models.views import Views
from lensmith.records import Prediction
from lensmith.runs.provenance import provenance

if TYPE_CHECKING:
    from tests.models.published import Published

SIZES = {"450m": "LFM2-VL-450M", "1.6b": "LFM2-VL-1.6B", "3b": "LFM2-VL-3B"}
TOKENS, SIDES, STEPS = 620, (32, 512), 3
RULES = "Look at it twice."


def shape(size: str) -> Published:
    """The published shape, or a tiny one of the same parts."""
    sys.path.append(str(Path(__file__).parents[1]))  # the tests aren't installed, and this may be run anywhere
    from tests.models.published import PUBLISHED, Published

    if size != "tiny":
        return PUBLISHED[SIZES[size]]
    layers = ["conv", "full_attention", "conv", "full_attention"]
    text = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": layers}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return Published("lfm2_vl", text | heads, vision, {"projector_hidden_size": 64})


@torch.no_grad()
def write(size: str, folder: Path) -> None:
    """Write a checkpoint of random weights, laid out as published, with nano's tokenizer and chat template."""
    from transformers import PreTrainedTokenizerFast

    published = shape(size)
    from tests.models.checkpoints import GRID

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(models.NANO)
    tokenizer.add_special_tokens({"additional_special_tokens": GRID}, replace_extra_special_tokens=False)
    network = published.network().to(torch.bfloat16).to_empty(device="cpu")
    network.tie_weights()
    network.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    network.config.text_config.eos_token_id = tokenizer.eos_token_id
    if len(tokenizer) > network.config.text_config.vocab_size:
        raise ValueError("The tokenizer has more tokens than the model.")
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=0.02)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"image_processor_type": "Lfm2VlImageProcessorFast", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | published.settings()))
    (folder / "processor_config.json").write_text((models.NANO / "processor_config.json").read_text())


def write_apart(size: str, folder: Path) -> None:
    """The same in a separate process, so that its memory is not counted here; nothing if it has been written."""
    if (folder / "processor_config.json").exists():  # the last file
        return
    subprocess.run([sys.executable, __file__, "--size", size, "--write", str(folder)], check=True)


def labels() -> list[str]:
    """The names of 100 classes."""
    return (Path(__file__).parent / "peers" / "labels_100.txt").read_text().split("\n")[:100]


def ask(model: Model) -> tuple[QuestionOptions, Prompt]:
    """A question of about `TOKENS` tokens before the image, including the 100 class names."""
    question = QuestionOptions(system="Sort pictures.")
    while len((prompt := make_prompt(model, question, labels())).before) < TOKENS - 10:
        question.system = f"{question.system} {RULES}"
    return question, prompt


def photographs(count: int, side: int) -> list[Image.Image]:
    """Images of (side, side) pixels: a coarse pattern and noise."""
    random = np.random.default_rng(side)
    coarse = random.integers(0, 200, (count, 4, 4, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR)) for one in coarse]
    return [Image.fromarray(one + random.integers(0, 50, one.shape, dtype=np.uint8)) for one in large]


def rounded(value: Any, digits: int = 4) -> Any:
    """Floats rounded to so many significant digits, at any depth."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Training:
    """Lensmith's training, repeated on the same images: gradients, their mean, clipping and AdamW, as in
    `learn.loop.train`, without reading images, validation and log.

    Args:
        model: with weights that learn (`tuning.attach`).
        side: of the photographs, in pixels.
        kept: whether the frozen tower's features are cached, as in every epoch but the first (`learn.features.store`).
        recipe: its question, its objective and its rates; None for the default recipe and the long question of `ask`.
        names: the classes.
    """

    def __init__(
        self,
        model: Model,
        side: int,
        batch: int,
        kept: bool = False,
        recipe: Recipe | None = None,
        names: Sequence[str] = (),
    ) -> None:
        names = names or labels()
        prompt = make_prompt(model, recipe.question, names) if recipe else ask(model)[1]
        recipe = recipe or load_recipe(None, [])
        recipe.train.batch_size = batch
        self.model, self.notes = model, list[str]()
        self.images: list[Views] = [model.prepare(one) for one in photographs(batch, side)]
        look: Callable[[Views], Tensor] = model.embed_images
        if kept:
            look = model.assemble
            with torch.no_grad(), model.autocast():
                seen = (
                    model.project(model.encode_images(tuple(view[None] for view in views))) for views in self.images
                )
                self.images = [tuple(view[0].cpu() for view in views) for views in seen]
        self.parts: list[SoftLabels] = [[(i % len(names), 1.0)] for i in range(batch)]
        self.step_ = Step(model, prompt, recipe, look, self.notes.append)
        self.noise = torch.zeros(batch, len(names))
        self.weights = list(trainable(model).values())
        self.optimizer = torch.optim.AdamW(weight_groups(model, recipe.tune, recipe.train), fused=True)
        model.network.train()

    def step(self) -> float:
        """Take one step, and return its mean loss."""
        losses = self.step_.gradients(self.images, self.parts, self.noise, 0)
        loss = average_gradients(self.weights, losses, self.parts, Processes())
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


def timed(step: Callable[[], float], device: torch.device, steps: int, warm: int) -> tuple[list[float], list[float]]:
    """Seconds and losses of `steps` steps, after `warm` steps that are not measured."""
    seconds, losses = [], []
    for i in range(warm + steps):
        synchronize(device)
        start = time.perf_counter()
        loss = step()
        synchronize(device)
        if i >= warm:
            seconds.append(time.perf_counter() - start)
            losses.append(loss)
    return seconds, losses


def scored(classifier: Classifier, images: Sequence[Image.Image]) -> tuple[float, list[Prediction]]:
    """Prepare and score images; the seconds it took, and the best label of each."""
    synchronize(classifier.model.device)
    start = time.perf_counter()
    found = list(predict(classifier, ((str(i), None, one.copy) for i, one in enumerate(images))))
    synchronize(classifier.model.device)
    return time.perf_counter() - start, found


def resident_peak() -> float:
    """Peak resident memory of this process so far, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=[*SIZES, "tiny"], default="450m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only write the checkpoint")
    args = parser.parse_args()
    if args.write:
        return write(args.size, args.write)
    found: dict[str, Any] = {"size": args.size, "batch": args.batch, "machine": provenance()["machine"]}
    with tempfile.TemporaryDirectory() as name:
        write_apart(args.size, Path(name))
        start = time.perf_counter()
        model = models.load_base(ModelOptions(base=name, dtype="bfloat16", device="cpu"))
        found["loading_s"] = round(time.perf_counter() - start, 1)
        held = sum(weight.nbytes for weight in model.network.parameters())
        kinds = sorted({str(m.weight.dtype) for m in model.network.modules() if isinstance(m, torch.nn.Linear)})
        question, prompt = ask(model)
        classifier = Classifier(model, make_question(model, question, labels()), top=1, tolerance=1)
        found |= {"parameters": int(model.network.num_parameters()), "weights_gb": round(held / 1e9, 2)}
        found |= {"linear": kinds, "question_tokens": len(prompt.before)}
        for side in SIDES:
            taken, predictions = scored(classifier, photographs(args.batch, side))
            found[f"{side}_px"] = {"images_per_s": round(len(predictions) / taken, 2)}
            print(f"scored {side} px: {len(predictions)} in {taken:.1f} s", flush=True)
        found["scoring_peak_gb"] = resident_peak()
        del classifier
        attach(model, load_recipe(None, []).tune, labels())
        found["learn"] = sum(row.parameters for row in coverage(model))
        for side in SIDES:
            for kept in (False, True):
                training = Training(model, side, args.batch, kept)
                timed(training.step, model.device, 1, 0)  # the first step at a size allocates memory
                seconds, losses = timed(training.step, model.device, STEPS, 0)
                middle, what = statistics.median(seconds), f"{side}_px{'_kept' if kept else ''}"
                row = {"step_s": round(middle, 2), "samples_per_s": round(args.batch / middle, 2)}
                found[what] = found.get(what, {}) | row
                print(f"{what}: {[round(s, 2) for s in seconds]} s, loss {losses}, {training.notes}", flush=True)
    found["training_peak_gb"] = resident_peak()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
