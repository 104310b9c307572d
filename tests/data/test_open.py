"""The URI selects the source, a wrong one gives a helpful error, and importing the package is quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lensmith.data import open_dataset
from lensmith.errors import UserError
from tests.data.conftest import Tree


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("fodler:x", r"'fodler'.*Did you mean 'folder'\?.*cifar, demo, folder, hub, idx, labels, table"),
        ("images:x", "Unknown kind of dataset 'images'"),  # a module of the package, but not a source
        ("demo:fashon", "Did you mean 'fashion'"),
        ("demo:", "Nothing follows"),
        ("org/name", "hub:org/name"),
        ("https://example.org/cats", "Download the images"),
        ("/nowhere/at/all", "No such file or folder"),
        ("", "No such file or folder"),
        ("x" * 5000, "No such file or folder"),
    ],
)
def test_a_wrong_uri_is_reported_with_a_hint(uri: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_dataset(uri)


def test_a_misspelt_path_is_reported_with_the_closest_name(tree: Tree) -> None:
    root = tree({"a": 1})
    with pytest.raises(UserError, match="Did you mean 'data'"):
        open_dataset(str(root.with_name("dtaa")))


def test_a_file_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cats.docx").write_text("x")
    with pytest.raises(UserError, match="Can't tell what kind"):
        open_dataset(str(tmp_path / "cats.docx"))


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.2)])
def test_impossible_fractions_are_refused(validation: float, test: float) -> None:
    with pytest.raises(UserError, match="Can't hold out"):
        open_dataset("demo:digits", validation=validation, test=test)


def test_duplicate_class_names_are_refused() -> None:
    with pytest.raises(UserError, match="given twice"):
        open_dataset("demo:digits", class_names=["a", "b", "a"])


def test_a_folder_with_a_colon_in_its_name_is_a_folder(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree({"a": 2, "b": 2}).rename(tmp_path / "my:photos")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("my:photos", test=0, validation=0).train) == 4


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, lensmith.data; print({'numpy', 'pyarrow', 'datasets', 'sklearn', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
