"""Which rooms may import which, and what must not be imported before it is needed."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lensmith.verbs import VERBS

SOURCE = Path(__file__).parents[1] / "src" / "lensmith"

# The modules that the command line imports for every verb. They must load fast, so without heavy packages.
LIGHT = ["cli.main", "config", "records", "errors", "progress", "data", "measure.paired", "measure.choice"]
LIGHT += ["runs.folder", "runs.files", "runs.predictions", "runs.provenance", "search.worker", "search.board"]
LIGHT += ["jobs.job", "jobs.uploads", "jobs.worker", "places.local", "places.modal", "places.modal.app"]
LIGHT += [f"verbs.{group}.{verb}" for verb, group in VERBS.items()]
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "datasets",
    "sklearn",
    "numpy",
    "pyarrow",
    "pydantic",
    "modal",
    "optuna",
    "sqlalchemy",
    "cleanlab",
}


def test_rooms_import_downwards_only() -> None:
    """The contract is in pyproject.toml."""
    root = SOURCE.parent.parent
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, lensmith.{module}; print(*{HEAVY!r} & {{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_is_fast() -> None:
    def spent() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [sys.executable, "-m", "lensmith", "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "evaluate" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Other processes also affect the CPU time, through caches and clocks. The minimum of several runs reduces that.
    least = min(spent() for _ in range(5))
    assert least <= 0.3, f"{least:.2f} s of CPU time"


def test_only_the_command_line_prints() -> None:
    for path in SOURCE.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not prints or path.parent.name in ("cli", "files"), path  # files are programs that are handed over


def test_no_pickle_and_no_remote_code() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "trust_remote_code=True" not in text, path
        assert "torch.load" not in text, path


def test_every_module_of_the_verbs_is_listed() -> None:
    paths = [path for path in (SOURCE / "verbs").glob("*/*.py") if path.stem != "__init__"]
    assert {(path.stem, path.parent.name) for path in paths} == set(VERBS.items())


@pytest.mark.parametrize("room", sorted({path.parent for path in SOURCE.rglob("*.py")}), ids=lambda room: room.name)
def test_rooms_stay_small(room: Path) -> None:
    modules = sorted(room.glob("*.py"))
    assert len(modules) <= 12, f"{room} has {len(modules)} modules"
    for path in modules:
        if path != SOURCE / "config" / "options.py":
            assert len(path.read_text().splitlines()) <= 350, path
    if room == SOURCE:
        assert {path.stem for path in modules} == {"__init__", "__main__", "errors", "progress", "records", "threads"}


def test_verbs_stay_functions_whatever_has_been_imported() -> None:
    # An imported module replaces a function of the same name in the package.
    code = (
        "import importlib, pkgutil, types, lensmith\n"
        "for m in pkgutil.iter_modules(lensmith.__path__):\n"
        "    importlib.import_module(f'lensmith.{m.name}') if m.name != '__main__' else None\n"
        "print(*[n for n in lensmith.__all__ if isinstance(getattr(lensmith, n), types.ModuleType)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
