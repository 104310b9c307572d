"""Who may import whom, and what must not be imported before it is needed."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "lensmith"

# Downwards only. A module may import from layers below its own, and from its own layer where marked.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"quickstart", "comparing", "places"},
    {"probing", "ladders", "learning_curves", "sweeps", "suspicion"},
    {"verbs", "fetching"},
    {"rungs", "search"},
    {"training", "evaluation", "report", "checkpoint", "runs"},
    {"probes"},
    {"tables"},
    {"step", "samples"},
    {"inference", "calibrate", "comparison", "objective", "features", "trackers"},
    {"vectors"},
    {"data", "models", "question", "labels", "branches", "augment", "mix", "metrics", "sureness", "power_law"},
    {"downloads", "hub_errors"},
    {"config", "records", "errors", "predictions", "interrupts", "progress", "processes"},
]
# Within a layer: training needs checkpoints, and the label search branches.
SIDEWAYS = {("training", "checkpoint"), ("checkpoint", "training"), ("labels", "branches"), ("models", "branches")}
SIDEWAYS |= {("models", "data"), ("labels", "models"), ("question", "models"), ("sureness", "metrics")}
SIDEWAYS |= {("calibrate", "inference")}
SIDEWAYS |= {("downloads", "hub_errors")}
SIDEWAYS |= {("records", "errors"), ("config", "errors"), ("predictions", "records"), ("predictions", "errors")}

# These answer at once, so nothing heavy may come with them.
LIGHT = ["cli", "config", "records", "errors", "metrics", "verbs", "quickstart"]
LIGHT += ["search.trials", "search.database", "search.board", "search.outcome"]
LIGHT += ["probing", "ladders", "learning_curves", "sweeps", "suspicion"]
LIGHT += ["comparing", "comparison", "sureness", "runs", "predictions", "progress", "fetching"]
LIGHT += ["places", "places.local", "places.modal", "places.prices", "places.remote", "places.transfers"]
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


def home(module: str) -> str:
    return module.removeprefix("lensmith.").partition(".")[0]


def imports(path: Path) -> set[str]:
    """The parts of Lensmith that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lensmith."):
            found.add(home(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module == "lensmith":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {home(alias.name) for alias in node.names if alias.name.startswith("lensmith.")}
    return found


def depth(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part == "__init__":
        return  # it only names the verbs and loads them on demand; see below
    for other in imports(path) - {part}:
        assert depth(other) > depth(part) or (part, other) in SIDEWAYS, f"{part} must not import {other}"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, lensmith.{module}; print(*{HEAVY!r} & {{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_answers_at_once() -> None:
    def spent() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [sys.executable, "-m", "lensmith.cli", "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "evaluate" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # What other processes do to caches and clocks costs CPU time too; the least of some tries has least of that.
    least = min(spent() for _ in range(5))
    assert least <= 0.3, f"{least:.2f} s of CPU time"


def test_only_the_command_line_prints() -> None:
    for path in SOURCE.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        prints = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        assert not prints or path.name == "cli.py", path


def test_no_pickle_and_no_remote_code() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "trust_remote_code=True" not in text, path
        assert "torch.load" not in text, path


def test_verbs_stay_functions_whatever_has_been_imported() -> None:
    # A module takes the place of a function of its name in the package as soon as it is imported.
    code = (
        "import importlib, pkgutil, types, lensmith\n"
        "for m in pkgutil.iter_modules(lensmith.__path__):\n"
        "    importlib.import_module(f'lensmith.{m.name}') if m.name != '__main__' else None\n"
        "print(*[n for n in lensmith.__all__ if isinstance(getattr(lensmith, n), types.ModuleType)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
