"""Claim: running a shared prefix once makes a training step several times faster, at the same loss.

Both sides train the same LoRA on the same model, images and answers. The question has about 600 tokens before the
image. `branches` runs that prefix once per batch. `plain` is transformers' own forward pass over the full sequences, in
one batch. Both sides compute in float32, and logits at answer positions only. They take turns, so that a noisy machine
affects both alike; the result is the ratio of the medians. TRL and Outlines are compared elsewhere (training.py,
scoring.py).

Run: python benchmarks/branches.py   (one minute; the last line is JSON)
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lensmith import models
from lensmith.config import ModelOptions, QuestionOptions, Recipe, TuneOptions
from lensmith.engine.question import make_prompt
from lensmith.engine.step import Step
from lensmith.models.attention import ATTENTION
from lensmith.models.tuning import attach, trainable
from lensmith.runs.provenance import provenance

BATCH, ROUNDS, PREFIX = 16, 7, 600


def main() -> None:
    torch.manual_seed(0)
    model = models.load_base(ModelOptions(dtype="float32"))
    labels = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    attach(model, TuneOptions(), labels)
    rules = "Look at the shape first, then at the collar, then at the sleeves. "
    question = QuestionOptions(system=rules)
    while len(make_prompt(model, question, labels).before) < PREFIX:
        question.system = (question.system or "") + rules
    prompt = make_prompt(model, question, labels)
    pixels = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8)
    images = [(image,) for image in pixels]  # one view of each
    answers = [prompt.answers[i % len(labels)][0] for i in range(BATCH)]
    longest = max(map(len, answers))

    network: Any = model.network
    patches = (pixels.float() / 255 - 0.5) / 0.5
    patches = patches.view(BATCH, 3, 4, 16, 4, 16).permute(0, 2, 4, 3, 5, 1).reshape(BATCH, 16, -1)
    before = [*prompt.before, *[network.config.image_token_id] * 4, *prompt.after]
    ids = torch.tensor([[*before, *a, *[0] * (longest - len(a))] for a in answers])
    target = torch.tensor([[*a, *[-100] * (longest - len(a))] for a in answers])

    def plain() -> float:
        network.model.language_model.set_attn_implementation("eager")
        out = network(
            input_ids=ids,
            pixel_values=patches,
            spatial_shapes=torch.tensor([[4, 4]] * BATCH),
            pixel_attention_mask=torch.ones(BATCH, 16, dtype=torch.long),
            logits_to_keep=longest + 1,
        )
        loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), target.flatten(), reduction="sum") / BATCH
        loss.backward()
        return loss.item()

    step = Step(model, prompt, Recipe(), model.embed_images, print)
    parts = [[(i % len(labels), 1.0)] for i in range(BATCH)]

    def branches() -> float:
        network.model.language_model.set_attn_implementation(ATTENTION)
        return step.gradients(images, parts, torch.zeros(BATCH, len(labels)), seed=0).mean().item()

    seconds: dict[str, list[float]] = {"branches": [], "plain": []}
    losses: dict[str, float] = {}
    for turn in range(ROUNDS + 1):
        sides: list[tuple[str, Callable[[], float]]] = [("branches", branches), ("plain", plain)]
        for name, run in sides:
            start = time.perf_counter()
            losses[name] = run()
            if turn:  # the first turn is a warm-up
                seconds[name].append(time.perf_counter() - start)
            for weight in trainable(model).values():
                weight.grad = None
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"prefix of {len(prompt.before)} tokens, batch of {BATCH}, {ROUNDS} rounds, {provenance()['machine']}")
    for name, value in medians.items():
        print(f"{name:<10}{BATCH / value:>8.1f} samples/s   loss {losses[name]:.6f}")
    print(
        json.dumps(
            {
                "ratio_samples_per_s": round(medians["plain"] / medians["branches"], 2),
                "samples_per_s": round(BATCH / medians["branches"], 1),
                "samples_per_s_plain": round(BATCH / medians["plain"], 1),
                "loss_difference": abs(losses["plain"] - losses["branches"]) / losses["plain"],
                "prefix_tokens": len(prompt.before),
                "batch": BATCH,
            }
        )
    )


if __name__ == "__main__":
    main()
