"""What a person sees on the terminal: progress on standard error, results on standard output.

On a terminal, progress is one line with a bar, drawn by rich, and it is gone when its task ends. Where there is no
terminal (a file, a pipe, `TERM=dumb`), it is a plain line every ten seconds, and the output has no control characters.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from lensmith.progress import Advance, Note, duration, size
from lensmith.records import strict
from lensmith.verbs.terminal import Output, Part, Table, Verbatim

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

NARROW, WIDE = 64, 100
"""Widths in columns below which a progress line shows only the essential, and from which it shows everything."""


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that understands control characters."""
    knows = os.name == "nt" or os.environ.get("TERM", "") not in ("dumb", "unknown", "")
    return knows and stream.isatty()


def console(stream: TextIO) -> Console:
    """A rich console that shows text as it is: without markup, highlighting, or changes to line ends."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)


class Screen:
    """Shows progress and notes on standard error; `agree` asks for confirmation.

    Args:
        verbose: also show notes that are details.
    """

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.terminal = is_terminal(sys.stderr)
        self._bar: Progress | None = None
        self._task = ""
        self._last = -math.inf

    def __call__(self, event: Note | Advance) -> None:
        if isinstance(event, Advance):
            self.advance(event)
        elif self.verbose or not event.detail:
            self.note(event.text)

    def note(self, text: str) -> None:
        """Print a sentence."""
        self.end_line()
        print(folded(text, sys.stderr), file=sys.stderr, flush=True)

    def advance(self, event: Advance) -> None:
        """Show the progress of a task, if the last update is long enough ago."""
        now = time.monotonic()
        if event.task == self._task and now - self._last < (0.1 if self.terminal else 10) and not event.finished:
            return
        if self.terminal:
            self._draw(event)
        elif event.rate or event.task != self._task:  # a task without units is named once, when it begins
            print(self.line(event), file=sys.stderr, flush=True)
        self._task, self._last = event.task, now

    def line(self, event: Advance) -> str:
        """A line of plain text."""
        return ", ".join(filter(None, (f"{event.task}{': ' * bool(amount(event))}{amount(event)}", *pace(event))))

    def _draw(self, event: Advance) -> None:
        """Replace the line with the bar; remove it when the task ends."""
        if event.finished:
            self.end_line()
            return
        rate, left, detail = pace(event)
        fields: dict[str, Any] = {"amount": amount(event), "rate": rate, "left": left, "detail": detail}
        if self._bar is None or event.task != self._task:
            self.end_line()
            self._bar = new_bar()
            self._bar.add_task(event.task, total=event.total or None, **fields)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=event.done, refresh=True, **fields)

    def agree(self) -> None:
        """Ask whether to continue; any answer but yes raises KeyboardInterrupt."""
        self.end_line()
        print("Continue? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise KeyboardInterrupt

    def end_line(self) -> None:
        """Remove the progress line, if there is one."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def amount(event: Advance) -> str:
    """`"1,200 of 2,000"`; empty for a task without units."""
    shown = [size(n) if event.unit == "bytes" else f"{n:,}" for n in (event.done, event.total) if n or event.total]
    return " of ".join(shown) if event.rate else ""


def pace(event: Advance) -> tuple[str, str, str]:
    """The rate, the time left and the detail of a task, each of which may be empty."""
    number = f"{event.rate:.0f}" if event.rate >= 10 else f"{event.rate:.2g}"  # a slow rate isn't shown as 0
    rate = f"{size(event.rate)}/s" if event.unit == "bytes" else f"{number} {event.unit}/s"
    left = "" if math.isnan(event.seconds_left) else f"{duration(event.seconds_left)} left"
    return (rate, "done" if event.finished else left, event.detail) if event.rate else ("", "", event.detail)


def new_bar() -> Progress:
    """A progress line that fits the terminal's width.

    It is drawn when it is told to, without a thread of its own, which would take time from the work.
    """
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    screen = console(sys.stderr)

    def column(text: str) -> TextColumn:
        return TextColumn(text, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))

    columns = [column("{task.description}"), BarColumn(bar_width=max(8, min(30, screen.width // 4)))]
    shown = ["amount", "left", "rate"] if screen.width >= NARROW else ["left"]
    shown += ["detail"] if screen.width >= WIDE else []
    columns += [column(f" {{task.fields[{name}]}}") for name in shown]
    return Progress(*columns, console=screen, auto_refresh=False, transient=True, redirect_stdout=False)


def show(output: Output, as_json: bool) -> None:
    """Print a verb's output to standard output: its record with `as_json`, otherwise its text."""
    if not output.record:
        return
    if as_json:
        unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
        print(json.dumps(strict(output.record), ensure_ascii=not unicode, allow_nan=False))
        return
    if is_terminal(sys.stderr) and isinstance(output.parts[0], Table):
        print(file=sys.stderr)  # what was said before ends here
    for part in output.parts:
        show_part(part)


def show_part(part: Part) -> None:
    """Print a line or a table."""
    if not isinstance(part, Table):
        print(folded(part, sys.stdout))
        return
    lines = part.lines()
    if is_terminal(sys.stdout) and max(map(len, lines)) <= shutil.get_terminal_size().columns:
        console(sys.stdout).print(drawn(part), soft_wrap=False)
    else:
        print("\n".join(lines))


def folded(text: str, stream: TextIO) -> str:
    """Text with its lines broken between words at the width of a terminal, unless it is to be copied."""
    if isinstance(text, Verbatim) or not is_terminal(stream):
        return text
    fold = partial(textwrap.wrap, width=max(20, shutil.get_terminal_size().columns), break_long_words=False)
    return "\n".join("\n".join(fold(line, subsequent_indent=indent(line))) for line in text.split("\n"))


def indent(line: str) -> str:
    """The spaces that a line begins with."""
    return line[: len(line) - len(line.lstrip())]


def drawn(table: Table) -> Any:
    """A table as rich draws it."""
    from rich import box
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    justify: Sequence[Any] = ["left" if i in table.left else "right" for i in range(len(table.head))]
    columns = [Column(Text(name), justify=side) for name, side in zip(table.head, justify, strict=True)]
    rich_table = RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in table.rows:
        rich_table.add_row(*map(Text, row))
    return rich_table
