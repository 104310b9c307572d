"""Image files: decode any of them to 8-bit RGB, or say in one sentence why not; and find them in a folder.

Photographs from phones, scanners and microscopes differ in more than their pixels: orientation tags, transparency,
16-bit and floating-point values, ink colours. A model that is shown them must see what a person would see.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from lensmith.data.source import existing, natural_key
from lensmith.errors import ImageError, UserError

MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_FULL_SIZE = "lensmith full size"
"""Key of an image's `info`: the size it was decoded at and the size that it has by its header, (width, height) each."""
_ON_THEIR_SIDE = {_TRANSPOSE[tag] for tag in (5, 6, 7, 8)}

Enough = Callable[[int, int], tuple[int, int]]
"""(height, width) of an image -> the (height, width) at which it need only be decoded."""


def decode_image(
    source: bytes | Path, *, name: str, max_pixels: int = MAX_PIXELS, enough: Enough | None = None
) -> Image.Image:
    """The image in `source` (a file, or its encoded bytes) as RGB, 8 bits a channel, the right way up.

    Transparency is laid on white; of an animation the first frame is taken; 16-bit values are scaled from 0..65535,
    not clipped. Floating-point values have no agreed range: a largest value up to 1 means 0..1, up to 255 means
    0..255, and beyond that 0..65535.

    With `enough`, a JPEG may be decoded at a half, a quarter or an eighth of its size, if that is still no smaller than
    `enough` says of its (height, width): reading and scaling 12 megapixels then takes less than half the time. Scaled
    down further it differs from the whole image scaled at once: in photograph-like pictures by 0.5 of 255 levels on
    average and up to 15 at the hardest edges (benchmarks/preparing.py), in patterns that are too fine for the final
    size by more. `full_size` tells the size that it would have had.

    Raises `ImageError`, naming the image by `name`, if it is missing, empty, truncated, not an image, in colours
    that can't be turned into RGB, or has more than `max_pixels` by its header, which is read before any decoding.
    (Pillow itself refuses more than twice its `Image.MAX_IMAGE_PIXELS`, about 179 million, whatever `max_pixels`.)
    """
    try:
        with _opened(source, name) as stream:
            return _decode(stream, name, max_pixels, enough)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"There is no image file {name}.", "Check the path.") from None
    except PermissionError:
        raise ImageError(f"The image {name} may not be read.", "Check the file's permissions.") from None
    except (Image.DecompressionBombError, MemoryError):
        raise ImageError(f"The image {name} is too large to decode safely.", "Scale it down.") from None
    except UnidentifiedImageError:
        raise ImageError(f"The file {name} isn't an image that can be read.", "Remove or replace it.") from None
    # Pillow's decoders raise whatever a damaged file makes them trip over: SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise ImageError(
            f"The image {name} is truncated or damaged: {error}.", "Fetch it again or remove it."
        ) from error


def full_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image, whatever the size that `decode_image` has decoded it at."""
    # `info` is copied with an image that is cropped or scaled, and holds what a file's own notes say: so it is checked.
    kept = image.info.get(_FULL_SIZE)
    width, height = kept[1] if isinstance(kept, tuple) and kept[0] == image.size else image.size
    return height, width


def list_images(path: str | Path) -> list[Path]:
    """The image file `path` itself, or all image files in the folder `path` and below, sorted by name ("2" < "10").

    Hidden files and those without a common image extension are passed over in a folder; a file that is named itself
    is taken as it is. Raises `UserError` if there is no such path or the folder has no image.
    """
    path = existing(str(path))
    if not path.is_dir():
        return [path]
    found = [file for file in walk(path) if is_image(file) and not is_hidden(file, path)]
    if not found:
        raise UserError(f"No images in the folder {path}.", f"Looked for {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return found


def is_image(path: Path) -> bool:
    """Whether `path` has the extension of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_hidden(path: Path, root: Path) -> bool:
    """Whether `path`, or a folder between it and `root`, is hidden."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def walk(root: Path) -> Iterator[Path]:
    """All files below `root` in natural order, streamed. Linked folders are followed, except back to a parent."""
    for folder, folders, files in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        folders[:] = sorted((f for f in folders if not _is_loop(os.path.join(folder, f), here)), key=natural_key)
        for file in sorted(files, key=natural_key):
            yield Path(folder, file)


def _is_loop(folder: str, parent: str) -> bool:
    real = os.path.realpath(folder)
    return parent == real or parent.startswith(real.rstrip(os.sep) + os.sep)


def _opened(source: bytes | Path, name: str) -> BinaryIO:
    if isinstance(source, Path) and source.exists() and not source.is_file():  # opening a pipe would wait for ever
        raise ImageError(f"{name} isn't a file.", "Give the path of an image file.")
    if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
        raise ImageError(f"The image {name} is empty (0 bytes).", "Fetch it again or remove it.")
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


class _Quiet:
    """No warnings while any thread is decoding. Pillow warns about sizes, which are judged here, and about damaged
    tags, which nobody needs to act on. `catch_warnings` alone changes the whole process and is not for threads."""

    def __init__(self) -> None:
        self._lock, self._inside, self._caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()


def _decode(stream: BinaryIO, name: str, max_pixels: int, enough: Enough | None) -> Image.Image:
    with _quiet, Image.open(stream) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"The image {name} has {width} x {height} pixels, more than the limit of {max_pixels:,}.",
                "Scale it down.",
            )
        scalable = image.format in ("JPEG", "MPO")
        if enough and scalable:
            on_its_side = _turn(image) in _ON_THEIR_SIDE
            high, wide = enough(*((width, height) if on_its_side else (height, width)))
            image.draft(None, (high, wide) if on_its_side else (wide, high))
        image.load()
        method = _turn(image)  # now, because a TIFF's decoder has turned it and dropped the tag
        upright = _to_rgb(image) if method is None else _to_rgb(image).transpose(method)
        if scalable:
            full = (height, width) if method in _ON_THEIR_SIDE else (width, height)
            upright.info[_FULL_SIZE] = (upright.size, full)
        return upright


def _turn(image: Image.Image) -> Image.Transpose | None:
    orientation = None
    with suppress(Exception):  # a damaged tag is no reason to refuse the picture
        orientation = image.getexif().get(_ORIENTATION_TAG)
    return _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    # Not copied: a loaded image keeps its pixels when its file is closed, and a copy of a large one takes as long as
    # a fifth of its decoding.
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or floating-point grey as 8-bit grey."""
    import numpy as np

    values: Any = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    top = 65535.0
    if image.mode == "F":
        largest = float(values.max(initial=0.0))
        top = next((limit for limit in (1.0, 255.0) if largest <= limit), top)
    return Image.fromarray((values * (255.0 / top) + 0.5).clip(0, 255).astype(np.uint8))
