"""Claim: with 1 to 16 labels a class, and with 3,000 labels, the blend is better than each single method.

Five draws from Fashion-MNIST's training photographs (Debian's `dataset-fashion-mnist`), the 10,000 test photographs,
nano, float32. There are no validation images, but for 30 of the 300 a class. LoRA takes at least 40 steps. Unlabelled
images are the others of a draw's 3,000. Methods are made by Lensmith's own code. A blend's test scores are added up
from those of its parts, and compared with what it says itself about the first 64.

Peers, in the same run: scikit-learn's logistic regression on the same vectors (`tower mean`, scaled, C = 1);
Tip-Adapter without training (Zhang et al., 2022) on them, with its two numbers as published, and, as the most that it
could have, with the best of its grid on the test images themselves; and peers/imagenet.py, a network taught a million
photographs of ImageNet and fine-tuned, on the first 2,000 test images (build its environment with peers/setup.sh).

Run: python benchmarks/few_labels.py [--work FOLDER] [--draws 0 1 2 3 4]

It takes about two hours. What FOLDER has isn't made again, so several processes may take some of the draws each before
one takes all. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy import stats  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from lensmith.config import AugmentOptions, Recipe, load_recipe
from lensmith.data import ImageDataset, Split, open_data
from lensmith.engine.classifier import Classifier, predict
from lensmith.engine.features import feature_names
from lensmith.learn import made
from lensmith.learn.features.few import FewPart, fit_few, looks_of
from lensmith.learn.features.frozen import FrozenModel, SharedFrozenModel
from lensmith.learn.features.probes import HeadPath, neighbours, probes
from lensmith.learn.methods import methods
from lensmith.models.blends import load_parts
from lensmith.models.views import AS_IT_IS, Look
from lensmith.runs.folder import Run, begin_run
from lensmith.runs.provenance import provenance

EACH, MORE, FULL, HELD, DRAWS = (1, 2, 4, 8, 16), (5, 20), 300, 30, 5
"""Labels a class; those where unlabelled images are measured as well (50 and 200 labels); all, and how many of these
are for validation; draws."""
TRAINED = ("lora", "lora+head")
SINGLES = ("zero-shot", "neighbours", "probe", "probe on answers", *TRAINED)
BLENDS = {"blend": False, "blend, unlabelled": True}
PEERS = ("scikit-learn", "Tip-Adapter", "Tip-Adapter, best", "ImageNet")
COLUMNS = (*SINGLES, "probe, six views", *BLENDS, *PEERS)
FOLDER = Path(__file__).parent / "peers"
NETWORK = FOLDER / ".venv/bin/python"
"""Python of the peers' environment; without it, the network taught ImageNet is left out."""
FEATURE, CHECKED, SOME = "tower mean", 64, 2000
ALPHAS, BETAS = np.linspace(0.1, 3, 20), np.linspace(0.1, 7, 20)
"""Tip-Adapter's grid; as published, 1 and 5.5 (ImageNet's `init_alpha` and `init_beta`)."""


class Cell:
    """One number of labels a class of one draw, and the test scores of each method."""

    def __init__(self, work: Path, whole: ImageDataset, recipe: Recipe, each: int, draw: int, tested: Tested) -> None:
        self.work, self.each, self.draw, self.tested = work, each, draw, tested
        classes, seed = len(whole.labels), draw + 1
        self.pool = whole.train.take(FULL * classes, seed)
        train, validation = whole.train.take(each * classes, seed), whole.validation
        if each == FULL:
            train = whole.train.take((FULL - HELD) * classes, seed)
            learned, both = set(train.ids), zip(self.pool.ids, self.pool.labels, strict=True)
            validation = self.pool.relabelled([None if name in learned else label for name, label in both])
            validation = validation.named("validation")
        self.recipe, self.dataset = replace(recipe, seed=draw), replace(whole, train=train, validation=validation)

    def piece(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """(test images, classes) scores: made before, or now."""
        path = self.work / "scores" / f"{name} {self.each} {self.draw}.npy"
        if not path.exists():
            print(f"draw {self.draw}, {self.each} a class: {name}", file=sys.stderr, flush=True)
            save(path, make())
        return torch.from_numpy(np.load(path))

    @cached_property
    def run(self) -> Run:
        folder = self.work / "runs" / f"{self.each}-{self.draw}"
        return begin_run(folder, self.recipe, self.dataset, "ladder", resume=folder.exists())

    @cached_property
    def shared(self) -> SharedFrozenModel:
        return SharedFrozenModel(self.recipe, self.dataset, lambda event: None)

    @property
    def frozen(self) -> FrozenModel:
        return self.shared.extracted()

    def trained(self, name: str) -> Tensor:
        """The scores of a trained model."""
        inner = made.make(methods()[name], self.run, self.shared)
        if len(self.dataset.validation):
            made.validation_predictions(inner, name)
        return scored(made.classifier_of(inner), self.dataset.test)

    def adapter(self, name: str) -> Tensor:
        """The scores of a trained model, calibrated as a blend has them."""
        raw = self.piece(name, partial(self.trained, name))
        logs: Tensor = made.calibration_in(self.run.folder / name, self.dataset.labels).apply(raw)
        return logs

    def fitted(self, path: HeadPath) -> Tensor:
        """The scores of a head chosen and fitted as the methods `neighbours` and `probe` do."""
        return self.tested.few(FewPart("", self.frozen.fit(path).head, (AS_IT_IS,)))

    def probed(self, recipe: Recipe) -> Tensor:
        """The scores of the best probe that a blend by this recipe fits."""
        frozen = FrozenModel(recipe, self.dataset, lambda event: None)
        return self.tested.few(fit_few(frozen).parts[0])

    def blended(self, unlabelled: bool) -> Tensor:
        """The scores of a blend of what was made."""
        name, recipe = "blend-unlabelled" if unlabelled else "blend", self.recipe
        if unlabelled:
            recipe = replace(recipe, data=replace(recipe.data, unlabelled=str(self.photographs())))
        inner = self.run.inner(name, recipe)
        shared = SharedFrozenModel(recipe, self.dataset, lambda event: None)
        print("   ", methods()["blend"].make(inner, shared, inner.ensure_started()).note, file=sys.stderr, flush=True)
        total = torch.zeros(len(self.dataset.test), len(self.dataset.labels))
        for part in load_parts(shared.load().model, inner.folder):
            if part.name in TRAINED:
                logs = part.calibration.apply(self.piece(part.name, partial(self.trained, part.name))).log_softmax(1)
            elif part.tuned.head is None:
                logs = part.calibration.apply(self.tested.answers).log_softmax(1)
            else:
                rows = [part.tuned.head(self.tested.feature(part.tuned.head.feature, look)) for look in part.looks]
                logs = torch.stack([part.calibration.apply(row).log_softmax(1) for row in rows]).mean(0)
            total += part.weight * logs
        first = scored(made.classifier_of(inner), self.dataset.test, CHECKED)
        difference = float((first.log_softmax(1) - total[:CHECKED].log_softmax(1)).abs().max())
        assert difference < 0.1, f"the blend and its parts differ by {difference}"  # stored features have 16 bits
        return total

    def photographs(self) -> Path:
        """A folder with the draw's photographs."""
        folder = self.work / "photographs" / str(self.draw)
        if not folder.exists():
            folder.mkdir(parents=True)
            for i, name in enumerate(self.pool.ids):
                (folder / f"{name}.pgm").write_bytes(self.pool.encoded(i))
        return folder

    def vectors(self) -> tuple[Tensor, Tensor]:
        """(training images, size) features, and the labels."""
        table = self.frozen.table("train")
        return table.feature(FEATURE), table.labels

    def regression(self) -> Tensor:
        """scikit-learn's logistic regression on the same vectors."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = self.vectors()
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x.numpy(), y.numpy())
        return torch.from_numpy(model.predict_log_proba(self.tested.feature(FEATURE).numpy()))

    def tip_adapter(self, best: bool) -> Tensor:
        """Tip-Adapter without training: the model's own scores + alpha exp(-beta (1 - cosine)) x one-hot labels."""
        x, y = self.vectors()
        cosine = normalize(self.tested.feature(FEATURE), dim=1) @ normalize(x, dim=1).T
        labels = one_hot(y, len(self.dataset.labels)).float()

        def logits(alpha: float, beta: float) -> Tensor:
            return self.tested.answers + alpha * (-beta * (1 - cosine)).exp() @ labels

        if not best:
            return logits(1, 5.5)
        return max(
            (logits(a, b) for a in ALPHAS for b in BETAS), key=lambda scores: accuracy(scores, self.tested.labels)
        )

    def imagenet(self) -> Tensor:
        """The scores of a network taught ImageNet and fine-tuned, in an environment of its own, for `SOME` images."""
        out = self.work / f"imagenet {self.each} {self.draw}.npz"
        np.savez(out, train=pictures(self.dataset.train), labels=self.vectors()[1], test=self.tested.pictures[:SOME])
        subprocess.run([NETWORK, FOLDER / "imagenet.py", out], check=True)
        return torch.from_numpy(np.load(out)["scores"])


class Tested:
    """What is known of the test images: features under each look, and the model's own answers."""

    def __init__(self, work: Path, whole: ImageDataset, recipe: Recipe) -> None:
        self.work, self.whole, self.test, self.looks = work, whole, whole.test, looks_of(recipe.augment)
        self._frozen = FrozenModel(recipe, whole, lambda event: None)
        self._tables: dict[Look, Any] = {}
        self.labels = torch.tensor([whole.labels.index(label) for label in whole.test.labels])

    @cached_property
    def answers(self) -> Tensor:
        path = self.work / "scores" / "answers.npy"
        if not path.exists():
            save(path, self._frozen.answers(self.test, range(len(self.test))))
        return torch.from_numpy(np.load(path))

    def feature(self, name: str, look: Look = AS_IT_IS) -> Tensor:
        if look not in self._tables:
            self._tables[look] = self._frozen.looked(self.test, feature_names(self._frozen.model), look)
        found: Tensor = self._tables[look].feature(name)
        return found

    def few(self, part: FewPart) -> Tensor:
        logs = [part.head(self.feature(part.head.feature, look)).log_softmax(1) for look in part.looks]
        return torch.stack(logs).mean(0) + part.strength * self.answers

    @cached_property
    def pictures(self) -> Any:
        return pictures(self.test)


def pictures(split: Split) -> Any:
    """(images, 28, 28) grey values."""
    return np.stack([np.asarray(read().convert("L")) for _, _, read in split.items()])


def save(path: Path, values: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{id(values)}.npy")
    np.save(new, values.float().numpy())
    new.rename(path)


def scored(classifier: Classifier, split: Split, first: int | None = None) -> Tensor:
    """(images, classes) scores, not calibrated."""
    classifier.top = None
    return torch.tensor([p.scores for p in predict(classifier, list(split.items())[:first])])


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """In percent, of the images that have scores."""
    return 100 * float((scores.argmax(1) == labels[: len(scores)]).float().mean())


def cell_scores(cell: Cell) -> dict[str, Tensor]:
    """The test scores of each method; the slow ones first."""
    few, plain = cell.each in MORE, replace(cell.recipe, augment=AugmentOptions())
    out = {name: cell.adapter(name) for name in TRAINED}
    if not few:
        tested = cell.tested
        out["zero-shot"] = tested.answers
        for name, path in (("neighbours", neighbours), ("probe", probes)):
            out[name] = cell.piece(name, partial(cell.fitted, path))
        out["probe on answers"] = cell.piece("probe on answers", partial(cell.probed, plain))
        out["probe, six views"] = cell.piece("probe, six views", partial(cell.probed, cell.recipe))
        out["scikit-learn"] = cell.piece("scikit-learn", cell.regression)
        out["Tip-Adapter"] = cell.piece("Tip-Adapter", partial(cell.tip_adapter, False))
        out["Tip-Adapter, best"] = cell.piece("Tip-Adapter, best", partial(cell.tip_adapter, True))
        if NETWORK.exists():
            out["ImageNet"] = cell.piece("ImageNet", cell.imagenet)
    for name, unlabelled in BLENDS.items():
        if not (unlabelled and cell.each == FULL):
            out[name] = cell.piece(name, partial(cell.blended, unlabelled))
    return out


def paired(first: list[float], second: list[float]) -> dict[str, float]:
    """The mean difference of two methods over the draws, half its 95 % interval, and the p-value of Student's t."""
    gains = np.array(first) - np.array(second)
    error = gains.std(ddof=1) / len(gains) ** 0.5
    t = gains.mean() / error if error else 0.0  # all draws alike
    half = stats.t.ppf(0.975, len(gains) - 1) * error
    return {
        "points": float(gains.mean()),
        "half_width": float(half),
        "p": float(2 * stats.t.sf(abs(t), len(gains) - 1)),
    }


def summary(found: dict[int, dict[str, list[float]]]) -> dict[str, Any]:
    """The figures of the claim."""
    points, worse, unlabelled = dict[str, Any](), [1.0], dict[str, Any]()
    for each, table in found.items():
        if "probe" in table:
            best = max(SINGLES, key=lambda name: fmean(table[name]))
            points[str(each)] = {"best": best, **paired(table["blend"], table[best])}
            against = [paired(table["blend"], table[name]) for name in SINGLES]
            worse += [gap["p"] for gap in against if gap["points"] < 0]
        if "blend, unlabelled" in table:
            unlabelled[str(each)] = paired(table["blend, unlabelled"], table["blend"])
    return {"points": points, "worst_p": min(worse), "unlabelled_points": unlabelled}


def opened() -> tuple[ImageDataset, Recipe]:
    """All of Fashion-MNIST, and the demo's recipe."""
    whole = open_data(load_recipe("fashion-best", ["data.validation=0"]).data)
    recipe = load_recipe("demo-fashion", ["data.validation=0", "train.least_steps=40"])
    return whole, replace(recipe, data=replace(recipe.data, uri=whole.uri))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "few-labels")
    parser.add_argument("--draws", type=int, nargs="*", default=list(range(DRAWS)))
    args = parser.parse_args()
    whole, recipe = opened()
    tested = Tested(args.work, whole, recipe)
    print("test images", file=sys.stderr, flush=True)
    for look in tested.looks:
        tested.feature(FEATURE, look)
    found: dict[int, dict[str, list[float]]] = {}
    for each in (*EACH, FULL, *MORE):
        for draw in args.draws:
            scores = cell_scores(Cell(args.work, whole, recipe, each, draw, tested))
            for name, values in scores.items():
                found.setdefault(each, {}).setdefault(name, []).append(accuracy(values, tested.labels))
    print("a class".ljust(18), *(f"{each:>12}" for each in found))
    for name in COLUMNS:
        cells = [found[each].get(name) for each in found]
        shown = [f"{fmean(c):.1f} ± {stats.sem(c) * stats.t.ppf(0.975, len(c) - 1):.1f}" if c else "" for c in cells]
        print(name.ljust(18), *(f"{cell:>12}" for cell in shown))
    print(
        json.dumps({**summary(found), "accuracy": {str(each): table for each, table in found.items()}, **provenance()})
    )


if __name__ == "__main__":
    main()
