"""Provenance of results: which program produced them, from which data, on which machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from lensmith.runs.folder import read_run
from lensmith.runs.shapes import Record, of_split, read_as


def provenance() -> dict[str, Any]:
    """Commit, versions and machine, which identify the program that produced a result."""
    packages = {}
    for name in ("lensmith", "torch", "transformers", "peft", "datasets", "pillow"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parents[3]
    commit = _git(here, "rev-parse", "HEAD") if (here / ".git").exists() else ""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit or None,
        "dirty": bool(_git(here, "status", "--porcelain")) if commit else None,
        "python": platform.python_version(),
        "packages": packages,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": threads(),
        },
    }


def threads() -> int | None:
    """The number of CPU threads that PyTorch computes with; None if it isn't loaded."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else None


def facts(folder: Path) -> list[tuple[str, str]]:
    """The provenance of a run, as rows for a report."""
    record, recipe = read_as(folder / "record.json", Record), read_run(folder)
    data, machine = record["data"], record["machine"]
    split = of_split(data, record["split"])
    return [
        ("Data", f"{data['uri']}, {split['n']:,} {record['split']} images, hash {split['hash']}"),
        ("Training images", f"{data['train']['n']:,}"),
        ("Validation images", f"{data['validation']['n']:,}"),
        ("Base model", recipe.model.base),
        ("Seed", str(recipe.seed)),
        ("Commit", f"{record['commit'] or 'unknown'}{' (with local changes)' if record['dirty'] else ''}"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in record["packages"].items())),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("Created", record["created"]),
    ]


def _git(folder: Path, *words: str) -> str:
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
