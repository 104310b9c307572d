"""The pages of docs/: those that are generated are up to date, links lead somewhere, and commands run as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lensmith.cli.parser import parse
from lensmith.config import load_recipe
from lensmith.verbs import VERBS
from tests.conftest import Run, Shapes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_COMMANDS = [page for page in PAGES if FENCE.search(page.read_text(encoding="utf-8"))]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse writes its help otherwise in other versions")
def test_generated_pages_are_up_to_date() -> None:
    command: list[str | Path] = [sys.executable, ROOT / "dev" / "make_docs.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name
    assert len(readme.splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "help.md"], ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_parsed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`(lensmith [^`]+)`", text.replace("\n", " "))
    blocks = [
        line
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    for command in [*inline, *(line for line in blocks if line.startswith("lensmith "))]:
        words = shlex.split(command.partition(" > ")[0])[1:]
        if words[0] not in VERBS or {"--help", "--resume"} & set(words) or len(words) == 1:
            continue  # an example's own verb, a former option, or a verb that is only mentioned
        args = parse(words)
        for word in getattr(args, "recipe", []):
            if "=" in word and "..." not in word:
                load_recipe(None, [word])


@pytest.mark.long
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_commands_run_as_written(page: Path, shapes: Shapes, run: Run, tmp_path: Path) -> None:
    """Every ```bash block of a page, line by line, in one folder, and the page's Python after them.

    Those of the README are run by a shell; the others in this process, which is faster.
    """
    shapes("my-images", circle=30, square=30)
    shapes("more-labelled-images", circle=8, square=8)
    shapes("new-images", unknown=2)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    text = page.read_text(encoding="utf-8")
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    assert lines
    for line in lines:
        if page.name == "README.md":
            done = subprocess.run(
                line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            program, *words = shlex.split(line.partition(" > ")[0])
            assert program == "lensmith", line
            code, out, err = run(*words)
        assert code == 0, f"{line}\n{err}"
        assert out.strip(), line
    for python in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        command = [sys.executable, "-c", python]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_makefile_has_the_targets_that_are_promised() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    promised = {
        name for page in PAGES for name in re.findall(r"`?make ([a-z]+)", page.read_text(encoding="utf-8")) if name
    }
    assert {"setup", "demo", "fast", "test", "slow", "check", "docs", "wheel", "bench", "clean"} <= targets
    assert {"demo", "fast", "test", "check"} <= promised


def test_what_must_pass_is_what_the_readme_says() -> None:
    for path in (ROOT / ".ci" / "run", ROOT / ".github" / "workflows" / "ci.yml"):
        text = path.read_text(encoding="utf-8")
        assert "make check" in text, path
        assert "make test" in text, path
