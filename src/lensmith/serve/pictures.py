"""Images from requests: uploaded bytes and data URLs, and nothing else.

An address or a path would make the server fetch whatever the caller names, from this machine's files and network.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PIL import Image

from lensmith.data import decode_image
from lensmith.errors import ImageError
from lensmith.models.base import Model
from lensmith.models.views import Views
from lensmith.serve.refusal import Refusal


@dataclass(frozen=True)
class Limits:
    """What a request may contain."""

    body: int = 64 << 20
    """Bytes of a request."""
    image: int = 20 << 20
    """Bytes of an encoded image."""
    pixels: int = 50_000_000
    """Pixels of a decoded image."""
    questions: int = 64
    """Questions of a request."""
    depth: int = 32
    """Levels of nested lists and objects in a request."""


def encoded(url: str, limits: Limits) -> bytes:
    """The encoded image in a data URL. Raises `Refusal` for anything else."""
    head, comma, body = url.partition(",")
    if not head.startswith("data:"):
        raise Refusal(422, "An image must be a data: URL with base64; addresses and paths are not fetched.")
    if not comma or not head.casefold().endswith(";base64"):
        raise Refusal(422, "A data: URL must be base64.")
    return from_base64(body, limits)


def from_base64(text: str, limits: Limits) -> bytes:
    """The bytes that base64 stands for. Raises `Refusal` if it is damaged or too long."""
    if len(text) > limits.image * 4 // 3 + 4:
        raise Refusal(413, f"The image has more than {limits.image >> 20} MiB.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "The image isn't valid base64.") from None


def prepared(data: bytes, model: Model, limits: Limits) -> Callable[[], Views]:
    """An image, and how it becomes what the model takes.

    With a GPU, this is done here. On a CPU it is left to the thread that runs the model: as soon as two threads have
    used OpenMP, its own threads no longer wait for work but sleep, and the model took half as long again.

    Raises:
        Refusal: it can't be decoded or is too large.
    """
    image = decoded(data, model, limits)
    if model.device.type == "cpu":
        return partial(model.prepare, image)
    views = model.prepare(image)
    return lambda: views


def decoded(data: bytes, model: Model, limits: Limits) -> Image.Image:
    """An image, upright and in RGB. Raises `Refusal` as `prepared` does."""
    if not data:
        raise Refusal(422, "The image is empty.")
    if len(data) > limits.image:
        raise Refusal(413, f"The image has more than {limits.image >> 20} MiB.")
    try:
        return decode_image(data, name="sent", max_pixels=limits.pixels, enough=model.sufficient_size)
    except ImageError:  # its text may name what a library holds in memory
        raise Refusal(
            422, f"The image can't be decoded: it is damaged, of an unknown kind or above {limits.pixels:,} pixels."
        ) from None
