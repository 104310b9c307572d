"""How a blend is made: of heads fitted on frozen features and of models trained before, or of finished runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lensmith import models
from lensmith.data import ImageDataset
from lensmith.data.more import unlabelled_files
from lensmith.learn.features.few import FewPart, fit_few, scores
from lensmith.learn.features.frozen import FrozenModel
from lensmith.learn.made import calibration_in, classifier_of, validation_scores
from lensmith.measure.calibration import LEAST, temperature
from lensmith.measure.evaluation import predict_split
from lensmith.measure.metrics import wilson
from lensmith.models.base import Model
from lensmith.models.blends import PARTS, StoredPart, keep_blend
from lensmith.models.heads import Head
from lensmith.models.tuned_files import task_for, task_of
from lensmith.models.views import AS_IT_IS, Look
from lensmith.records import Calibration, Rate, percent
from lensmith.runs.folder import Run, read_run
from lensmith.runs.predictions import read_scores
from lensmith.runs.shapes import stored_calibration

SHRINK = 10.0
"""How strongly weights are drawn towards equal ones; see `fit_weights`."""
LEAST_WEIGHT = 0.02
"""Members with less weight are left out: they would take time and change nothing."""
SURE = 2.0
"""The temperature of trained models without validation images to fit it by: they are too sure of what they have learned
from few images (1.9 to 2.8 in trials at 1 to 8 labels a class, dev/LOG.md), and would drown the other members."""
ANSWERS = "zero-shot"
"""The part that is the model itself, without training."""


@dataclass(frozen=True)
class Member:
    """One classifier of a blend, before it has a weight."""

    head: Head | None
    """None for a trained model, which has a folder."""
    adapter: Path | None
    calibration: Calibration
    looks: tuple[Look, ...] = (AS_IT_IS,)
    strength: float = 0.0
    """How often the model's own answers are added to its scores."""


def fit_weights(logs: Tensor, labels: Tensor, shrink: float = SHRINK) -> Tensor:
    """Weights of at least 0 that add up to 1.

    Minimises the log loss of softmax((sum of weight x log p) / T) over weights and temperature T, plus shrink / n x the
    squared distance of the weights from equal ones, as a fraction of the largest possible.

    Args:
        logs: (members, n, classes) calibrated log-probabilities, of images that no member was taught.
        labels: (n,) index of each image's class.
        shrink: 0 for the weights that are best on these images.

    Returns:
        (members,); equal weights if there are no images.
    """
    k, n = logs.shape[:2]
    if k == 1 or not n:
        return torch.full((k,), 1 / k)
    logs = logs.double()
    free = torch.zeros(k, dtype=torch.float64, requires_grad=True)
    sharpness = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([free, sharpness], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        weights = free.softmax(0)
        mean = torch.einsum("k,knc->nc", weights, logs) * sharpness.exp()
        distance = (weights - 1 / k).square().sum() / (1 - 1 / k)
        loss = torch.nn.functional.cross_entropy(mean, labels) + shrink / n * distance
        torch.autograd.backward([loss])
        return loss.item()

    with torch.enable_grad():
        solver.step(closure)
    weights = free.detach().softmax(0)
    kept = torch.where(weights < LEAST_WEIGHT, 0.0, weights)
    return (kept / kept.sum()).float()


def make_blend(run: Run, frozen: FrozenModel, taught: Mapping[str, Run]) -> str:
    """Make a blend of heads fitted on frozen features and of trained models, and write it into a run's folder.

    Weights are fitted on the validation images. With fewer than twenty they are equal.

    Args:
        run: has been started.
        taught: runs with trained models of the same base, images and question, by name.

    Returns:
        A sentence about the weights.

    Raises:
        UserError, Stopped: see `FrozenModel.fit` and `validation_scores`.
    """
    fit = fit_few(frozen, unlabelled_files(run.recipe.data, run.dataset))
    logs, y = _validated(frozen, fit.parts, taught)
    weighed = _weigh(fit.parts, taught, logs, y)
    _write(run, frozen.model, weighed.members, weighed.weights)
    added = sum(weighed.members[name].strength * weight for name, weight in weighed.weights.items())
    notes = [sentence(weighed.how, weighed.weights), *fit.notes]
    notes[1:1] = [f"The model's own answers are added {added:.2g} times."] if added else []
    if len(y) >= LEAST:
        notes.append(_beside_parts(weighed, logs, y))
    return " ".join(notes)


def _beside_parts(weighed: Weighed, logs: Mapping[str, Tensor], y: Tensor) -> str:
    """How a blend does on the validation images, and the best of its parts alone; a part may be all that one needs."""

    def right(scores: Tensor) -> Rate:
        return wilson(int((scores.argmax(1) == y).sum()), len(y))

    alone = {name: right(logs[name]) for name in weighed.weights}
    best = max(alone, key=lambda name: alone[name].accuracy)
    return (
        f"On these images {percent(right(weighed.logs))} of its answers are correct, and of its best part alone, "
        f"{best}, {percent(alone[best])}."
    )


def held_out(run: Run, frozen: FrozenModel, taught: Mapping[str, Run], parts: Sequence[Sequence[int]]) -> Tensor:
    """What blends say of validation images that chose neither their settings nor their weights.

    Args:
        run, taught: as in `make_blend`.
        parts: indices of validation images: each part is scored by the blend that the other parts choose.

    Returns:
        (validation images, classes) log-probabilities, NaN for an image that can't be read.
    """
    files = unlabelled_files(run.recipe.data, run.dataset)

    def say(chooses: Tensor) -> Tensor:
        few = fit_few(frozen, files, chooses.nonzero()[:, 0].tolist()).parts
        return _weigh(few, taught, *_validated(frozen, few, taught), chooses).logs

    return frozen.held_out(parts, say)


@dataclass(frozen=True)
class Weighed:
    """The members of a blend, and the weights of those that are used."""

    members: dict[str, Member]
    weights: dict[str, float]
    how: str
    """How the weights were chosen, in words."""
    logs: Tensor
    """(n, classes) the blend's log-probabilities of the validation images; empty if there are none."""


def _weigh(
    few: Sequence[FewPart],
    taught: Mapping[str, Run],
    logs: dict[str, Tensor],
    y: Tensor,
    chooses: Tensor | None = None,
) -> Weighed:
    """Calibrate heads and weigh all members by validation images.

    Args:
        logs, y: see `_validated`.
        chooses: (n,) whether an image is used for that; None for all.
    """
    members = {part.name: Member(part.head, None, Calibration(), part.looks, part.strength) for part in few}
    members |= {
        name: Member(None, own.folder / "adapter", calibration_in(own.folder, own.dataset.labels))
        for name, own in taught.items()
    }
    chosen = torch.ones(len(y), dtype=torch.bool) if chooses is None else chooses
    logs, enough = dict(logs), len(y) >= LEAST
    for name, member in members.items():
        if enough == (member.head is None):
            continue  # With enough images, a trained model has its own calibration; with too few, a head needs none.
        heat = temperature(logs[name][chosen], y[chosen]) if enough else SURE
        if logs:
            logs[name] = (logs[name] / heat).log_softmax(1)
        # Its own answers are part of its scores, so they are divided with them.
        members[name] = replace(member, calibration=Calibration(temperature=heat), strength=member.strength / heat)
    if not logs:
        return Weighed(members, *_equal(members), torch.zeros(0))
    every = torch.stack([logs[name] for name in members])
    weights, how = _fitted(members, every[:, chosen], y[chosen]) if enough else _equal(members)
    mean = torch.stack([weight * logs[name] for name, weight in weights.items()]).sum(0).log_softmax(1)
    return Weighed(members, weights, how, (mean / temperature(mean[chosen], y[chosen])).log_softmax(1))


def blend_runs(run: Run, parts: Mapping[str, Path]) -> str:
    """Make a blend of finished runs, and write it into a run's folder. Weights are fitted as in `make_blend`.

    Args:
        run: has been started. The runs have its labels, question, base, validation and test images.
        parts: the folders of the runs, by name.

    Returns:
        A sentence about the weights.

    Raises:
        UserError, Stopped: as `predict_split`.
    """
    labels, validation = run.dataset.labels, run.dataset.validation
    members, scores = dict[str, Member](), list[Tensor]()
    for name, folder in parts.items():
        known = stored_calibration(folder / "adapter", task_of(folder / "adapter"), labels)
        members[name] = Member(None, folder / "adapter", known)
        if len(validation) >= LEAST:
            path = run.folder / PARTS / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                classifier = classifier_of(replace(run, folder=folder, recipe=read_run(folder)))
                predict_split(run, classifier, validation, path, f"validating ({name})")
            scores.append(known.apply(torch.from_numpy(read_scores(path, labels))).log_softmax(1))
    weights, how = _equal(members)
    if scores:
        logs = torch.stack(scores)
        read = logs.isfinite().all(2).all(0)
        y = torch.tensor([labels.index(label) for label in validation.labels])[read]
        weights, how = _fitted(members, logs[:, read], y)
    _write(run, models.load_base(run.recipe.model), members, weights)
    return sentence(how, weights)


def _equal(names: Collection[str]) -> tuple[dict[str, float], str]:
    """The weights of members that nothing can weigh, and in words how they were chosen."""
    return dict.fromkeys(names, 1 / len(names)), "equal weights"


def _fitted(names: Collection[str], logs: Tensor, y: Tensor) -> tuple[dict[str, float], str]:
    """The weights of those members that have one, and in words how they were chosen; see `fit_weights`."""
    weights = {name: weight for name, weight in zip(names, fit_weights(logs, y).tolist(), strict=True) if weight}
    return weights, f"weights fitted on {len(y):,} validation images"


def sentence(how: str, weight_of: Mapping[str, float]) -> str:
    """What each part of a blend weighs, and how that was chosen."""
    shown = ", ".join(f"{name} {weight:.0%}".replace("%", " %") for name, weight in weight_of.items())
    return f"{how[0].upper()}{how[1:]}: {shown}."


def _validated(
    frozen: FrozenModel, few: Sequence[FewPart], taught: Mapping[str, Run]
) -> tuple[dict[str, Tensor], Tensor]:
    """(n, classes) log-probabilities of each member for the validation images that can be read, and their labels."""
    dataset: ImageDataset = frozen.dataset
    if not len(dataset.validation):
        return {}, torch.zeros(0, dtype=torch.long)
    needed = list(dict.fromkeys(part.head.feature for part in few))
    tables = {look: frozen.looked(dataset.validation, needed, look) for part in few for look in part.looks}
    first = next(iter(tables.values()))
    answers = None
    if any(part.strength for part in few):
        ask = partial(frozen.answers, dataset.validation, first.rows)
        answers = frozen.once("answers about validation images", ask)
    logs = {part.name: scores(part.head, [tables[look] for look in part.looks], answers, part.strength) for part in few}
    for name, own in taught.items():
        logs[name] = validation_scores(own, name)[first.rows].log_softmax(1)
    return logs, first.labels


def _write(run: Run, model: Model, members: Mapping[str, Member], weight_of: Mapping[str, float]) -> None:
    """Write the members that have a weight, and the model itself if one of them adds its answers."""
    parts = {}
    for name, weight in weight_of.items():
        member = members[name]
        task = task_of(member.adapter) if member.adapter else task_for(run, model, name)
        task |= {"calibration": asdict(member.calibration)}
        parts[name] = StoredPart(weight, member.adapter, task, member.head, member.looks)
    answers = sum(weight * members[name].strength for name, weight in weight_of.items())
    if answers:
        task = task_for(run, model, ANSWERS) | {"calibration": asdict(Calibration())}
        parts[ANSWERS] = StoredPart(answers, None, task)
    keep_blend(run, model, parts)
