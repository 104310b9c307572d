"""Progress on the terminal."""

from __future__ import annotations

import math
import sys
import time

from lensmith.progress import Advance, Note, size


class Screen:
    """Show progress on standard error: one line that is rewritten on a terminal, otherwise a line every ten seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self._open = False
        self._last = -math.inf

    def __call__(self, event: Note | Advance) -> None:
        if isinstance(event, Advance):
            self.advance(event)
        else:
            self.note(event.text)

    def note(self, text: str) -> None:
        """Print a sentence."""
        self.end_line()
        print(text, file=sys.stderr, flush=True)

    def advance(self, event: Advance) -> None:
        """Show the progress of a task, if the last update is long enough ago."""
        now, finished = time.monotonic(), event.done >= event.total
        if now - self._last < (0.1 if self.terminal else 10) and not finished:
            return
        self._last = now
        left = f"{event.seconds_left:.0f} s left" if not finished else "done"
        if event.unit == "bytes":
            done, total, rate = size(event.done), size(event.total), f"{size(event.rate)}/s"
        else:
            number = f"{event.rate:.0f}" if event.rate >= 10 else f"{event.rate:.2g}"  # a slow rate isn't shown as 0
            done, total, rate = f"{event.done:,}", f"{event.total:,}", f"{number} {event.unit}/s"
        line = f"{event.task}: {done} of {total}, {rate}, {left}"
        line += f", {event.detail}" if event.detail else ""
        if self.terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            print(line, file=sys.stderr, flush=True)

    def agree(self) -> None:
        """Ask whether to continue; any answer but yes raises KeyboardInterrupt."""
        self.end_line()
        print("Continue? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise KeyboardInterrupt

    def end_line(self) -> None:
        """End the line that is being rewritten, if any."""
        if self._open:
            print(file=sys.stderr)
            self._open = False
