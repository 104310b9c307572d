"""Images as they are sent."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lensmith.apis.pictures import picture
from lensmith.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def encoded(kind: str, exif: bytes | None = None, size: tuple[int, int] = (90, 60)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).resize(size).save(stream, kind, **({"exif": exif} if exif else {}))
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "media"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_a_file_that_apis_read_is_sent_to_the_byte(kind: str, media: str) -> None:
    data = encoded(kind)
    sent = picture(data, "a", 10**6)
    assert (sent.data, sent.media, sent.width, sent.height) == (data, media, 90, 60)
    assert picture(data, "a", 10**6, 90).data == data, "small enough already"


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM"])
def test_other_formats_become_png_with_the_same_pixels(kind: str) -> None:
    sent = picture(encoded(kind), "a", 10**6)
    assert sent.media == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent.data))), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_larger_image_is_scaled_and_says_nothing_of_its_camera(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    sent = picture(encoded(kind, exif.tobytes()), "a", 10**6, 45)
    assert (sent.width, sent.height) == (45, 30)
    assert b"A camera" not in sent.data
    assert Image.open(io.BytesIO(sent.data)).size == (45, 30)


def test_a_narrow_image_keeps_a_pixel() -> None:
    assert picture(encoded("PNG", size=(300, 1)), "a", 10**6, 10).height == 1


@pytest.mark.parametrize("data", [b"", b"no image", encoded("JPEG")[:200], encoded("PNG")[:-100]])
def test_a_damaged_image_is_not_sent(data: bytes) -> None:
    with pytest.raises(ImageError):
        picture(data, "a.jpg", 10**6)


def test_an_image_with_too_many_pixels_is_not_sent() -> None:
    with pytest.raises(ImageError, match="more than the limit"):
        picture(encoded("PNG"), "a.png", 1000)
