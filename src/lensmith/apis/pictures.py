"""Images as they are sent: the file as it is if the API reads its format, and otherwise as PNG."""

from __future__ import annotations

import io

from PIL import Image

from lensmith.apis.provider import Picture
from lensmith.data.images import decode_image, full_size

_SENT = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that all providers read."""
_QUALITY = 95


def picture(data: bytes, name: str, max_pixels: int, longest: int | None = None) -> Picture:
    """An encoded image as it is sent.

    Args:
        name: what messages call it.
        max_pixels: as in `decode_image`.
        longest: the largest length of its longer side in pixels; a larger image is scaled down. None sends the file.

    Raises:
        ImageError: it can't be read.
    """
    # Decoding finds damaged files. If nothing is to be scaled, a JPEG is decoded at an eighth of its size.
    image = decode_image(data, name=name, max_pixels=max_pixels, enough=None if longest else lambda *_: (1, 1))
    height, width = full_size(image)
    with Image.open(io.BytesIO(data)) as file:
        kind = file.format
    media = _SENT.get(str(kind))
    if media and (longest is None or max(height, width) <= longest):
        return Picture(data, media, width, height)
    if longest is not None and max(height, width) > longest:
        ratio = longest / max(height, width)
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        image = image.resize(size, Image.Resampling.LANCZOS)
    elif image.size != (width, height):
        image = decode_image(data, name=name, max_pixels=max_pixels)
    buffer, is_jpeg = io.BytesIO(), kind in ("JPEG", "MPO")
    image.info.clear()  # no camera, place or date
    if is_jpeg:
        image.save(buffer, "JPEG", quality=_QUALITY)
    else:
        image.save(buffer, "PNG")
    return Picture(buffer.getvalue(), "image/jpeg" if is_jpeg else "image/png", *image.size)
