"""Shared by the verbs' command lines: arguments, lines of text, and the output that a verb returns for printing."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lensmith.errors import UserError
from lensmith.progress import Advance, Note, Tell

SOURCES_HELP = (
    "images (a folder, a table, SCHEME:LOCATION), a recipe (a YAML file or a shipped name), a run folder, or both"
)
OPTIONS_HELP = "an option of the recipe, as section.key=value; see `lensmith recipe`"


@dataclass(frozen=True)
class Table:
    """Rows of cells, as text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    """The columns that are aligned to the left."""

    def lines(self) -> list[str]:
        """The table as aligned plain text, with two spaces between columns."""
        cells = [list(self.head), *map(list, self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]
        return [
            "  ".join(
                cell.ljust(width) if i in self.left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]


class Verbatim(str):
    """Text to be copied, such as a command or a path, which is never folded."""


Part = str | Table
"""A part of a verb's text: a line, or a table."""


@dataclass(frozen=True)
class Output:
    """What a command prints: its record with --json, otherwise its parts."""

    record: Any
    parts: Sequence[Part]
    code: int = 0
    """The exit code: 0, or 1 if the work is done in part."""


@runtime_checkable
class Screen(Protocol):
    """Shows progress, and asks for confirmation."""

    def __call__(self, event: Note | Advance) -> None: ...

    def agree(self) -> None:
        """Ask whether to continue; any answer but yes raises KeyboardInterrupt."""
        ...


def ask(tell: Tell, unasked: str) -> None:
    """Ask whether to go on.

    Args:
        unasked: what is said if nobody can be asked.

    Raises:
        UserError: nobody can be asked.
        KeyboardInterrupt: the user doesn't agree.
    """
    if not isinstance(tell, Screen) or not sys.stdin.isatty():
        raise UserError(unasked, "Agree with --yes (in Python: yes=True).")
    tell.agree()


def add_recipe(parser: argparse.ArgumentParser, verb: str, resumable: bool = True) -> None:
    """Add the arguments SOURCE and OPTION, --run, and the hidden --resume, which `lensmith resume` has replaced."""
    parser.add_argument("recipe", nargs="*", metavar="SOURCE|OPTION", help=f"{SOURCES_HELP}; {OPTIONS_HELP}")
    parser.add_argument("--run", type=Path, help=f"run folder to create (default: runs/NAME-{verb}-TIME)")
    if resumable:
        parser.add_argument("--resume", type=Path, metavar="RUN", help=argparse.SUPPRESS)


def add_place(parser: argparse._ActionsContainer) -> None:
    """Add the arguments --on and --detach."""
    parser.add_argument(
        "--on", default="local", metavar="PLACE", help="where to run: local (the default), modal or ray"
    )
    parser.add_argument(
        "--detach", action="store_true", help="return while the job runs remotely; see `lensmith attach`"
    )


def rate_cells(rate: dict[str, Any]) -> list[str]:
    """An accuracy, its interval and the number of images: the cells under `RATE_HEAD`."""
    return [points(rate), f"{rate['low'] * 100:.1f} to {rate['high'] * 100:.1f}", f"{rate['n']:,}"]


RATE_HEAD = ["accuracy", "95 % interval", "images"]


def points(rate: dict[str, Any]) -> str:
    """An accuracy in percent."""
    return f"{rate['accuracy'] * 100:.1f} %"


def rate_table(rates: dict[str, dict[str, Any]]) -> Table:
    """A table of accuracies by name."""
    return Table(["", *RATE_HEAD], [[name, *rate_cells(rate)] for name, rate in rates.items()])


def next_line(*words: str | Path) -> str:
    """The last line of a verb's text: a command to continue with, quoted for a shell."""
    return Verbatim(f"Next: {shlex.join(['lensmith', *map(_from_here, map(str, words))])}")


def _from_here(word: str) -> str:
    """A path below the current folder as it is typed there; another word as it is."""
    here = os.getcwd() + os.sep
    return word.removeprefix(here) if word.startswith(here) else word


def path_line(name: str, path: str) -> str:
    """A line with the path of a run, a report or a table."""
    return Verbatim(f"{name}: {path}")


def unreadable_lines(sentences: Sequence[str], consequence: str, what: str = "could not be read") -> list[str]:
    """Lines about images that failed, such as unreadable ones, naming the first few; the report lists all of them."""
    if not sentences:
        return []
    more = [f"  and {len(sentences) - 5} more, in the report"] if len(sentences) > 5 else []
    many = len(sentences) > 1
    subject = f"{len(sentences)} images {what}, and were" if many else f"1 image {what}, and was"
    return [f"{subject} {consequence}:", *(f"  {s}" for s in sentences[:5]), *more]


def untested_lines(record: dict[str, Any]) -> list[Part]:
    """What a verb says at its end if there were no test images."""
    then = next_line("evaluate", record["run"], "other-labelled-images")
    return ["The model is taught, but not tested: there are no test images.", path_line("Run", record["run"]), then]


def run_lines(record: dict[str, Any]) -> list[str]:
    """Lines with the paths of a run and its report."""
    return [path_line("Run", record["run"]), path_line("Report", record["report"])]


def output(record: dict[str, Any], text: Callable[[dict[str, Any]], list[Part]]) -> Output:
    """The output of a verb that may have run elsewhere. Work that is done in part has the exit code 1."""
    return Output(record, elsewhere(record) or text(record), 0 if record.get("complete", True) else 1)


def elsewhere(record: dict[str, Any]) -> list[Part]:
    """The sentence about a remote job that isn't finished; nothing if another process reports."""
    sentence = record.get("detached") or record.get("cancelled")
    return [str(sentence)] if sentence else []


@dataclass(frozen=True)
class RecipeCommand:
    """The command line of a verb that takes a recipe and returns a record."""

    verb: str
    function: Callable[..., dict[str, Any]]
    text: Callable[[dict[str, Any]], list[Part]]
    """The printed form of a record."""
    anywhere: bool = False
    """Whether it can also run on other machines (`--on`)."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's command-line arguments."""
        add_recipe(parser, self.verb)
        if self.anywhere:
            add_place(parser)

    def run(self, args: argparse.Namespace, screen: Screen) -> Output:
        """Run the command."""
        from lensmith.verbs.words import recipe_from

        recipe = recipe_from(args.recipe)
        if not self.anywhere:
            record = self.function(recipe, args.run, screen)
        else:
            from lensmith.jobs.job import Job
            from lensmith.places import place

            record = place(args.on).run(Job(self.verb, recipe, args.run), screen, args.detach)
        return output(record, self.text)
