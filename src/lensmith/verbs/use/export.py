"""`lensmith export`: write a taught model for another program, and prove it there."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.data import Split
from lensmith.errors import ImageError, UserError
from lensmith.progress import Note, Tell, silent, size, working
from lensmith.records import percent
from lensmith.runs.files import read_json, replacing, write, write_json
from lensmith.runs.folder import REPORT, recipe_for, same_data
from lensmith.runs.provenance import facts, provenance
from lensmith.runs.shapes import Record, read_as
from lensmith.verbs import terminal
from lensmith.verbs.see.evaluate import asked_images

if TYPE_CHECKING:
    from lensmith.export.format import Format
    from lensmith.export.original import Original
    from lensmith.export.proof import Proof

PROOF, UNPROVEN, ABOUT = "proof.json", "NOT-PROVEN.txt", "export.json"
EXAMPLES = (
    "lensmith export runs/mine --to onnx",
    "lensmith export runs/mine --to onnx --int8 --out shop-model",
    "lensmith export runs/mine --to web",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    from lensmith.export import known

    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a `lensmith train` or `lensmith probe`")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=f"one of {', '.join(known())}")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to create (default: RUN/export/FORMAT)")
    parser.add_argument("--numbers", metavar="TYPE", help="how numbers are stored, such as float16 or q8_0")
    parser.add_argument("--int8", dest="numbers", action="store_const", const="int8", help="short for --numbers int8")
    parser.add_argument(
        "--drift", type=float, metavar="FRACTION", help="the fraction of the answers that may change (0.01 is 1 %%)"
    )
    parser.add_argument("--images", type=int, metavar="N", help="prove it on N of the test images (default: all)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    record = export(args.run, args.to, args.out, args.numbers, args.drift, args.images, screen)
    lines = [
        record["verdict"],
        *(proof["sentence"] for proof in record["proofs"] if proof["sentence"] not in record["verdict"]),
        f"Size: {size(record['bytes'])}",
        terminal.path_line("Folder", record["folder"]),
        *([terminal.path_line("Report", record["report"])] if record["report"] else []),
        terminal.Verbatim(f"Use it: {record['usage']}"),
    ]
    return terminal.Output(record, lines)


def export(
    run: Path,
    to: str,
    out: Path | None = None,
    numbers: str | None = None,
    drift: float | None = None,
    images: int | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Write a taught model in another format, and compare its answers to the run's test images with the run's own.

    Args:
        out: the folder to create; None for RUN/export/FORMAT. One whose proof was stopped is proven from its start.
        numbers: how numbers are stored; None for the format's first.
        drift: the fraction of the answers that may change; None for the format's own.
        images: prove it on so many test images; None for all.

    Returns:
        `folder`, `bytes`, `proven`, `verdict`, `proofs`, `report` (None without test images), `usage`.

    Raises:
        UserError: the run isn't finished, the format can't hold it, a package is missing, the folder exists, the disk
            is too small, the converter failed, or more answers changed than is allowed; the folder is then marked.
    """
    from lensmith.export import find
    from lensmith.export.original import open_original
    from lensmith.models.blends import is_blend

    if drift is not None and not 0 <= drift <= 1:
        raise UserError(f"--drift is {drift}, which is no fraction.", "Give a number from 0 to 1, such as 0.01.")
    form = find(to, numbers)
    original = open_original(run)
    if is_blend(run) and not form.blends:
        raise UserError(
            f"The run {run} is a blend of several models, which the format {to} doesn't hold.",
            "Use --to onnx or --to web, or export one of the runs that it was made of.",
        )
    folder = out or run / "export" / (to if numbers is None else f"{to}-{numbers}")
    about = {"format": to, "numbers": form.chosen, "run": str(run.resolve()), "weights": original.digest}
    begun = (folder / UNPROVEN).exists() and (folder / ABOUT).exists() and read_json(folder / ABOUT) == about
    if folder.exists() and not begun:
        raise UserError(f"The folder {folder} exists already.", "Choose another with --out, or remove it.")
    form.require(original)
    split = _tested(original, images, tell)
    if not begun:
        _require_space(folder, form.size(original))
        with replacing(folder) as new:
            form.write(original, new, tell)
            write_json(new / ABOUT, about)
            write(new / UNPROVEN, "This export was not compared with its run yet, or the comparison was stopped.\n")
    record: dict[str, Any] = {"run": str(run), "folder": str(folder), "format": to, "numbers": form.chosen}
    record |= {"bytes": _bytes(folder), "usage": form.usage(folder), "proofs": [], "report": None}
    if split is None:
        verdict = "Not proven: the run has no test images to compare its answers on."
        write(folder / UNPROVEN, verdict + "\n")
        return record | {"proven": False, "verdict": verdict}
    return record | _proven(form, original, folder, split, drift, tell)


def _proven(
    form: Format, original: Original, folder: Path, split: Split, drift: float | None, tell: Tell
) -> dict[str, Any]:
    """Compare the answers, and write what was found."""
    from lensmith.export.proof import prove, reference

    known = reference(original, split, tell)
    allowed = form.numbers[form.chosen] if drift is None else drift
    with form.opened(original, folder) as ways:
        proofs = [prove(way, original, split, known, allowed, tell) for way in ways]
    proven, worst = all(proof.holds for proof in proofs), max(proofs, key=lambda proof: proof.changed_share)
    verdict = f"Proven: {worst.sentence}"
    if not proven:
        worst = next(proof for proof in proofs if not proof.holds)
        verdict = f"Not proven: {worst.sentence} At most {worst.most:,} may change ({100 * allowed:g} %)."
    with working("writing the report", tell):
        _write_page(folder, form, original, split, proofs, verdict)
    rows = [proof.to_dict(split.ids) for proof in proofs]
    write_json(folder / PROOF, {"proven": proven, "verdict": verdict, "compared_with": known.source, "proofs": rows})
    if not proven:
        write(folder / UNPROVEN, verdict + "\n")
        raise UserError(
            f"{verdict} The folder {folder} is marked as not proven.",
            f"Its {REPORT} shows the answers that changed. Allow more with --drift, or choose other numbers.",
        )
    (folder / UNPROVEN).unlink()
    return {"proven": True, "verdict": verdict, "proofs": rows, "report": str(folder / REPORT)}


def _tested(original: Original, most: int | None, tell: Tell) -> Split | None:
    """The images on which the run was tested; None if there are none."""
    if original.evaluation is None:
        return None
    _, dataset = asked_images(recipe_for(str(original.run), []), tell)
    same_data(original.run, dataset)
    split = dataset.split(read_as(original.run / "record.json", Record)["split"])
    tell(Note(f"The run: {percent(original.evaluation.accuracy)} of {len(split):,} test images correct."))
    return split.take(most) if len(split) else None


def _require_space(folder: Path, needed: int) -> None:
    parent = next(path for path in folder.absolute().parents if path.exists())
    if needed > (free := shutil.disk_usage(parent).free):
        raise UserError(
            f"The export needs about {size(needed)} on the disk of {folder}, and {size(free)} are free.",
            "Free some space, or choose another folder with --out.",
        )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write_page(
    folder: Path, form: Format, original: Original, split: Split, proofs: Sequence[Proof], verdict: str
) -> None:
    from lensmith.pages import proof as page

    pictures, ways = list[page.Changed](), list[page.WayRow]()
    for proof in proofs:
        ways.append(
            page.WayRow(
                proof.way, len(proof.changed), proof.most, proof.comparison,
                proof.divergence, proof.largest, proof.per_second,
            )
        )  # fmt: skip
        for i, before, now in proof.changed[: page.PICTURES]:
            with suppress(ImageError):
                pictures.append(page.Changed(split.image(i), split.labels[i], before, now, proof.way))
    made = provenance()
    machine = f"{made['machine']['processor']}, {made['machine']['cores']} cores"
    exported = [("Exported", f"{made['created']}, numbers in {form.chosen}, on {machine}")]
    title = f"{original.run.name} as {Path(folder).name}"
    data = page.ProofData(title, verdict, ways, pictures, form.usage(folder), exported + facts(original.run))
    page.write_proof(folder / REPORT, data)
