"""What a remote machine gets of a source: only the files that the source says it needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from lensmith.data import open_dataset
from lensmith.data.source import Columns
from lensmith.data.sources import needed_files


def names(uri: str | Path) -> set[str]:
    """The names of the files that the source needs."""
    files = needed_files(str(uri), Columns())
    assert files
    return set(files.paths)


def assert_same_elsewhere(path: Path, elsewhere: Path) -> None:
    """A copy of only the needed files, in the folder `elsewhere`, gives the same dataset and is recognised alike."""
    files = needed_files(str(path), Columns())
    assert files
    for name, file in files.paths.items():
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, elsewhere / name)
    here, there = (
        open_dataset(str(p), validation=0, test=0) for p in (path, elsewhere / path.relative_to(files.folder))
    )
    assert here.labels == there.labels
    assert [split.hash for split in here.splits] == [split.hash for split in there.splits]
