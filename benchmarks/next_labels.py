"""Claim: 110 images chosen by `lensmith next` teach a probe what 200 teach it that were drawn by chance.

Ten draws of 3,000 of Fashion-MNIST's training photographs to choose from (Debian's `dataset-fashion-mnist`); nano's
feature `tower mean`; logistic regression (C = 0.1); 10,000 test photographs. Images are chosen in rounds, as a person
would: 10, then up to 20, 50, 80, 110, 150 and 200 in all. Intervals are those of the mean over the draws (Student's t).

Run: python benchmarks/next_labels.py   (about five minutes with features to extract; the last line is JSON)
"""

from __future__ import annotations

import json
import sys
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from lensmith.config import load_recipe
from lensmith.data import open_data
from lensmith.data.dataset import Split
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import make_question
from lensmith.learn import choosing
from lensmith.learn.features.probes import logistic, scale
from lensmith.learn.looking import features_of, split_images
from lensmith.models import load_base
from lensmith.runs.provenance import provenance

DRAWS, POOL, SIZES, FEATURE, C = 10, 3000, (10, 20, 50, 80, 110, 150, 200), "tower mean", 0.1
T = 2.262
"""Student's 97.5 % quantile with 9 degrees of freedom."""


def vectors(classifier: Classifier, split: Split, what: str) -> Tensor:
    """(images, size) features of a split."""
    print("features of", len(split), what, file=sys.stderr, flush=True)
    values, rows = features_of(classifier, split_images(split), [FEATURE], what)
    assert len(rows) == len(split)
    return torch.from_numpy(values[FEATURE])


def fitted(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a probe on unscaled features."""
    mean, std = scale(x)
    start = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    weight, bias = logistic((x - mean) / std, y, C, torch.ones(classes), *start)
    return weight / std, bias - (weight / std) @ mean


def main() -> None:
    """Run the benchmark."""
    recipe = load_recipe("fashion-best", ["data.validation=0"])
    dataset = open_data(recipe.data)
    labels = list(dataset.labels)
    model = load_base(recipe.model)
    classifier = Classifier(model, make_question(model, recipe.question, labels))
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randperm(len(dataset.train), generator=generator)[:POOL].tolist() for _ in range(DRAWS)]
    needed = sorted({i for draw in draws for i in draw})
    train = Split("train", dataset.train._rows.select(needed), dataset.train._scratch)
    place = {i: k for k, i in enumerate(needed)}
    x, x_test = vectors(classifier, train, "training images"), vectors(classifier, dataset.test, "test images")
    y, y_test = (torch.tensor([labels.index(label) for label in split.labels]) for split in (train, dataset.test))

    def accuracy(rows: Tensor) -> float:
        weight, bias = fitted(x[rows], y[rows], len(labels))
        return 100 * float(((x_test @ weight.T + bias).argmax(1) == y_test).float().mean())

    found: dict[str, dict[int, list[float]]] = {"by chance": {}, "chosen": {}}
    for number, draw in enumerate(draws):
        pool = torch.tensor([place[i] for i in draw])
        directions, labelled = choosing.standardised(x[pool].numpy()), list[int]()
        for size in SIZES:
            found["by chance"].setdefault(size, []).append(accuracy(pool[:size]))
            more, each = size - len(labelled), len(labelled) / len(labels)
            if each < choosing.TYPICAL:
                labelled += choosing.choose_typical(directions, labelled, more, number)
            else:
                left = [i for i in range(POOL) if i not in set(labelled)]
                weight, bias = fitted(x[pool[labelled]], y[pool[labelled]], len(labels))
                probabilities = (x[pool[left]] @ weight.T + bias).softmax(1).numpy()
                rows = choosing.choose_uncertain(directions[left], probabilities, more, number)
                labelled += [left[i] for i in rows]
            found["chosen"].setdefault(size, []).append(accuracy(pool[labelled]))
        print("draw", number + 1, file=sys.stderr, flush=True)
    table: dict[str, dict[str, Any]] = {}
    for name, by_size in found.items():
        print(
            name.ljust(10),
            "  ".join(f"{size}: {fmean(v):.1f} ± {T * stdev(v) / DRAWS**0.5:.1f}" for size, v in by_size.items()),
        )
        table[name] = {str(size): {"mean": fmean(v), "draws": v} for size, v in by_size.items()}
    aim = fmean(found["by chance"][200])
    enough = next((size for size in SIZES if fmean(found["chosen"][size]) >= aim), None)
    gains = [a - b for a, b in zip(found["chosen"][110], found["by chance"][200], strict=True)]
    print(
        json.dumps(
            {
                "next_labels": enough,
                "gain_of_110_chosen_over_200_by_chance": fmean(gains),
                "half_width": T * stdev(gains) / DRAWS**0.5,
                "accuracy": table,
                **provenance(),
            }
        )
    )


if __name__ == "__main__":
    main()
