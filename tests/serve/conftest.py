"""A server of the tiny model on loopback, in a thread of this process."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.config.options import QuestionOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.panel import Panel
from lensmith.engine.question import make_question
from lensmith.records import Calibration
from lensmith.serve.app import make_app
from lensmith.serve.service import Service

LABELS = ["cat", "dog", "tree frog", "猫"]


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    service: Service


@pytest.fixture(scope="session")
def classifier(tiny_folder: Path) -> Classifier:
    model = models.load_base(ModelOptions(base=str(tiny_folder), dtype="float32", device="cpu"))
    question = make_question(model, QuestionOptions(), LABELS)
    return Classifier(model, question, calibration=Calibration(temperature=2.0))


Serving = Callable[..., Any]


@contextmanager
def serving(service: Service, **options: Any) -> Iterator[Server]:
    """Run a server until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(service, **options), "127.0.0.1", port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield Server(f"http://127.0.0.1:{port}", service)
    finally:
        server.should_exit = True
        thread.join(20)
        service.close()


@pytest.fixture(scope="session")
def server(classifier: Classifier) -> Iterator[Server]:
    with serving(Service([Panel({"animals": classifier})])) as running:
        yield running
