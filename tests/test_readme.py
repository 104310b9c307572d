"""The README's commands run as written: every ```bash block, line by line, and its Python, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import Shapes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DEMO = "lensmith demo --data digits"
"""The slowest command, which is tested in tests/verbs/test_demo.py instead."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_commands_run_as_written(shapes: Shapes, tmp_path: Path) -> None:
    shapes("my-images", circle=30, square=30)
    shapes("new-images", unknown=2)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    lines = [line for block in blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
    assert len(lines) >= 6
    lines.remove(DEMO)
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line
    (python,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


def test_what_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_makefile_has_the_targets_that_are_promised() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "test", "check", "bench", "clean"} <= targets
    ci = (ROOT / ".ci" / "run").read_text() + (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert ci.count("make check") == ci.count("make test") == 2
