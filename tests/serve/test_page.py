"""The page in a real browser: pictures are dropped and answered, an answer is put right, and the model learns it."""

from __future__ import annotations

import base64
import csv
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from lensmith.data import open_dataset
from lensmith.engine.classifier import Classifier
from lensmith.engine.panel import Panel
from lensmith.engine.taught import load_panels
from lensmith.serve.corrections import Corrections
from lensmith.serve.service import Service
from lensmith.verbs.use.serve import retaught
from tests.conftest import Run, Shapes
from tests.serve.conftest import LABELS, picture, serving

pytestmark = pytest.mark.long

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DROP = """async (files) => {
  const transfer = new DataTransfer();
  for (const [name, text] of files) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
  }
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def drop(page: Any, **files: bytes) -> None:
    page.evaluate(DROP, [[name.replace("_", "."), base64.b64encode(data).decode()] for name, data in files.items()])


def test_pictures_are_dropped_answered_put_right_and_taught(
    browser: Any, shapes: Shapes, tiny_folder: Path, run: Run, tmp_path: Path
) -> None:
    folder = shapes(circle=20, square=20)
    options = [f"model.base={tiny_folder}", "model.dtype=float32"]
    assert run("probe", folder, *options, "--run", "mine")[0] == 0
    service = Service(load_panels({"mine": tmp_path / "mine"}))
    service.corrections = Corrections(tmp_path / "my corrections", {"mine": retaught(tmp_path / "mine")})
    with serving(service) as server:
        page = browser.new_page()
        asked, problems = list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url)
        page.wait_for_load_state("networkidle")
        drop(page, one_png=picture(1), two_png=picture(2))
        page.wait_for_function("() => document.querySelectorAll('.choices button').length == 4")
        assert page.locator("#summary").inner_text() == "2 pictures"
        shown = page.locator("#rows li").first
        answer = shown.locator(".answer").inner_text().partition(",")[0]
        right = "square" if answer == "circle" else "circle"
        button = shown.locator(f"button[data-label={right}]")
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#teach:not([hidden])")
        assert shown.locator(".corrected").inner_text() == f"✓ it is: {right}"
        assert button.get_attribute("aria-pressed") == "true"
        assert "1 put right" in page.locator("#summary").inner_text()
        command = page.locator("#command").inner_text()
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
        assert [(row["image"], row["corrected"]) for row in rows] == [("one.png", right), ("two.png", "")]
        page.select_option("#below", "0.5")
        assert page.locator("#rows li:visible").count() == 0  # of two classes, the answer has at least a half
        page.close()
    assert problems == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)
    words = shlex.split(command)
    assert words[:2] == ["lensmith", "probe"]
    assert run(*words[1:], "--run", "second")[0] == 0
    before, after = (json.loads((tmp_path / name / "record.json").read_text())["data"] for name in ("mine", "second"))
    assert after["train"]["n"] == before["train"]["n"] + 1
    assert after["test"] == before["test"]


def test_the_page_asks_for_a_token_if_the_server_does(browser: Any, classifier: Classifier) -> None:
    with serving(Service([Panel({"m": classifier})]), token="s3cret") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#key:not([hidden])")
        for token, waiting in (("wrong", "#problem:not([hidden])"), ("s3cret", "#drop:not([hidden])")):
            page.fill("#token", token)
            page.keyboard.press("Enter")
            page.wait_for_selector(waiting)
        drop(page, one_png=picture(1), bad_png=b"no image")
        page.wait_for_selector(".answer.failed")
        page.wait_for_selector(".choices .shown")
        assert "can't be decoded" in page.locator(".answer.failed").inner_text()
        assert "1 without an answer" in page.locator("#summary").inner_text()
        assert page.locator(".choices button").count() == 0  # no corrections are kept
        page.close()


@pytest.fixture
def kept(classifier: Classifier, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    service = Service([Panel({"animals": classifier})])
    service.corrections = Corrections(tmp_path / "kept", {"animals": "lensmith train runs/animals"})
    with serving(service) as server:
        yield f"{server.url}/v1/corrections/animals", tmp_path / "kept" / "animals"


def test_corrections_are_a_dataset_and_the_later_label_counts(kept: tuple[str, Path]) -> None:
    url, folder = kept
    for seed, label in ((1, "cat"), (2, "猫"), (1, "tree frog"), (3, "dog")):
        said = {"label": label, "answer": "dog", "probability": "0.4"}
        answer = httpx.post(url, content=picture(seed), params=said)
        assert answer.status_code == 200, answer.text
    assert answer.json()["kept"] == 3
    assert answer.json()["command"] == f"lensmith train runs/animals 'data.corrections={folder}/labels.csv'".replace(
        "'", "" if " " not in str(folder) else "'"
    )
    assert len(list((folder / "images").iterdir())) == 3
    dataset = open_dataset(str(folder / "labels.csv"), test=0, validation=0)
    assert set(dataset.labels) == {"tree frog", "猫", "dog"}


@pytest.mark.parametrize(
    ("said", "image", "status"),
    [
        ({"label": "cow"}, picture(), 422),
        ({"label": "../cat"}, picture(), 422),
        ({}, picture(), 422),
        ({"label": "cat", "answer": "cow"}, picture(), 422),
        ({"label": "cat", "probability": "x"}, picture(), 422),
        ({"label": "cat"}, b"no image", 422),
        ({"label": "cat"}, b"", 422),
    ],
)
def test_what_is_no_correction_is_refused(
    kept: tuple[str, Path], said: dict[str, str], image: bytes, status: int
) -> None:
    url, folder = kept
    assert httpx.post(url, content=image, params=said).status_code == status
    assert not folder.exists()


def test_a_correction_that_can_not_be_kept_is_said(kept: tuple[str, Path]) -> None:
    url, folder = kept
    folder.parent.write_text("a file where the folder should be")
    answer = httpx.post(url, content=picture(), params={"label": "cat"})
    assert answer.status_code == 507
    assert str(folder) not in answer.text


def test_a_server_without_corrections_keeps_nothing(classifier: Classifier) -> None:
    with serving(Service([Panel({"animals": classifier})])) as server:
        url = f"{server.url}/v1/corrections/animals"
        assert httpx.post(url, content=picture(), params={"label": LABELS[0]}).status_code == 404
