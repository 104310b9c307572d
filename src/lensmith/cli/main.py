"""Run one command, from its arguments to its exit code."""

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
    """Run one command and return its exit code: 0, 2 for an error that the user can fix, or 130 after Ctrl-C."""
    args = parse(argv)
    # Silence the libraries before they are imported. Lensmith reports what matters itself.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    screen = Screen()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # addressed to programmers, not to users
            warnings.simplefilter("always", OldName)
            warnings.showwarning = _as_notes(screen, warnings.showwarning)
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


def _as_notes(screen: Screen, default: Any) -> Any:
    """A warnings hook that shows former option names as notes, and leaves other warnings to the default hook."""

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, OldName):
            screen.note(f"Note: {message}")
        else:
            default(message, category, *where)

    return show
