"""One HTML file that classifies pictures in a browser, opened from the disk or sent by mail; it needs no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensmith.errors import UserError, optional
from lensmith.export.format import Way
from lensmith.export.formats import onnx
from lensmith.export.original import Original
from lensmith.progress import Tell, working
from lensmith.records import percent
from lensmith.runs.files import write

FILE = "classifier.html"
RUNTIME = Path("node_modules", "onnxruntime-web", "dist")
PARTS = {"runtime": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
"""Files of the npm package onnxruntime-web."""
INSTALL = "npm install --ignore-scripts onnxruntime-web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
LARGEST = 200_000_000
"""Bytes of the graph above which browsers take too long, or refuse the page."""
_ASK = "async (text) => Array.from(await scores(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))])))"


class Format(onnx.Format):
    """See `format.Format`."""

    about = "one HTML file that classifies pictures in a browser, offline"

    def require(self, original: Original) -> None:
        super().require(original)
        runtime()
        optional("playwright", "web", "The proof in a browser")
        browser()

    def write(self, original: Original, folder: Path, tell: Tell) -> None:
        from lensmith.export.onnx_model import write_onnx

        with tempfile.TemporaryDirectory(prefix="lensmith-export-") as temporary:
            path = Path(temporary) / onnx.FILE
            with working("converting to ONNX", tell):
                write_onnx(original, path, self.chosen == "int8")
            if (large := path.stat().st_size) > LARGEST or path.with_name(f"{path.name}.data").exists():
                raise UserError(
                    f"The graph has {large / 1e6:,.0f} MB, too much for a page that a browser opens.",
                    "Use --int8, or a smaller model; the format onnx has no such limit.",
                )
            write(folder / FILE, _page(original, path))

    @contextmanager
    def opened(self, original: Original, folder: Path) -> Iterator[list[Way]]:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            window = playwright.chromium.launch(executable_path=browser(), args=flags)
            try:
                context = window.new_context(offline=True)
                page = context.new_page()
                page.goto((folder / FILE).absolute().as_uri())
                page.wait_for_function("() => document.getElementById('state').textContent != 'starting …'")
                if said := page.locator("#problem").inner_text():
                    raise UserError(f"The page doesn't work in {browser()}: {said}", "Use a newer browser.")

                def ask(image: bytes) -> list[float]:
                    found: list[float] = page.evaluate(_ASK, base64.b64encode(image).decode())
                    return found

                yield [Way(f"Chromium {window.version}", ask)]
            finally:
                window.close()

    def usage(self, folder: Path) -> str:
        return f"open {folder / FILE} in a browser"


def runtime() -> Path:
    """The folder of onnxruntime-web: in node_modules here, or in a folder above.

    Raises:
        UserError: it isn't installed.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / RUNTIME / name).exists() for name in PARTS.values()):
            return folder / RUNTIME
    raise UserError("The format web needs the npm package onnxruntime-web, which runs the model in the page.", INSTALL)


def browser() -> str:
    """The browser in which the page is proven.

    Raises:
        UserError: none is installed.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise UserError(
            f"The page is proven in a browser, and none of {', '.join(BROWSERS)} is installed.",
            "Install one; on Debian: apt-get install chromium.",
        )
    return found


def _page(original: Original, graph: Path) -> str:
    """The page as HTML, with everything inside."""
    from lensmith.pages.page import live_part, render_live

    files = Path(__file__).parents[1] / "files"
    own = (files / "web.js").read_text(encoding="utf-8")
    # One module: what one exports, the other has already.
    script = live_part("pictures.js").replace("\nexport ", "\n") + own.replace(
        'import { at, begin, tell } from "./pictures.js";\n', ""
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    folder = runtime()
    sources = {name: folder / file for name, file in PARTS.items()} | {"model": graph}
    values: dict[str, Any] = {name: _packed(path.read_bytes()) for name, path in sources.items()}
    tested = original.evaluation
    about = f"It knows {len(original.labels)} classes: {', '.join(original.labels)}."
    if tested is not None:
        about += f" It was right on {percent(tested.accuracy)} of {tested.accuracy.n:,} test images."
    return render_live(
        files / "web.html.j2",
        title=original.run.name,
        scripts=f"'sha256-{digest}'",
        style=live_part("pictures.css"),
        script=script,
        packed=values,
        labels=list(original.labels),
        about=about,
    )


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
