"""`lensmith label`: label images with a model, to teach another: an outside model, a taught one, or both in turn."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lensmith.apis import is_outside
from lensmith.config import Recipe
from lensmith.config.plain_yaml import written
from lensmith.errors import UserError
from lensmith.jobs.job import Job
from lensmith.places import place
from lensmith.progress import Note, Tell, counter, silent
from lensmith.runs.files import read_json, write, write_json
from lensmith.runs.folder import claimed, is_run, read_run, recipe_for, settled, taught_labels
from lensmith.runs.lock import locked
from lensmith.verbs import terminal
from lensmith.verbs.words import divided, listed

RECORD = "labels.json"
TABLE = "labels.jsonl"
"""The file of labels, which `data.more` and `data.uri` read."""
EXAMPLES = (
    "lensmith label new-images runs/mine",
    "lensmith label new-images model.base=openai:gpt-6-luna --labels cat,dog",
    "lensmith label new-images runs/mine model.base=openai:gpt-6-luna --sure 0.9",
)
SURE = 0.9


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="IMAGES|RUN|OPTION",
        help="image files or folders of images; a run whose model labels them; and options of the recipe, such as "
        "model.base=openai:NAME for an outside model",
    )
    parser.add_argument("--labels", default="", help="the classes, if no run was taught them: a,b,c")
    parser.add_argument(
        "--sure",
        type=float,
        default=SURE,
        help="with a run and an outside model: the probability from which the run's own answer is taken (0.9)",
    )
    parser.add_argument("--run", type=Path, help="run folder to create (default: runs/NAME-label-TIME)")
    parser.add_argument("--yes", action="store_true", help="send images to an outside model without asking")
    terminal.add_place(parser)


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    options, sources = divided(args.recipe)
    taught = [word for word in sources if is_run(Path(word))]
    if len(taught) > 1:
        raise UserError(f"{taught[0]} and {taught[1]} are two runs.", "Give one of them.")
    given: dict[str, Any] = {
        "images": [word for word in sources if word not in taught],
        "taught": taught[0] if taught else None,
        "labels": listed(args.labels),
        "sure": args.sure,
        "yes": args.yes,
    }
    recipe = recipe_for(None, options, _base(given["taught"]))
    if args.on != "local" and is_outside(recipe.model.base):
        raise UserError(f"{recipe.model.base} is asked from this machine.", "Leave --on out.")
    record = place(args.on).run(Job("label", recipe, args.run, options=given), screen, args.detach)
    return terminal.output(record, text)


def _base(taught: str | None) -> Recipe | None:
    """The recipe that the options change: it has the question that the run was taught."""
    if taught is None:
        return None
    recipe = read_run(Path(taught))
    return Recipe(name=recipe.name, question=recipe.question, seed=recipe.seed)


def text(record: dict[str, Any]) -> list[terminal.Part]:
    """The printed form of a record."""
    table = terminal.Table(["labelled by", "images"], [[name, f"{n:,}"] for name, n in record["labelled"].items()])
    lines = terminal.unreadable_lines(record["unreadable"], "left out")
    if number := len(record["unanswered"]):
        lines.append(f"Without an answer, and left out: {number:,}, for example: {record['unanswered'][0]}")
    lines += record["outside"]
    if record["outside"]:
        lines.append("Whether a model may be taught by an API's answers is for its terms to say: read them.")
    then = terminal.next_line("train", "my-images", f"data.more={record['table']}")
    return [table, *lines, terminal.path_line("Labels", record["table"]), then]


@dataclass(frozen=True)
class _Label:
    """A label that a model gave."""

    label: str
    by: str
    probabilities: dict[str, float]


def label(
    recipe: Recipe,
    folder: Path | None = None,
    tell: Tell = silent,
    images: Sequence[str | Path] = (),
    taught: str | Path | None = None,
    labels: Sequence[str] = (),
    sure: float = SURE,
    yes: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Label images with a model, and write a file that `data.more` adds to the training images of another.

    Args:
        recipe: `model.base` names an outside model, if one is to be asked; `question` and `api` are used.
        folder: the run folder; runs/NAME-label-TIME if None.
        images: image files and folders of images.
        taught: a run whose model labels the images; with an outside model as well, those that it is sure of.
        labels: the classes, if no run was taught them.
        sure: the probability from which the run's own answer is taken.
        yes: images may be sent to an outside model without asking.
        resume: go on with the run in `folder`.

    Returns:
        `labelled` (numbers by model), `unreadable` and `unanswered` (sentences), `outside` (sentences on cost and
        delays), `table` and `run`.

    Raises:
        UserError: there is no model, no class or no image; or an outside model can't be asked.
        Stopped: Ctrl-C; the answers of an outside model are kept.
    """
    from lensmith.apis.batches import Submitted
    from lensmith.data import list_images
    from lensmith.verbs.outside import leaving_nothing, submitted

    if resume and folder:
        asked = read_json(folder / "asked.json")
        images, taught, labels, sure = asked["images"], asked["taught"], asked["labels"], asked["sure"]
    outside = is_outside(recipe.model.base)
    classes = list(labels) or taught_labels(str(taught) if taught else None)
    if not outside and not taught:
        raise UserError("Which model?", "Name a run, or an outside model: model.base=openai:NAME.")
    if len(classes) < 2:
        raise UserError("Which classes?", "Name a run that was taught them, or add --labels a,b,c.")
    if not 0 <= sure <= 1:
        raise UserError(f"--sure is a probability from 0 to 1, not {sure:g}.")
    files = [str(file.absolute()) for path in images for file in list_images(Path(path))]
    if not files:
        raise UserError("There are no images to label.", "Name image files, or folders of images.")
    found, unreadable = _by_run(Path(taught), classes, files, recipe, tell) if taught else ({}, {})
    left = [file for file in files if file not in unreadable and not _is_sure(found.get(file), sure, outside)]
    said, unanswered, sentences = dict[str, _Label](), list[str](), list[str]()
    ask = _Outside(recipe, classes, left, tell, yes or resume) if outside and left else None
    folder, _lock = (folder, locked(folder)) if resume and folder else claimed(folder, recipe, "label")
    if not resume:
        asked = {"images": [str(Path(path).resolve()) for path in images], "labels": classes, "sure": sure}
        _start(folder, recipe, asked | {"taught": str(Path(taught).resolve()) if taught else None})
    if ask:
        try:
            with leaving_nothing(folder, resume):
                said, unreadable_there, unanswered, sentences = ask.answers(folder, recipe, tell, wait=resume)
        except Submitted:
            return submitted(folder)
        unreadable |= unreadable_there
    chosen = {file: said.get(file) or (None if outside and file in left else found.get(file)) for file in files}
    rows = [(file, given) for file, given in chosen.items() if given]
    write(folder / TABLE, "".join(_row(file, given) for file, given in rows))
    record = {
        "labelled": dict(Counter(given.by for _, given in rows)),
        "unreadable": list(unreadable.values()),
        "unanswered": unanswered,
        "outside": sentences,
        "table": str(folder / TABLE),
        "run": str(folder),
        "report": None,
    }
    write_json(folder / RECORD, record)
    return record


def _is_sure(given: _Label | None, sure: float, outside: bool) -> bool:
    return given is not None and (not outside or given.probabilities[given.label] >= sure)


def _row(file: str, given: _Label) -> str:
    row: dict[str, Any] = {"image": file, "label": given.label, "labelled_by": given.by}
    if given.probabilities:
        row["probabilities"] = {name: round(p, 6) for name, p in given.probabilities.items()}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _start(folder: Path, recipe: Recipe, asked: dict[str, Any]) -> None:
    from lensmith.runs.provenance import provenance

    write(folder / "recipe.yaml", written(settled(recipe).to_dict()))
    write_json(folder / "asked.json", asked)
    write_json(folder / "record.json", provenance() | {"verb": "label"})


def _by_run(
    run: Path, classes: Sequence[str], files: Sequence[str], recipe: Recipe, tell: Tell
) -> tuple[dict[str, _Label], dict[str, str]]:
    """What a run's model says of the images, and a sentence for each that can't be read."""
    from lensmith.data import decode_image
    from lensmith.engine.classifier import predict
    from lensmith.engine.taught import load_taught

    classifier = load_taught(run, () if list(classes) == taught_labels(str(run)) else classes).classifier
    classifier.top = None  # the probabilities of all classes are kept
    enough, most = classifier.model.sufficient_size, recipe.data.max_pixels
    items = ((f, None, partial(decode_image, Path(f), name=f, max_pixels=most, enough=enough)) for f in files)
    found, unreadable = dict[str, _Label](), dict[str, str]()
    for prediction in predict(classifier, items, counter("labelling", len(files), tell)):
        if prediction.error:
            unreadable[prediction.id] = prediction.error
            continue
        probabilities = dict(zip(classifier.labels, classifier.probabilities(prediction), strict=True))
        found[prediction.id] = _Label(str(prediction.predicted), str(run), probabilities)
    return found, unreadable


class _Outside:
    """An outside model that is asked about images. Made before there is a run folder, since it needs consent."""

    def __init__(self, recipe: Recipe, classes: Sequence[str], files: Sequence[str], tell: Tell, yes: bool) -> None:
        from lensmith.apis.pictures import picture
        from lensmith.data.images import read_file
        from lensmith.verbs.outside import SAMPLES, consent, outside_model, planned

        def read(file: str) -> Any:
            return picture(read_file(Path(file)), file, recipe.data.max_pixels, recipe.api.pixels)

        self.model = outside_model(recipe, classes)
        self.items = [(file, partial(read, file)) for file in files]
        self.plan = planned(self.model, recipe, len(files), self.items[:SAMPLES])
        tell(Note(f"{len(files):,} images to be labelled among {len(classes):,} classes."))
        consent(self.plan, tell, yes)

    def answers(
        self, folder: Path, recipe: Recipe, tell: Tell, wait: bool
    ) -> tuple[dict[str, _Label], dict[str, str], list[str], list[str]]:
        """Labels and unreadable images by file, sentences on images without an answer, and sentences on the cost."""
        from lensmith.apis.batches import settle
        from lensmith.measure.outside import WORDS, ask_all, sentences, stopped, summarise
        from lensmith.verbs.outside import write_question

        write_question(self.model, recipe, folder, self.items[0])
        labels, said, unanswered = self.model.labels, dict[str, _Label](), []
        with closing(self.model.asking(recipe, folder)) as asking:
            if recipe.api.batch:
                with stopped(folder):
                    settle(asking, self.items, folder, tell, wait)
            asked = ask_all(folder, asking, self.items, len(self.items), "asking", tell)
            for file, key in asked.digests.items():
                answer = asking.recording.get(key)
                assert answer, "every image is answered, or asking raises an error"
                if answer.name is None:
                    unanswered.append(f"{file}: {WORDS[answer.kind]}")
                    continue
                probabilities = {labels[name]: p for name, p in answer.probabilities.items()}
                said[file] = _Label(labels[answer.name], recipe.model.base, probabilities)
            summary = summarise(folder, asking, asked, None, self.plan)
        return said, asked.unreadable, unanswered, sentences(summary)
