"""One command, from its words to its exit code."""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from lensmith import verbs
from lensmith.cli.parser import parse
from lensmith.cli.screen import Screen
from lensmith.config import OldName
from lensmith.errors import Stopped, UserError
from lensmith.jobs.job import Detached
from lensmith.verbs.teach.resume import run_by_flag


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for what the user can put right, 130 after Ctrl-C."""
    args = parse(argv)
    # Quiet the libraries before they are imported; what matters is said in Lensmith's own words.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    screen = Screen()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of libraries to their callers, not to users
            warnings.simplefilter("always", OldName)
            warnings.showwarning = _noting(screen, warnings.showwarning)
            resumed = getattr(args, "resume", None) is not None
            output = run_by_flag(args.verb, args, screen) if resumed else verbs.module(args.verb).run(args, screen)
    except UserError as error:
        screen.end_line()
        print(f"lensmith: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        screen.end_line()
        sentence = str(stop) if isinstance(stop, Detached) else "stopped."
        if isinstance(stop, Stopped):
            sentence += f" Resume with: lensmith resume {shlex.quote(str(stop.folder))}"
        print(f"lensmith: {sentence}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    screen.end_line()
    if output.record:
        print(json.dumps(output.record, ensure_ascii=False) if args.json else output.text)
    return 0


def _noting(screen: Screen, usual: Any) -> Any:
    """Shows an option's old name as a note, and other warnings as usual."""

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, OldName):
            screen.note(f"Note: {message}")
        else:
            usual(message, category, *where)

    return show
