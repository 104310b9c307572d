"""Run one command, from its arguments to its exit code."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

from lensmith import verbs
from lensmith.cli.parser import parse
from lensmith.cli.screen import Screen, show
from lensmith.errors import Stopped, UserError, limit_of_system
from lensmith.verbs.terminal import Output


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for an error that the user can fix, or 130 after Ctrl-C."""
    _open_closed_streams()
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
        if sys.flags.optimize > 1:
            raise UserError("Python runs with -OO, without the docstrings that transformers needs.", "Leave out -OO.")
        with warnings.catch_warnings(), heeding_interrupts():
            warnings.simplefilter("ignore", FutureWarning)  # addressed to programmers, not to users
            warnings.simplefilter("always", OldName)
            warnings.showwarning = _as_notes(screen, warnings.showwarning)
            if getattr(args, "resume", None) is not None:
                output = verbs.module("resume").run_by_flag(args.verb, args, screen)
            else:
                output = verbs.module(args.verb).run(args, screen)
        screen.end_line()
        _print(output, args.json)
        return int(output.code)
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
        _discard_output()
        return 141
    except OSError as error:
        if limit := limit_of_system(error):
            screen.end_line()
            return failed(limit)
        raise


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Heed a Ctrl-C that arrives in a destructor, where Python ignores it with a traceback, a moment later."""
    default = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            default(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = default


def _open_closed_streams() -> None:
    """Open standard streams that the caller has closed, so that no other file takes their place.

    A closed standard output fails as soon as something is written to it; a closed standard error is silent.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            path = "/dev/full" if name == "stdout" and os.path.exists("/dev/full") else os.devnull
            handle = os.open(path, os.O_RDWR if number else os.O_RDONLY)
            if handle != number:
                os.dup2(handle, number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 (as long as Python)


def _print(output: Output, as_json: bool) -> None:
    """Print a verb's output. Raises `UserError` if it can't be written."""
    try:
        show(output, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        run = output.record.get("run") if isinstance(output.record, dict) else None
        raise UserError(
            f"The result can't be written to standard output: {error.strerror}.",
            f"It is in the run folder {run}." if run else "Free some space, or write it elsewhere.",
        ) from None


def _discard_output() -> None:
    """Let Python write what is left in standard output's buffer, as it does at its end, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
