"""Make the README's pictures from a run of the demo: the terminal at its end, and the report.

Run: .venv/bin/python dev/make_pictures.py   (two minutes; needs Chromium, and `pip install pyte`)
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pyte

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
COLUMNS, ROWS = 104, 60
COMMAND = "lensmith demo"
COLOURS = {
    "default": "#d7dbe0", "black": "#3b4048", "red": "#f0616d", "green": "#7fd18b", "brown": "#e5c07b",
    "blue": "#6cb2f5", "magenta": "#d291e4", "cyan": "#63c7d0", "white": "#ffffff",
}  # fmt: skip
STYLE = """
body { margin: 0; background: #16191d; }
pre { margin: 0; padding: 18px 22px; font: 15px/1.42 "DejaVu Sans Mono", monospace; color: #d7dbe0; }
"""


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or sys.exit("Chromium isn't installed.")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        screen = pyte.Screen(COLUMNS, ROWS)
        stream = pyte.ByteStream(screen)
        for part in output(folder):
            stream.feed(part)
        (report,) = folder.glob("runs/*/blend/report.html")
        text = page(screen)
        (folder / "terminal.html").write_text(text, encoding="utf-8")
        take(chromium, folder / "terminal.html", PICTURES / "demo.png", 1010, text.count("\n") * 22 + 40)
        take(chromium, report, PICTURES / "report.png", 1120, 1180)


def output(folder: Path) -> Iterator[bytes]:
    """What the demo writes to a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    program = Path(sys.executable).with_name("lensmith")
    environment = os.environ | {"TERM": "xterm-256color", "LENSMITH_CACHE": str(folder / "cache")}
    yield f"$ {COMMAND}\r\n".encode()
    with subprocess.Popen([program, "demo"], cwd=folder, env=environment, stdout=follower, stderr=follower) as process:
        os.close(follower)
        try:
            while part := os.read(leader, 4096):
                yield part
        except OSError:  # the program has ended
            pass
    if process.returncode:
        sys.exit(f"The demo failed with {process.returncode}.")


def page(screen: pyte.Screen) -> str:
    """A terminal's screen as HTML."""
    last = max((y for y, line in enumerate(screen.display) if line.strip()), default=0)
    lines = []
    for y in range(last + 1):
        parts = []
        for x in range(len(screen.display[y].rstrip())):
            cell = screen.buffer[y][x]
            colour = COLOURS.get(cell.fg, f"#{cell.fg}")
            weight = "; font-weight: 600" if cell.bold else ""
            parts.append(f'<span style="color: {colour}{weight}">{html.escape(cell.data)}</span>')
        lines.append("".join(parts))
    body = "\n".join(lines)
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><pre>{body}</pre>'


def take(chromium: str, source: Path, target: Path, width: int, height: int) -> None:
    """A picture of the top of a page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    size = f"--window-size={width},{height}"
    command = [chromium, *options, size, f"--screenshot={target}", source.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    main()
