"""One pass over the images finds what their files say, and keeps those that can't be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lensmith.checks import survey as module
from lensmith.checks.survey import PIXELS
from tests.checks.scenes import folder_of, save, scene, surveyed


def test_what_files_say(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pictures", 8)
    exif = Image.Exif()
    exif[271], exif[272], exif[274] = "Canon", "EOS 5D", 6
    exif.get_ifd(0x8769)[36867] = "2024:05:17 09:31:02"
    save(scene(50), folder / "train" / "lake" / "photo.jpg", quality=83, exif=exif, progressive=True)
    save(scene(51).convert("L"), folder / "train" / "lake" / "grey.png")
    (folder / "train" / "lake" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    survey = surveyed(folder)
    by_name = {Path(source).name: i for i, source in enumerate(survey.sources)}
    photo = survey.files[by_name["photo.jpg"]]
    assert photo is not None
    assert (photo.format, photo.width, photo.height, photo.mode) == ("JPEG", 96, 72, "RGB")
    assert abs(photo.quality - 83) <= 1
    assert (photo.camera, photo.taken, photo.orientation) == ("Canon EOS 5D", "2024:05:17 09:31:02", 6)
    assert photo.progressive
    grey = survey.files[by_name["grey.png"]]
    assert grey is not None
    assert (grey.mode, grey.quality, grey.tables) == ("L", 0, "")
    torn = by_name["torn.jpg"]
    assert list(survey.errors) == [torn]
    assert "torn.jpg" in survey.errors[torn]
    assert survey.files[torn] is None
    assert np.isnan(survey.pixels[torn]).all()
    assert torn not in survey.readable()
    column = PIXELS.index("saturation")
    assert survey.pixels[by_name["grey.png"], column] == 0 < survey.pixels[by_name["photo.jpg"], column]


@pytest.mark.long
def test_several_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "pictures", 150)
    (folder / "train" / "lake" / "torn.jpg").write_bytes(b"torn")
    alone = surveyed(folder)
    monkeypatch.setattr(module, "FEW", 10)
    monkeypatch.setattr(module, "_starts_cleanly", lambda: True)
    together = surveyed(folder)
    assert together.files == alone.files
    assert together.errors == alone.errors
    assert np.array_equal(together.thumbnails, alone.thumbnails)
    assert np.array_equal(together.pixels, alone.pixels, equal_nan=True)
