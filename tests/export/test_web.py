"""The page that is sent by mail: opened from the disk in a real browser, without a network."""

from __future__ import annotations

import base64
import csv
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lensmith.errors import UserError
from lensmith.export.original import open_original
from lensmith.verbs.use.export import export
from tests.export.conftest import Exported
from tests.serve.test_page import DROP, FLAGS

pytestmark = pytest.mark.long

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_page_classifies_offline_as_python_does(
    probe_run: Path, probe_onnx: Exported, npm: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import sync_playwright

    monkeypatch.chdir(npm)  # where onnxruntime-web is
    record = export(probe_run, "web", tmp_path / "my page")
    assert record["proven"]
    (proof,) = record["proofs"]
    assert proof["way"].startswith("Chromium")
    # Opaque pictures get the same bytes; transparent ones are rounded in another way.
    assert proof["changed"] <= 1
    session = onnxruntime.InferenceSession(probe_onnx.folder / "model.onnx")
    paths = {"one.png": pictures / "circle" / "0.png", "two.png": pictures / "square" / "3.png"}
    files = {name: path.read_bytes() for name, path in paths.items()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(offline=True, color_scheme="dark").new_page()
        asked, problems = list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((tmp_path / "my page" / "classifier.html").as_uri())
        dropped = {**files, "no image.png": b"no image"}
        page.evaluate(DROP, [[name, base64.b64encode(data).decode()] for name, data in dropped.items()])
        page.wait_for_function("() => document.querySelectorAll('.choices .shown').length == 6")
        page.wait_for_selector(".answer.failed")
        assert page.locator("#summary").inner_text() == "3 pictures, 1 without an answer"
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
        # What is not in the page can't be loaded, even by a script in it.
        blocked = page.evaluate("() => fetch('https://example.org').then(() => false, () => true)")
        browser.close()
    assert blocked
    assert all(url.startswith(("file://", "blob:", "data:")) for url in asked if "example.org" not in url)
    assert not [text for text in problems if "example.org" not in text and "Content Security" not in text]
    labels = open_original(probe_run).labels
    for row in rows[:2]:
        pixels = np.asarray(Image.open(paths[row["image"]]).convert("RGB"))
        found = session.run(["probabilities"], {"images": pixels[None]})[0][0]
        assert row["label"] == labels[int(found.argmax())]
        assert abs(float(row["probability"]) - found.max()) < 1e-4


def test_a_missing_runtime_names_the_package(probe_run: Path, here: Path) -> None:
    with pytest.raises(UserError, match="onnxruntime-web") as error:
        export(probe_run, "web", here / "page")
    assert "npm install" in str(error.value)
    assert not (here / "page").exists()
