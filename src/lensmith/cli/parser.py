"""The command's grammar: each verb adds its own arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lensmith import __version__, verbs


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The words of a command, as its verb's arguments; `verb` is its name. Ends the process as argparse does."""
    top = parser()
    args, more = top.parse_known_args(argv)
    if more and hasattr(args, "recipe") and not any(word.startswith("-") for word in more):
        args.recipe += more  # a recipe's words that stand after a flag
    elif more:
        top.error(f"unrecognized arguments: {' '.join(more)}")
    return args


def parser() -> argparse.ArgumentParser:
    """The grammar of all verbs."""
    about = (sys.modules["lensmith"].__doc__ or "").partition("\n")[0]
    top = argparse.ArgumentParser(prog="lensmith", description=about)
    top.add_argument("--version", action="version", version=f"lensmith {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="VERB")
    for name in verbs.VERBS:
        verb = verbs.module(name)
        sub = subparsers.add_parser(name, help=verb.ABOUT, description=verb.ABOUT)
        sub.set_defaults(verb=name)
        sub.add_argument("--json", action="store_true", help="print the record as one JSON object and nothing else")
        verb.arguments(sub)
    return top
