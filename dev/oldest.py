"""Print constraints.txt with the oldest versions of torch and transformers that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = ("torch", "transformers")


def oldest() -> str:
    """The constraints as text."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    least = dict(line.split(">=") for line in needed if line.split(">=")[0] in OLDEST)
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in OLDEST:
        text, count = re.subn(rf"^{name}==.*$", f"{name}=={least[name]}.0", text, flags=re.MULTILINE)
        assert count == 1, name
    return text


if __name__ == "__main__":
    print(oldest(), end="")
