"""The argument parser, to which each verb adds its own arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lensmith import __version__, verbs
from lensmith.errors import UserError, nearest, optional

SHELLS = ("bash", "zsh", "fish")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. The result holds the verb's arguments, and its name as `verb`.

    Exits as argparse does, with code 2 after an error.

    Raises:
        UserError: there is no such verb, or an unknown option; the message has Lensmith's word for an option of another
            tool.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        complete(parser(list(verbs.VERBS)))
    top = parser([word for word in words[:1] if word in verbs.VERBS])
    if not words:
        top.print_help()
        top.exit(2)
    if not words[0].startswith("-") and words[0] not in verbs.VERBS:
        hint = nearest(words[0], verbs.VERBS) or "See lensmith --help."
        raise UserError(f"There is no command {words[0]!r}.", hint)
    args, rest = top.parse_known_args(words)
    flag = next((word for word in rest if word.startswith("-")), None)
    if flag is not None:
        raise unknown_option(args, flag, words[words.index(flag) + 1 :])
    if rest and hasattr(args, "recipe"):
        args.recipe += rest  # options of the recipe after a flag
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def unknown_option(args: argparse.Namespace, flag: str, following: Sequence[str]) -> UserError:
    """The error for an option that doesn't exist."""
    from lensmith.config import in_our_words, known_keys

    name, _, value = flag.partition("=")
    value = value or next((word for word in following[:1] if not word.startswith("-")), "")
    hint = in_our_words(name, value, known_keys()).replace("VERB", args.verb) if hasattr(args, "recipe") else ""
    hint = hint or nearest(name, [f"--{key.replace('_', '-')}" for key in vars(args) if key != "resume"])
    return UserError(f"`lensmith {args.verb}` has no option {name}.", hint or f"See lensmith {args.verb} --help.")


def parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of some verbs, whose modules are imported."""
    about = (sys.modules["lensmith"].__doc__ or "").partition("\n")[0]
    top = argparse.ArgumentParser(
        prog="lensmith",
        usage="lensmith [-h] [--version] VERB ...",
        description=about,
        epilog=_verb_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"lensmith {__version__}")
    top.add_argument(
        "--completion", choices=SHELLS, action=_Completion, help="print the code that completes commands in a shell"
    )
    # argparse can't group subparsers, so its own list is hidden, and the epilog lists the verbs instead.
    subparsers = top.add_subparsers(required=True, metavar="VERB", prog="lensmith", help=argparse.SUPPRESS)
    for name in names:
        verb, about = verbs.module(name), verbs.GROUPS[verbs.VERBS[name]][name]
        sub = subparsers.add_parser(
            name,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog="\n".join(["examples:", *(f"  {example}" for example in verb.EXAMPLES)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(verb=name)
        sub.add_argument("--json", action="store_true", help="print the record as one JSON object and nothing else")
        sub.add_argument("--verbose", action="store_true", help="say more about the model and the run")
        verb.arguments(sub)
    return top


def _verb_list() -> str:
    """The verbs with their one-line descriptions, grouped as in `verbs.GROUPS`."""
    width = max(map(len, verbs.VERBS)) + 2
    lines = []
    for group, listed in verbs.GROUPS.items():
        lines.append(f"{group.capitalize()}:")
        lines += [f"  {name:<{width}}{about}" for name, about in listed.items()]
        lines.append("")
    return "\n".join([*lines, "lensmith VERB --help describes the arguments of a verb."])


class _Completion(argparse.Action):
    """Prints the code that completes commands in a shell, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        shell = str(given[1])
        argcomplete = optional("argcomplete", "completion", "Completion")
        print(argcomplete.shellcode(["lensmith"], shell=shell))
        parser.exit()


def complete(top: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how a command goes on: with options, paths, recipes, and the options of recipes."""
    argcomplete = optional("argcomplete", "completion", "Completion")
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _complete_sources(sub, argcomplete.FilesCompleter())
    argcomplete.autocomplete(top, always_complete_options=False)


def _complete_sources(sub: argparse.ArgumentParser, files: Callable[..., Iterable[str]]) -> None:
    """Complete the arguments that name images, a recipe or options of a recipe."""
    from lensmith.config import known_keys, sections, shipped

    def sources(prefix: str, **about: Any) -> list[str]:
        keys = [f"{key}=" for key in known_keys() if "." in prefix or "." not in key]
        groups = [] if "." in prefix else [f"{section}." for section in sections()]
        return [*files(prefix, **about), *shipped(), *keys, *groups]

    for action in sub._actions:
        if action.dest == "recipe":
            action.completer = sources  # type: ignore[attr-defined]
        elif action.dest == "section":
            action.completer = lambda **_: list(sections())  # type: ignore[attr-defined]
