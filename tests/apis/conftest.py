"""Helpers for tests of outside models."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lensmith import apis
from lensmith.apis.asking import Asked, Asking, Item
from lensmith.apis.pictures import picture
from lensmith.apis.prices import Tariff
from lensmith.apis.provider import Ask
from lensmith.apis.recording import Recording
from lensmith.config import ApiOptions, Price
from tests.apis.fake_api import FakeApi

ASK = Ask("What is in this picture? Answer with one of these:\ncat\ndog\ntree frog", None, ("cat", "dog", "tree frog"))
ADDRESSES = {
    "openai": "openai:m@{}/v1",
    "openai-decisions": "openai-decisions:m@{}/v1",
    "anthropic": "anthropic:m@{}",
    "gemini": "gemini:m@{}",
    "systemone": "systemone:m@{}",
}


def png(seed: int, size: tuple[int, int] = (12, 8)) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def items(n: int, first: int = 0) -> list[Item]:
    """Different images."""
    return [(f"i{k}", partial(picture, png(k), f"i{k}", 10**6)) for k in range(first, first + n)]


@pytest.fixture
def asking(tmp_path: Path) -> Callable[..., Asking]:
    """What asks a fake server, with its recording in the temporary folder."""

    def make(api: FakeApi, provider: str = "openai", price: float = 1.0, **options: Any) -> Asking:
        options = {"timeout": 0.5} | options
        made = apis.find(ADDRESSES[provider].format(api.url))
        tariff = Tariff(Price(price, 0.0), "test")
        return Asking(made, "key", ASK, ApiOptions(**options), Recording(tmp_path), tariff)

    return make


def ask(asking: Asking, rows: Sequence[Item], turn: int = 0) -> Asked:
    """Ask, and close the recording."""
    try:
        return asyncio.run(asking.all(rows, lambda _: None, turn))
    finally:
        asking.close()
