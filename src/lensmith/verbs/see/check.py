"""`lensmith check`: what is wrong with the images, before a model is blamed or believed."""

from __future__ import annotations

import argparse
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.config import Recipe
from lensmith.data import open_data
from lensmith.errors import ImageError, UserError
from lensmith.progress import Note, Tell, silent, working
from lensmith.runs.files import write, write_json
from lensmith.runs.folder import PREDICTIONS, REPORT, Run, claimed, read_run, require_one_process
from lensmith.runs.provenance import facts
from lensmith.verbs import terminal
from lensmith.verbs.words import divided, kind_of, recipe_from, words_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lensmith.checks.findings import Finding
    from lensmith.checks.leaks import Leak
    from lensmith.checks.stress import Stressed
    from lensmith.checks.survey import Survey
    from lensmith.data import ImageDataset
    from lensmith.learn.features.frozen import FrozenModel
    from lensmith.pages.checks import check as page
    from lensmith.records import Prediction

TABLE = "check.csv"
EXAMPLES = (
    "lensmith check my-images",
    "lensmith check runs/mine",
    "lensmith check my-images check.features=false --strict",
)
KEYS = ("kind", "harm", "count", "sentence", "advice", "sure", "head", "rows")
"""What the record has of each finding."""
_MARKS = {"spoils": "!", "look": "?", "note": " "}
_ANSWERED = 500
"""Images that a run answers with a cue taken away."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    terminal.add_recipe(parser, "check", resumable=False)
    parser.add_argument("--strict", action="store_true", help="exit code 1 also for what a person should look at")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    runs = [Path(word) for word in divided(args.recipe)[1] if kind_of(word) == "run"]
    recipe = recipe_from(args.recipe)
    record = check(recipe, args.run, screen, runs[0] if runs else None)
    bad = {"spoils", "look"} if args.strict else {"spoils"}
    harms = {found["harm"] for found in record["findings"]}
    lines: list[terminal.Part] = [] if "spoils" in harms else [record["verdict"]]
    lines += record["sentences"]
    for found in record["findings"]:
        lines.append(f"{_MARKS[found['harm']]} {found['sentence']}")
        if found["harm"] != "note":
            lines.append(f"    {found['advice']}")
    lines += [f"Left out: {what}" for what in record["left_out"]]
    lines += [terminal.path_line("Table", record["table"]), terminal.path_line("Report", record["report"])]
    corrected = [f"data.corrections={record['table']}"] * (record["removed"] > 0)
    lines.append(terminal.next_line("train", *words_for(recipe, record["run"]), *corrected))
    return terminal.Output(record, lines, int(bool(harms & bad)))


def check(
    recipe: Recipe, folder: Path | None = None, tell: Tell = silent, of_run: Path | None = None
) -> dict[str, Any]:
    """Look for what is wrong with the images: leaks, contradictions, odd ones, shortcuts, balance, wrong labels.

    Writes a page, and a table to act on, which `data.corrections` reads. A stopped call leaves no run folder, but
    extracted features stay in the cache.

    Args:
        of_run: a finished run on these images; its accuracy without the leaked images is added, and what it answers
            when traces of files, borders or colours are taken away.

    Returns:
        The record: `findings` (each with `kind`, `harm`, `count`, `sentence`, `advice`, `sure`), `verdict`,
        `left_out` (what could not be looked at, and why), `table`, `removed` (how many images the table leaves out as
        it is), `report`.

    Raises:
        UserError: the images can't be opened; the run isn't finished, or was scored on others.
    """
    require_one_process("check")
    started = time.perf_counter()
    from lensmith.checks.copies import find_copies
    from lensmith.checks.findings import table
    from lensmith.checks.leaks import leaks_of, without
    from lensmith.checks.survey import survey
    from lensmith.pages.checks import check as page

    predictions = _predictions(of_run)
    dataset = open_data(recipe.data, tell)
    _require_same(of_run, predictions, dataset)
    folder, lock = claimed(folder, recipe, "check")
    run = Run(folder, recipe, dataset, tell, lock)
    tell(Note(dataset.describe()))
    left_out: list[str] = []
    try:
        surveyed = survey(dataset, recipe.data.max_pixels, tell)
        frozen = _frozen(recipe, dataset, tell, left_out)
        features = _features(frozen, surveyed)
        copies = find_copies(surveyed, features, tell)
        leaks = leaks_of(surveyed, copies)
        findings = _findings(recipe, surveyed, copies, leaks, frozen, features, left_out, tell)
        sentences, answers = [], []
        if of_run:
            sentences.append(without(predictions, {surveyed.ids[leak.test] for leak in leaks}))
            answers = _answers(of_run, recipe, dataset, tell)
            sentences += [a.sentence() for a in answers]
    except BaseException:
        shutil.rmtree(run.folder)  # nothing is in it yet
        raise
    if copies.plain:
        left_out.append(
            f"{len(copies.plain):,} images with too little detail to find copies of them, such as clear skies."
        )
    run.start("test")
    spoils = (found.sentence for found in findings if found.harm == "spoils")
    verdict = next(spoils, "Nothing was found that spoils figures.")
    text, removed = table(surveyed, findings)
    write(run.folder / TABLE, text)
    report = run.folder / REPORT
    with working("writing the report", tell):
        page.write_check(
            report,
            page.CheckData(
                title=f"What is wrong with the images of {dataset.uri}",
                verdict=verdict,
                sentences=sentences,
                sections=[_section(found, surveyed, recipe.check.most) for found in findings],
                answers=_shown_answers(answers),
                facts=facts(run.folder),
                notes=[*dataset.notes, *(f"Left out: {what}" for what in left_out)],
            ),
        )
    record = {
        "verdict": verdict,
        "sentences": sentences,
        "findings": [{key: getattr(found, key) for key in KEYS} for found in findings],
        "answers": [
            {
                "about": a.about,
                "changed": a.changed,
                "n": a.comparison.n,
                "accuracy": a.comparison.accuracy_second.accuracy,
            }
            for a in answers
        ],
        "images": len(surveyed),
        "left_out": left_out,
        "removed": removed,
        "seconds": time.perf_counter() - started,
        "table": str(run.folder / TABLE),
        "run": str(run.folder),
        "report": str(report),
    }
    write_json(run.folder / "check.json", record)
    return record


def _predictions(of_run: Path | None) -> list[Prediction]:
    """A run's answers to its test images; empty without a run."""
    from lensmith.runs.predictions import read_predictions

    if of_run is None:
        return []
    read_run(of_run)
    if not (of_run / PREDICTIONS).exists():
        raise UserError(
            f"The run {of_run} has no answers to test images.", f"Score it: lensmith evaluate {of_run} labelled-images"
        )
    return read_predictions(of_run / PREDICTIONS)


def _require_same(of_run: Path | None, predictions: Sequence[Prediction], dataset: ImageDataset) -> None:
    """Raises UserError unless the run was scored on the dataset's test images."""
    known = set(dataset.test.ids)
    if of_run and (foreign := [p.id for p in predictions if p.id not in known]):
        raise UserError(
            f"The run {of_run} was scored on other images: {len(foreign):,} of {len(predictions):,} aren't test images "
            f"of {dataset.uri}.",
            "Check the images that it was scored on, or score it on these: lensmith evaluate RUN IMAGES.",
        )


def _frozen(recipe: Recipe, dataset: ImageDataset, tell: Tell, left_out: list[str]) -> FrozenModel | None:
    """The model, whose features show more; None if it isn't wanted or can't be had, which is said."""
    if not recipe.check.features:
        left_out.append("what the model's features show (check.features=false).")
        return None
    from lensmith.learn.features.frozen import FrozenModel

    try:
        return FrozenModel(replace(recipe, model=replace(recipe.model, adapter=None)), dataset, tell)
    except UserError as error:
        left_out.append(f"what the model's features show: {error}")
        return None


def _features(frozen: FrozenModel | None, surveyed: Survey) -> Any:
    """(images, size) the tower's mean feature of each image, zeros for unreadable ones; None without a model."""
    import torch

    if frozen is None:
        return None
    found, offset = None, 0
    for split in filter(len, surveyed.dataset.splits):
        if split.name == "train" or any(i not in surveyed.errors for i in range(offset, offset + len(split))):
            rows = frozen.table(split.name)
            values = rows.feature("tower mean")
            if found is None:
                found = torch.zeros(len(surveyed), values.shape[1])
            found[[offset + row for row in rows.rows]] = values
        offset += len(split)
    return found


def _findings(
    recipe: Recipe,
    surveyed: Survey,
    copies: Any,
    leaks: Sequence[Leak],
    frozen: FrozenModel | None,
    features: Any,
    left_out: list[str],
    tell: Tell,
) -> list[Finding]:
    """All that was found, in order of harm."""
    import torch

    from lensmith.checks import leaks as across
    from lensmith.checks.balance import balance
    from lensmith.checks.neighbours import nearest
    from lensmith.checks.odd import odd, unreadable
    from lensmith.checks.shortcuts import pixel_statistics, shortcuts

    near: dict[int, int] = {}
    far = None
    if features is not None and len(surveyed.readable()) > 5:
        rows = surveyed.readable()
        vectors = torch.nn.functional.normalize(features[rows] - features[rows].mean(0), dim=1)
        found = nearest(vectors, vectors, 5, tell)
        near = {i: rows[int(found.index[k, 0])] for k, i in enumerate(rows) if int(found.index[k, 0]) >= 0}
        distances = torch.full((len(surveyed),), torch.nan, dtype=torch.float64)
        distances[rows] = (1 - found.similarity.mean(1)).double()
        far = distances.numpy()
    with working("looking for shortcuts", tell):
        easy = [shortcuts(surveyed, recipe.seed), pixel_statistics(surveyed, recipe.seed)]
    every = [
        across.leak_finding(surveyed, copies, leaks),
        across.contradictions(surveyed, copies),
        across.group_finding(surveyed, near) if not any(surveyed.dataset.train.groups) else None,
        _suspects(recipe, surveyed, frozen, left_out, tell),
        unreadable(surveyed),
        odd(surveyed, far),
        *easy,
        balance(surveyed.dataset),
        across.copies_finding(surveyed, copies),
        across.compared(surveyed, copies, Path(recipe.check.known)) if recipe.check.known else None,
    ]
    found_all = [found for found in every if found is not None]
    return sorted(found_all, key=lambda found: ("spoils", "look", "note").index(found.harm))


def _suspects(
    recipe: Recipe, surveyed: Survey, frozen: FrozenModel | None, left_out: list[str], tell: Tell
) -> Finding | None:
    """Labels that are likely wrong, by the model's features."""
    from lensmith.checks.findings import Finding, Line, Picture
    from lensmith.checks.survey import Spot
    from lensmith.checks.suspects import find_suspects

    if frozen is None:
        return None
    try:
        found = find_suspects(recipe, surveyed.dataset, tell, frozen)
    except UserError as error:
        left_out.append(f"wrong labels: {error}")
        return None
    if not found.suspects:
        return None
    index = {spot: i for i, spot in enumerate(surveyed.spots)}
    rows = [(index[Spot(s.split, s.index)], s) for s in found.suspects]
    return Finding(
        "suspects",
        "look",
        len(rows),
        f"{len(rows):,} of {found.images:,} training and validation labels may be wrong.",
        "Correct them in the table, which names the label that each seems to have.",
        found.notes[0],
        [[Picture(i, f"{s.label}? looks like {s.suggested}")] for i, s in rows[: recipe.check.most]],
        [Line(i, s.suggested) for i, s in rows],
    )


def _answers(of_run: Path, recipe: Recipe, dataset: ImageDataset, tell: Tell) -> list[Stressed]:
    """What a taught run answers when a cue is taken away; nothing for a run that was taught nothing."""
    from lensmith.checks.stress import CUES, stress
    from lensmith.engine.taught import load_taught

    if not (of_run / "adapter").is_dir():
        return []
    taught = load_taught(of_run)
    known = dataset.among(taught.classifier.labels)
    return stress(taught.classifier, known.test.take(_ANSWERED), CUES, recipe.data.max_pixels, recipe.seed, tell)[1]


def _shown_answers(answers: Sequence[Stressed]) -> list[page.Answer]:
    from lensmith.pages.checks import check as page

    if not answers:
        return []
    first = answers[0].comparison
    return [page.Answer("as they are", first.accuracy_first, 0, first.n, "")] + [
        page.Answer(a.about, a.comparison.accuracy_second, a.changed, a.comparison.n, a.comparison.verdict)
        for a in answers
    ]


def _section(found: Finding, surveyed: Survey, most: int) -> page.Section:
    """A finding for the page, with its pictures."""
    from lensmith.pages.checks import check as page

    def shown(i: int, caption: str) -> page.Shown:
        image = None
        with suppress(ImageError):
            image = surveyed.image(i)
        return page.Shown(image, caption, surveyed.sources[i])

    pictures = [[shown(picture.image, picture.caption) for picture in pair] for pair in found.pictures[:most]]
    more = len(found.lines) - sum(map(len, pictures))
    return page.Section(
        found.kind, found.harm, found.sentence, found.advice, found.sure, pictures, more, found.head, found.rows
    )
