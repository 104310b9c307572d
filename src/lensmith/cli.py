"""The command line: parse -> verb -> render. The only module that prints.

Results go to standard output, everything else to standard error. With `--json`, standard output holds the verb's
record as one JSON object and nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import __version__
from lensmith.errors import Stopped, UserError
from lensmith.places import Detached
from lensmith.progress import size

if TYPE_CHECKING:
    from lensmith.progress import Advance, Note

RECIPE_HELP = "a YAML recipe, the name of a shipped one, or a run folder; then options as section.key=value"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for what the user can put right, 130 after Ctrl-C."""
    args, more = parser().parse_known_args(argv)
    if more and hasattr(args, "recipe") and not any(word.startswith("-") for word in more):
        args.recipe += more  # a recipe's words that stand after a flag
    elif more:
        parser().error(f"unrecognized arguments: {' '.join(more)}")
    # Quiet the libraries before they are imported; what matters is said in Lensmith's own words.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # of libraries to their callers, not to users
    show = Screen()
    try:
        record, text = args.verb(args, show)
    except UserError as error:
        show.end_line()
        print(f"lensmith: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        show.end_line()
        said = str(stop) if isinstance(stop, Detached) else "stopped."
        if isinstance(stop, Stopped):
            said += f" Go on with: lensmith {stop.verb} --resume {shlex.quote(str(stop.folder))}"
        print(f"lensmith: {said}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    show.end_line()
    if record:
        print(json.dumps(record, ensure_ascii=False) if args.json else text)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    top = argparse.ArgumentParser(
        prog="lensmith", description=(sys.modules["lensmith"].__doc__ or "").partition("\n")[0]
    )
    top.add_argument("--version", action="version", version=f"lensmith {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[Any, Screen], tuple[Any, str]], about: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(verb=run)
        sub.add_argument("--json", action="store_true", help="print the record as one JSON object and nothing else")
        return sub

    demo = verb("demo", run_demo, "see all of it in a few minutes: baseline, training, comparison, report")
    demo.add_argument("--data", default="fashion", help="fashion (photographs, the default) or digits")
    demo.add_argument("--run", type=Path, help="folder to write to (default: runs/NAME-demo-TIME)")

    train = verb("train", run_train, "teach the model your classes, and score it on held-out images")
    train.add_argument("recipe", nargs="*", metavar="RECIPE", help=RECIPE_HELP)
    train.add_argument("--run", type=Path, help="folder to write to (default: runs/NAME-train-TIME)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with a training that was stopped")

    evaluate = verb("evaluate", run_evaluate, "score a model, as it is or tuned, on labelled images")
    evaluate.add_argument("recipe", nargs="*", metavar="RECIPE", help=RECIPE_HELP)
    evaluate.add_argument("--run", type=Path, help="folder to write to (default: runs/NAME-evaluate-TIME)")
    evaluate.add_argument("--split", choices=("test", "validation", "train"), default="test")

    evaluate.add_argument("--resume", type=Path, metavar="RUN", help="go on with an evaluation that was stopped")

    probe = verb("probe", run_probe, "fit simple classifiers on what the frozen model sees, in seconds")
    probe.add_argument("recipe", nargs="*", metavar="RECIPE", help=RECIPE_HELP)
    probe.add_argument("--run", type=Path, help="folder to write to (default: runs/NAME-probe-TIME)")
    probe.add_argument("--resume", type=Path, metavar="RUN", help="go on with a probe that was stopped")

    for name, run, about in (
        ("ladder", run_ladder, "compare methods, from the model as it is to LoRA: which is worth its time"),
        ("curve", run_curve, "tell what more labels would bring"),
        ("sweep", run_sweep, "search settings; several workers may share a search"),
    ):
        sub = verb(name, run, about)
        sub.add_argument("recipe", nargs="*", metavar="RECIPE", help=RECIPE_HELP)
        sub.add_argument("--run", type=Path, help=f"folder to write to (default: runs/NAME-{name}-TIME)")
        sub.add_argument("--resume", type=Path, metavar="RUN", help="go on with one that was stopped")

    suspects = verb("suspects", run_suspects, "find the labels that are likely wrong")
    suspects.add_argument("recipe", nargs="*", metavar="RECIPE", help=RECIPE_HELP)
    suspects.add_argument("--run", type=Path, help="folder to write to (default: runs/NAME-suspects-TIME)")

    for sub in (train, evaluate):
        sub.add_argument("--on", default="local", metavar="PLACE", help="where to run: local (the default) or modal")
        sub.add_argument("--detach", action="store_true", help="leave the job running there; see `lensmith attach`")

    attach = verb("attach", run_attach, "follow a job that runs at another place, and bring its run home")
    attach.add_argument("run", type=Path, metavar="RUN", help="the run folder it was started with")
    attach.add_argument("--cancel", action="store_true", help="end the job instead, and bring home what was done")

    compare = verb("compare", run_compare, "tell which run is better on the same images, or that it can't be told")
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, each compared with the first")
    compare.add_argument("--run", type=Path, help="folder to write to (default: runs/NAME-compare-TIME)")

    predict = verb("predict", run_predict, "classify images")
    predict.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    predict.add_argument("--run", type=Path, help="a run folder of `lensmith train`")
    predict.add_argument("--labels", default="", help="classes for a zero-shot answer: a,b,c")

    fetch = verb("fetch", run_fetch, "bring weights and data to a folder, for machines without network")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="owner/name, hub:owner/name, cifar10, cifar100, RECIPE")
    fetch.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="folder to bring it to")
    fetch.add_argument("--yes", action="store_true", help="don't ask after showing what comes")

    verb("recipe", run_recipe, "show every option of a recipe, its default and its meaning")
    return top


def run_demo(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith.quickstart import demo

    record = demo(args.data, args.run, show)
    lines = [f"{'':<12}{'accuracy':>9}   {'95 % interval':<16}{'images':>7}{'seconds':>9}"]
    for row in record["rows"]:
        rate = record[row["name"].replace("-", "_")]
        lines.append(f"{row['name']:<12}{_rate(rate)}{row['seconds']:>9.1f}")
    lines += ["", record["verdict"], f"{record['seconds']:.0f} s in all. Report: {record['report']}"]
    return record, "\n".join(lines)


def run_train(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import verbs
    from lensmith.places import Job, place
    from lensmith.runs.folder import read_run

    if args.resume:
        if args.run:
            raise UserError("A resumed training keeps its folder.", "Give --resume RUN without --run.")
        words = _recipe_words(args.recipe)
        recipe = verbs.recipe_for(*words, read_run(args.resume)) if args.recipe else None
        job = Job("train", recipe, args.resume, resume=True)
    else:
        job = Job("train", verbs.recipe_for(*_recipe_words(args.recipe)), args.run)
    return _rendered(place(args.on).run(job, show, args.detach))


def run_evaluate(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import verbs
    from lensmith.places import Job, place

    if args.resume:
        job = Job("evaluate", None, _alone(args), resume=True)
    else:
        job = Job("evaluate", verbs.recipe_for(*_recipe_words(args.recipe)), args.run, split=args.split)
    return _rendered(place(args.on).run(job, show, args.detach))


def run_probe(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import probing

    record = _begun(args, show, probing.probe, probing.resume_probe)
    both = {"neighbours": record["neighbours"]["accuracy"], "probe": record["accuracy"]}
    lines = [f"{name:<12}{_rate(found)}" for name, found in both.items()]
    lines += _unreadable(record["evaluation"]["unreadable"], "counted as wrong")
    return record, "\n".join([*lines, f"Run: {record['run']}", f"Report: {record['report']}"])


def run_ladder(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import ladders

    record = _begun(args, show, ladders.ladder, ladders.resume_ladder)
    costs = any(rung["dollars"] is not None for rung in record["rungs"])
    head = f"{'':<12}{'validation':>10}{'test':>9}   {'95 % interval':<16}{'images':>7}{'seconds':>9}"
    lines = [head + f"{'dollars':>10}" * costs]
    for rung in record["rungs"]:
        line = f"{rung['name']:<12}{rung['validation']['accuracy'] * 100:>8.1f} %{_rate(rung['test'])}"
        lines.append(f"{line}{rung['seconds']:>9.1f}" + (f"{rung['dollars']:>10.2f}" if costs else ""))
    lines += ["", record["verdict"], *record["sentences"], f"Report: {record['report']}"]
    return record, "\n".join(lines)


def run_curve(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import learning_curves

    record = _begun(args, show, learning_curves.curve, learning_curves.resume_curve)
    lines = []
    for name, found in record["curves"].items():
        lines += [f"{name:<12}{p['size']:>8,} images{p['mean'] * 100:>8.1f} %" for p in found["points"]]
        lines += ["", found["sentence"], *([found["check"]["sentence"]] if found["check"] else []), ""]
    return record, "\n".join([*lines, f"Report: {record['report']}"])


def run_sweep(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import sweeps

    record = _begun(args, show, sweeps.sweep, sweeps.resume_sweep)
    lines = [record["verdict"], *record["sentences"], f"Train with: lensmith train {shlex.quote(record['recipe'])}"]
    return record, "\n".join([*lines, f"Report: {record['report']}"])


def run_suspects(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import suspicion, verbs

    record = suspicion.suspects(verbs.recipe_for(*_recipe_words(args.recipe)), args.run, show)
    lines = [record["verdict"], *record["notes"]]
    return record, "\n".join([*lines, f"Table: {record['table']}", f"Report: {record['report']}"])


def run_attach(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith.places import place_of

    there = place_of(args.run)
    return _rendered(there.cancel(args.run, show) if args.cancel else there.attach(args.run, show))


def run_compare(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith.comparing import compare

    record = compare(args.runs, args.run)
    width = max(map(len, record["accuracies"])) + 2
    lines = [f"{name:<{width}}{_rate(rate)}" for name, rate in record["accuracies"].items()]
    lines += ["", *(c["sentence"] for c in record["comparisons"])]
    return record, "\n".join([*lines, f"Report: {record['report']}"])


def run_predict(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith import verbs

    labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    found = verbs.predict(args.images, args.run, labels, show)
    lines = [
        f"{p.id}\t{p.predicted}\t{p.probability:.3f}" if p.probability is not None else f"{p.id}\tERROR\t{p.error}"
        for p in found
    ]
    return {"predictions": [asdict(p) for p in found]}, "\n".join(lines)


def run_fetch(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith.fetching import fetch

    # Without a terminal a script has decided already.
    record = fetch(args.names, args.to, show, None if args.yes or not sys.stdin.isatty() else show.agree)
    return record, "\n".join(item["option"] for item in record["fetched"])


def run_recipe(args: argparse.Namespace, show: Screen) -> tuple[Any, str]:
    from lensmith.config import Recipe, help_text

    return Recipe().to_dict(), help_text()


def _recipe_words(words: list[str]) -> tuple[str | None, list[str]]:
    """A first word that isn't an option is the recipe."""
    if words and ("=" not in words[0] or Path(words[0]).exists()):
        return words[0], words[1:]
    return None, words


def _begun(
    args: argparse.Namespace,
    show: Screen,
    start: Callable[..., dict[str, Any]],
    go_on: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """A verb's record: of a run that a recipe starts, or of one that is gone on with."""
    from lensmith.verbs import recipe_for

    if args.resume:
        return go_on(_alone(args), show)
    return start(recipe_for(*_recipe_words(args.recipe)), args.run, show)


def _alone(args: argparse.Namespace) -> Path:
    """The run to go on with, given without a recipe or another folder."""
    if args.recipe or args.run:
        raise UserError("What is resumed keeps its recipe and folder.", "Give --resume RUN alone.")
    run: Path = args.resume
    return run


def _rendered(record: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The record of a training or an evaluation, and as text; or what became of one that isn't done."""
    if not record:  # another of the processes speaks
        return record, ""
    if "accuracy" not in record:
        return record, str(record.get("detached") or record.get("cancelled"))
    if "training" in record:
        lines = [f"{'tuned':<12}{_rate(record['accuracy'])}"]
        lines += _unreadable(
            record["training"]["unreadable"], "left out of training, or counted as wrong in validation"
        )
        lines += _unreadable(record["evaluation"]["unreadable"], "counted as wrong")
    else:
        lines = [f"{record['name']:<12}{_rate(record['accuracy'])}"]
        lines += _unreadable(record["unreadable"], "counted as wrong")
    return record, "\n".join([*lines, f"Run: {record['run']}", f"Report: {record['report']}"])


def _rate(rate: dict[str, Any]) -> str:
    interval = f"{rate['low'] * 100:.1f} to {rate['high'] * 100:.1f}"
    return f"{rate['accuracy'] * 100:>7.1f} %   {interval:<16}{rate['n']:>7,}"


def _unreadable(sentences: Sequence[str], so: str) -> list[str]:
    """What could not be read, the first few in full; all of it stands in the report."""
    if not sentences:
        return []
    more = [f"  and {len(sentences) - 5} more, in the report"] if len(sentences) > 5 else []
    count = (
        "1 image could not be read, and was"
        if len(sentences) == 1
        else f"{len(sentences)} images could not be read, and were"
    )
    return [f"{count} {so}:", *(f"  {s}" for s in sentences[:5]), *more]


class Screen:
    """Progress on standard error: one line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self._open = False
        self._last = -math.inf

    def __call__(self, event: Note | Advance) -> None:
        text = getattr(event, "text", None)
        if text is not None:
            self.end_line()
            print(text, file=sys.stderr, flush=True)
            return
        self.advance(event)  # type: ignore[arg-type]

    def advance(self, event: Advance) -> None:
        """Show how far a task is."""
        now, finished = time.monotonic(), event.done >= event.total
        if now - self._last < (0.1 if self.terminal else 10) and not finished:
            return
        self._last = now
        left = f"{event.seconds_left:.0f} s left" if not finished else "done"
        if event.unit == "bytes":
            done, total, rate = size(event.done), size(event.total), f"{size(event.rate)}/s"
        else:
            number = f"{event.rate:.0f}" if event.rate >= 10 else f"{event.rate:.2g}"  # a slow one is not 0
            done, total, rate = f"{event.done:,}", f"{event.total:,}", f"{number} {event.unit}/s"
        line = f"{event.task}: {done} of {total}, {rate}, {left}"
        line += f", {event.detail}" if event.detail else ""
        if self.terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            print(line, file=sys.stderr, flush=True)

    def agree(self) -> None:
        """Ask whether to go on; no is KeyboardInterrupt."""
        self.end_line()
        print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise KeyboardInterrupt

    def end_line(self) -> None:
        """Leave a line that was being rewritten."""
        if self._open:
            print(file=sys.stderr)
            self._open = False


if __name__ == "__main__":
    sys.exit(main())
