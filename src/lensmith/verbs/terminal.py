"""Shared by the verbs' command lines: arguments, lines of text, and the output that a verb returns for printing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lensmith.config import Recipe
from lensmith.progress import Advance, Note
from lensmith.runs.folder import read_run, recipe_for

RECIPE_HELP = "a YAML file, the name of a shipped recipe, or a run folder; then options as section.key=value"


@dataclass(frozen=True)
class Output:
    """What a command prints: its record with --json, otherwise its text."""

    record: Any
    text: str


class Screen(Protocol):
    """Shows progress, and asks for confirmation."""

    def __call__(self, event: Note | Advance) -> None: ...

    def agree(self) -> None:
        """Ask whether to continue; any answer but yes raises KeyboardInterrupt."""
        ...


def add_recipe(parser: argparse.ArgumentParser, verb: str, resumable: bool = True) -> None:
    """Add the arguments RECIPE and --run, and the hidden --resume, which `lensmith resume` has replaced."""
    parser.add_argument("recipe", nargs="*", metavar="RECIPE", help=RECIPE_HELP)
    parser.add_argument("--run", type=Path, help=f"run folder to create (default: runs/NAME-{verb}-TIME)")
    if resumable:
        parser.add_argument("--resume", type=Path, metavar="RUN", help=argparse.SUPPRESS)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the arguments --on and --detach."""
    parser.add_argument("--on", default="local", metavar="PLACE", help="where to run: local (the default) or modal")
    parser.add_argument(
        "--detach", action="store_true", help="return while the job runs remotely; see `lensmith attach`"
    )


def recipe_from(words: Sequence[str], resumed: Path | None = None) -> Recipe:
    """The recipe that the RECIPE arguments describe: an optional source, then options.

    Args:
        resumed: a run folder whose recipe the options change.
    """
    source = words[0] if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    return recipe_for(source, words[1:] if source else words, read_run(resumed) if resumed else None)


def rate_line(rate: dict[str, Any]) -> str:
    """An accuracy, its interval and the number of images, in columns."""
    interval = f"{rate['low'] * 100:.1f} to {rate['high'] * 100:.1f}"
    return f"{rate['accuracy'] * 100:>7.1f} %   {interval:<16}{rate['n']:>7,}"


def unreadable_lines(sentences: Sequence[str], consequence: str) -> list[str]:
    """Lines about unreadable images, naming the first few; the report lists all of them."""
    if not sentences:
        return []
    more = [f"  and {len(sentences) - 5} more, in the report"] if len(sentences) > 5 else []
    many = len(sentences) > 1
    subject = f"{len(sentences)} images could not be read, and were" if many else "1 image could not be read, and was"
    return [f"{subject} {consequence}:", *(f"  {s}" for s in sentences[:5]), *more]


def run_lines(record: dict[str, Any]) -> list[str]:
    """Lines with the paths of a run and its report."""
    return [f"Run: {record['run']}", f"Report: {record['report']}"]


def elsewhere(record: dict[str, Any]) -> str:
    """The sentence about a remote job that isn't finished; empty if another process reports."""
    return str(record.get("detached") or record.get("cancelled") or "")


@dataclass(frozen=True)
class RecipeCommand:
    """The command line of a verb that takes a recipe and returns a record."""

    verb: str
    function: Callable[..., dict[str, Any]]
    text: Callable[[dict[str, Any]], str]
    """The printed form of a record."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's command-line arguments."""
        add_recipe(parser, self.verb)

    def run(self, args: argparse.Namespace, screen: Screen) -> Output:
        """Run the command."""
        record = self.function(recipe_from(args.recipe), args.run, screen)
        return Output(record, self.text(record))
