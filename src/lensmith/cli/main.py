"""Run one command, from its arguments to its exit code."""

from __future__ import annotations

import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from lensmith import verbs
from lensmith.cli.parser import parse
from lensmith.cli.screen import Screen, show
from lensmith.errors import Stopped, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for an error that the user can fix, or 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test has put there
            stream.reconfigure(errors="backslashreplace")  # a terminal or pipe that doesn't know a character
    try:
        args = parse(argv)
    except UserError as error:
        return failed(error)
    # Silence the libraries before they are imported. Lensmith reports what matters itself.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lensmith.config import OldName  # not before, since `--help` doesn't need it
    from lensmith.jobs.job import Detached

    screen = Screen(args.verbose)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # addressed to programmers, not to users
            warnings.simplefilter("always", OldName)
            warnings.showwarning = _as_notes(screen, warnings.showwarning)
            if getattr(args, "resume", None) is not None:
                output = verbs.module("resume").run_by_flag(args.verb, args, screen)
            else:
                output = verbs.module(args.verb).run(args, screen)
        screen.end_line()
        show(output, args.json)
        sys.stdout.flush()
    except UserError as error:
        screen.end_line()
        return failed(error)
    except KeyboardInterrupt as stop:
        screen.end_line()
        sentence = str(stop) if isinstance(stop, Detached) else "stopped."
        if isinstance(stop, Stopped):
            sentence += f" Resume with: lensmith resume {shlex.quote(str(stop.folder))}"
        print(f"lensmith: {sentence}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes what is left at its end
        return 141
    return 0


def failed(error: UserError) -> int:
    """Report an error that the user can fix, and return the exit code."""
    print(f"lensmith: {error}", file=sys.stderr)
    return 2


def _as_notes(screen: Screen, default: Any) -> Any:
    """A warnings hook that shows former option names as notes, and leaves other warnings to the default hook."""
    from lensmith.config import OldName

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, OldName):
            screen.note(f"Note: {message}")
        else:
            default(message, category, *where)

    return show
