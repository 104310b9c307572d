"""The verb that looks for wrong labels: images whose class a probe that never saw their labels finds improbable.

Confident learning (Northcutt et al., 1911.00068), by `cleanlab`: each image is judged by a probe fitted on the other
folds; one whose label is improbable, and another class more probable than it is on average for its own images, is a
suspect. The model's vectors are those of the base model, which was never told these labels: one that was tuned on them
has learnt the wrong ones too.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.data.corrections import COLUMNS
from lensmith.errors import ImageError, UserError
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import write, write_json
from lensmith.runs.folder import default_folder, facts, new_run_folder, require_one_process, start_run

if TYPE_CHECKING:
    from lensmith.data import ImageDataset, Split
    from lensmith.pages.suspects import Suspect

TABLE = "suspects.csv"
PARTS = ("train", "validation")
"""What is examined. To let a model say which test labels are right would make the test its friend."""


@dataclass(frozen=True)
class Doubt:
    """An image whose label may be wrong; shares are in 0..1."""

    part: str
    place: int
    """Of the image in its part."""
    label: str
    suggested: str
    own: float
    """The label's share."""
    other: float
    """The suggested label's share."""


def suspects(recipe: Recipe, folder: Path | None = None, tell: Tell = silent) -> dict[str, Any]:
    """Find the training and validation images whose labels are likely wrong: a page of pictures, and a table to
    correct, which `data.corrections` reads.

    Returns:
        The record: `suspects` (number), `images` examined, `table`, `report`, `run`, `pairs`.

    Raises:
        UserError: `cleanlab` isn't there; or fewer than two classes have enough images.

    What was looked at is kept in the cache, so one that was stopped is soon where it was.
    """
    from lensmith.pages.suspects import SuspectsData, write_suspects

    started = time.perf_counter()
    require_one_process("suspects")
    _require_cleanlab()
    dataset = open_data(recipe.data)
    if not len(dataset.train):
        raise UserError(f"{recipe.data.uri} has no training images.", "Suspects are looked for among them.")
    folder = new_run_folder(folder or default_folder(recipe, "suspects"))
    tell(Note(dataset.describe()))
    try:
        doubts, examined, notes = find(recipe, dataset, tell)
    except BaseException:
        folder.rmdir()  # nothing is in it yet
        raise
    start_run(folder, recipe, dataset, "train")
    write(folder / TABLE, table(doubts, dataset))
    pairs = [(a, b, n) for (a, b), n in Counter((d.label, d.suggested) for d in doubts).most_common()]
    share = len(doubts) / examined
    found = f"{len(doubts):,} of {examined:,} images ({share * 100:.1f} %)" if doubts else "None"
    data = SuspectsData(
        title=f"Labels in doubt, of {dataset.uri}",
        verdict=f"{found} may have a wrong label." if doubts else f"None of {examined:,} labels is in doubt.",
        sentences=notes,
        suspects=[s for d in doubts[: recipe.suspects.most] if (s := picture(d, dataset)) is not None],
        total=len(doubts),
        images=examined,
        pairs=pairs,
        facts=facts(folder),
        notes=list(dataset.notes),
    )
    report = folder / "report.html"
    write_suspects(report, data)
    record = {
        "suspects": len(doubts),
        "images": examined,
        "pairs": pairs,
        "notes": notes,
        "verdict": data.verdict,
        "seconds": time.perf_counter() - started,
        "table": str(folder / TABLE),
        "run": str(folder),
        "report": str(report),
    }
    write_json(folder / "suspects.json", record)
    return record


def find(recipe: Recipe, dataset: ImageDataset, tell: Tell) -> tuple[list[Doubt], int, list[str]]:
    """The doubts, the most serious first; how many images were examined; and sentences on how.

    Raises:
        UserError: fewer than two classes have enough images.
    """
    import numpy as np
    import torch
    from cleanlab.filter import find_label_issues

    from lensmith.learn import probes
    from lensmith.learn.feature_table import Table
    from lensmith.learn.methods import Frozen

    folds, labels = recipe.suspects.folds, dataset.labels
    frozen = Frozen(recipe, dataset, tell)
    chosen = frozen.fit("probe")
    where: list[tuple[str, int]] = []
    seen: set[str] = set()
    picked, truth = [], []
    for part in PARTS:
        found, names = frozen.table(part), getattr(dataset, part).contents
        if not len(found):
            continue
        # A copy in another fold would vouch for its own label.
        rows = [k for k, i in enumerate(found.rows) if not (names[i] in seen or seen.add(names[i]))]  # type: ignore[func-returns-value]
        picked.append(found.values[rows])
        truth.append(found.truth[rows])
        where += [(part, found.rows[k]) for k in rows]
    rows = list(range(len(where)))
    whole = Table(torch.cat(picked), frozen.table("train").places, torch.cat(truth), rows, {}, list(map(str, rows)))
    counts = Counter(whole.truth.tolist())
    large = sorted(c for c, n in counts.items() if n >= folds)
    small = [f"{labels[c]} ({counts[c]})" for c in range(len(labels)) if 0 < counts[c] < folds]
    if len(large) < 2:
        raise UserError(
            f"Fewer than two classes have {folds} readable images, which judging each by a fit on the others takes: "
            f"{', '.join(small)}.",
            "Add images, or lower suspects.folds.",
        )
    whole = whole.some([k for k, c in enumerate(whole.truth.tolist()) if counts[c] >= folds])
    names = [labels[c] for c in large]
    number = torch.full((len(labels),), -1).scatter(0, torch.tensor(large), torch.arange(len(large)))
    whole = Table(whole.values, whole.places, number[whole.truth], whole.rows, {}, whole.names)
    shares = torch.zeros(len(whole), len(names))
    place = {row: k for k, row in enumerate(whole.rows)}
    pairs, device = probes.split_folds(whole, folds, recipe.seed), frozen.model.device
    # The vector was chosen on the validation images; how freely to fit, all can say, and wrong labels ask for less.
    feature = chosen.head.feature
    tried = probes.judge(probes.probes, pairs, names, [feature], torch.ones(len(names)), device)
    setting = probes.best(tried).setting
    for k, (train, check) in enumerate(pairs):
        head = probes.fit_one(probes.probes, train, names, feature, setting, device=device)
        shares[[place[row] for row in check.rows]] = head(check.of(head.feature)).softmax(1)
        tell(Note(f"Fold {k + 1} of {folds} judged."))
    own = whole.truth.numpy()
    order = find_label_issues(
        own, shares.numpy().astype(np.float64), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    best = shares.argmax(1).tolist()
    doubts = [
        Doubt(*where[whole.rows[k]], names[own[k]], names[best[k]], float(shares[k, own[k]]), float(shares[k, best[k]]))
        for k in map(int, order)
        if best[k] != own[k]
    ]
    right = float((shares.argmax(1) == whole.truth).float().mean())
    notes = [
        f"Each image was judged by a probe ({feature}) fitted on the other {folds - 1} of {folds} parts, "
        f"which agrees with {right * 100:.1f} % of the labels."
    ]
    if small:
        notes.append(f"Left out, with fewer than {folds} images: {', '.join(small)}.")
    return doubts, len(whole), notes


def table(doubts: list[Doubt], dataset: ImageDataset) -> str:
    """The doubts as CSV, a row each; see `data.corrections`."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow([*COLUMNS, "suggested", "share_of_label", "share_of_suggested", "part", "file"])
    for d in doubts:
        split: Split = getattr(dataset, d.part)
        shares = f"{d.own:.3f}", f"{d.other:.3f}"
        rows.writerow([split.ids[d.place], d.label, d.label, d.suggested, *shares, d.part, split.source(d.place)])
    return out.getvalue()


def picture(doubt: Doubt, dataset: ImageDataset) -> Suspect | None:
    """A doubt for the page; None if the image has gone since."""
    from lensmith.pages.suspects import Suspect

    split: Split = getattr(dataset, doubt.part)
    with suppress(ImageError):
        image = split.image(doubt.place)
        return Suspect(image, doubt.label, doubt.suggested, doubt.own, doubt.other, split.source(doubt.place))
    return None


def _require_cleanlab() -> None:
    try:
        import cleanlab  # noqa: F401
    except ImportError:
        raise UserError("Looking for wrong labels needs cleanlab.", "pip install 'lensmith[suspects]'") from None
