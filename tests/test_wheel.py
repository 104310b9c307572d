"""The wheel is whole: it has what a run needs and its licences, and works where nothing else of the project is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from lensmith import __version__

ROOT = Path(__file__).parent.parent
MOST = 12_000_000
"""Bytes. Most of them are the shipped model and the demo's photographs."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the project's folder."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if files.returncode:
        pytest.skip("the project isn't a git repository here, so its files can't be told from others")
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and name.startswith(("src/", "pyproject.toml", "README.md", "LICENSE", "NOTICE")):
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / name).write_bytes((ROOT / name).read_bytes())
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        folder,
        folder / "copy",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path) -> Path:
    """An empty environment; returns the path of its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def run(command: list[str | Path], folder: Path) -> str:
    """The standard output of a command in an empty folder, without the project on Python's path."""
    folder.mkdir(exist_ok=True)
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_it_has_everything_a_run_needs_and_its_licences(wheel: Path) -> None:
    assert wheel.name == f"lensmith-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size <= MOST
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (ROOT / "src" / "lensmith").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT / "src").as_posix() in names, path
    info = f"lensmith-{__version__}.dist-info"
    assert {
        f"{info}/licenses/LICENSE",
        f"{info}/licenses/NOTICE",
        "lensmith/data/files/NOTICE-fashion-mnist.md",
    } <= names
    assert not [name for name in names if not name.startswith(("lensmith/", info))], "nothing else is installed"


@pytest.mark.long
def test_it_predicts_in_another_environment_with_the_packages_of_this_one(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "environment")
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], tmp_path / "else where")
    site = next((tmp_path / "environment" / "lib").glob("python*")) / "site-packages"
    # The packages of this environment, but not the project's own source, which its editable installation would add.
    (site / "others.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    source = run([python, "-c", "import lensmith; print(lensmith.__file__)"], tmp_path / "else where")
    assert source.startswith(str(site))
    command: list[str | Path] = [site.parents[2] / "bin" / "lensmith"]
    folder = tmp_path / "else where"
    assert "Teach:" in run([*command, "--help"], folder)
    assert "data.uri" in run([*command, "recipe"], folder)
    code = "from PIL import Image; Image.new('RGB', (40, 40), 'red').save('a picture.png')"
    run([python, "-c", code], folder)
    assert run([*command, "predict", "a picture.png", "--labels", "ball,shoe"], folder).startswith("a picture.png\t")


@pytest.mark.slow
def test_the_demo_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Installs everything anew, which takes minutes and a network."""
    python = environment(tmp_path / "environment")
    constraints = ROOT / "constraints.txt"
    run([python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel], tmp_path / "else where")
    out = run([tmp_path / "environment" / "bin" / "lensmith", "demo", "--data", "digits"], tmp_path / "else where")
    assert "tuned" in out
    assert "Report: runs/" in out
