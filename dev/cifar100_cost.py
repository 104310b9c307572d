"""Prints the table of docs/cifar100.md: what the recipe cifar100-lfm should take on a rented L40S, for each published
shape. This is an estimate, not a measurement: operations divided by 40 % of the card's listed rate.

Run: python dev/cifar100_cost.py   (from the repository's root; takes a minute, needs no weights)
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.models.published import PUBLISHED
from tests.models.test_published import built

from lensmith.config import load_recipe
from lensmith.measure.calibration import ENOUGH
from lensmith.models.base import Model
from lensmith.models.cost import operations
from lensmith.places.modal.prices import PRICES

RATE = 0.4 * 362e12
"""40 % of the L40S's dense bfloat16 rate by NVIDIA's data sheet, in operations per second: the fraction aimed at."""
QUESTION, TEXT, ANSWER = 620, 8, 3
"""Tokens: the question with 100 classes, its end after the image, an answer with its end token."""
TRAIN, VALIDATION, TEST, CLASSES = 45_000, 5_000, 10_000, 100
# The post's figures, measured by others in another way (200 test images, carrickcheah/finetune-liquild-vlm).
POST = {"LFM2-VL-3B": ("54 %", "62 %", "86 %")}


def hours(model: Model, images: int) -> float:
    """Hours of evaluating (no images), or of training on some, with a validation after each epoch and the test."""
    recipe = load_recipe("cifar100-lfm")
    shape = tuple((3, *view) for view in model.sizes(32, 32))
    image = operations(model, shape, QUESTION, TEXT + ANSWER)
    look = image.vision_tower + image.projector
    # With an untrained model nearly all answers are run, with a trained one only a few.
    said = operations(model, (), QUESTION, ANSWER).language_model * (3 if images else CLASSES)
    total = (TEST + min(VALIDATION, ENOUGH)) * (look + image.language_model + said)
    if images:
        steps = recipe.train.epochs * images / recipe.train.batch_size
        # Gradients flow back through frozen weights but are not computed for them: as much again as the forward pass.
        step = operations(model, (), 0, QUESTION).language_model + recipe.train.batch_size * image.language_model
        total += images * look + steps * 2 * step
        total += recipe.train.epochs * VALIDATION * (look + image.language_model + said)
    return total / RATE / 3600


def main() -> None:
    price = PRICES["L40S"]
    assert price
    print("| `model.base` | weights, bfloat16 | zero-shot | a tenth: 4,500 | all: 45,000 | expected |")
    print("|---|---|---|---|---|---|")
    for name, published in PUBLISHED.items():
        if not name.startswith("LFM"):
            continue
        model = built(published)
        size = model.network.num_parameters() * 2 / 1e9
        cells = []
        for images in (0, TRAIN // 10, TRAIN):
            took = hours(model, images)
            cells.append(f"{max(1, round(took * 60))} min, ${took * price:.2f}")
        expected = "published: " + " / ".join(POST[name]) if name in POST else "not yet run"
        print(f"| `LiquidAI/{name}` | {size:.1f} GB | {' | '.join(cells)} | {expected} |")


if __name__ == "__main__":
    main()
