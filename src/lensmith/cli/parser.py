"""The argument parser, to which each verb adds its own arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lensmith import __version__, verbs


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. The result holds the verb's arguments, and its name as `verb`.

    Exits as argparse does, with code 2 after an error.
    """
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest and hasattr(args, "recipe") and not any(word.startswith("-") for word in rest):
        args.recipe += rest  # options of the recipe after a flag
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    about = (sys.modules["lensmith"].__doc__ or "").partition("\n")[0]
    top = argparse.ArgumentParser(
        prog="lensmith",
        usage="lensmith [-h] [--version] VERB ...",
        description=about,
        epilog=_verb_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"lensmith {__version__}")
    # argparse can't group subparsers, so its own list is hidden, and the epilog lists the verbs instead.
    subparsers = top.add_subparsers(required=True, metavar="VERB", prog="lensmith", help=argparse.SUPPRESS)
    for name in verbs.VERBS:
        verb = verbs.module(name)
        sub = subparsers.add_parser(name, description=f"{verb.ABOUT[0].upper()}{verb.ABOUT[1:]}.")
        sub.set_defaults(verb=name)
        sub.add_argument("--json", action="store_true", help="print the record as one JSON object and nothing else")
        verb.arguments(sub)
    return top


def _verb_list() -> str:
    """The verbs with their one-line descriptions, grouped as in `verbs.GROUPS`."""
    width = max(map(len, verbs.VERBS)) + 2
    lines = []
    for group, names in verbs.GROUPS.items():
        lines.append(f"{group.capitalize()}:")
        lines += [f"  {name:<{width}}{verbs.module(name).ABOUT}" for name in names]
        lines.append("")
    return "\n".join([*lines, "lensmith VERB --help describes the arguments of a verb."])
