"""Image files: decode them to 8-bit RGB, or report in one sentence why that fails; and find them in a folder.

Images from phones, scanners and microscopes differ in more than their pixels: orientation tags, transparency, 16-bit
and floating-point values, CMYK colours. The model must see what a person would see.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from lensmith.data.paths import existing, is_hidden, walk
from lensmith.errors import ImageError, UserError

MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Photos of phones, which are read if pillow-heif is installed (`pip install 'lensmith[heic]'`)."""
UNREADABLE_SUFFIXES = frozenset(
    {".dcm", ".svg", ".psd", ".xcf", ".eps", ".ai", ".jxl", ".exr", ".hdr", ".tga", ".fits", ".nii", ".mrxs", ".svs"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
"""Kinds of images that Lensmith doesn't read."""

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

_SIDEWAYS = {_TRANSPOSE[tag] for tag in (5, 6, 7, 8)}
_SIZES = "lensmith sizes"
"""Key of a decoded image's `info` under which its `_Sizes` are kept."""

Enough = Callable[[int, int], tuple[int, int]]
"""(height, width) of an image -> the smallest (height, width) that it may be decoded at."""


class _Sizes(NamedTuple):
    """(width, height) at which an image was decoded, and its full (width, height) according to its header."""

    decoded: tuple[int, int]
    full: tuple[int, int]


def decode_image(
    source: bytes | Path,
    *,
    name: str,
    max_pixels: int = MAX_PIXELS,
    enough: Enough | None = None,
    look: Callable[[Image.Image], object] | None = None,
) -> Image.Image:
    """The image in `source` (a file, or its encoded bytes) as upright RGB with 8 bits per channel.

    Transparent pixels are blended onto white. Animations give their first frame. 16-bit values are scaled from
    0..65535, not clipped. Floating-point values have no agreed range, so the largest value decides: up to 1 means 0..1,
    up to 255 means 0..255, anything above means 0..65535.

    With `enough`, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as the result is no
    smaller than `enough(height, width)`. Reading and scaling 12 megapixels then takes less than half the time. After
    further downscaling, the result differs slightly from scaling the full image in one go: in photograph-like images
    by 0.5 of 255 levels on average and up to 15 at the hardest edges (benchmarks/preparing.py), and by more in
    patterns too fine for the final size. `full_size` returns the size of the full image.

    `look` is called with the opened file before it is decoded, for what its header says.

    Raises `ImageError`, which contains `name`, if the image is missing, empty, truncated, not an image, in colours that
    can't be converted to RGB, or has more than `max_pixels` according to its header, which is read before decoding.
    (Pillow itself refuses more than twice its `Image.MAX_IMAGE_PIXELS`, about 179 million, whatever `max_pixels`.)
    """
    try:
        with _opened(source, name) as stream:
            return _decode(stream, name, max_pixels, enough, look)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"There is no image file {name}.", "Check the path.") from None
    except PermissionError:
        raise ImageError(f"There is no permission to read the image {name}.", "Check the file's permissions.") from None
    except (Image.DecompressionBombError, MemoryError):
        raise ImageError(f"The image {name} is too large to decode safely.", "Scale it down.") from None
    except UnidentifiedImageError:
        hint = "Remove or replace it."
        if Path(name).suffix.lower() in HEIF_SUFFIXES and not reads_heif():
            hint = "To read photos of phones, run: pip install 'lensmith[heic]'."
        raise ImageError(f"The file {name} isn't an image that can be read.", hint) from None
    # On a damaged file, Pillow's decoders raise almost anything: SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise ImageError(
            f"The image {name} is truncated or damaged: {error}.", "Download it again or remove it."
        ) from error


def read_file(path: Path) -> bytes:
    """The bytes of an image file. Raises `ImageError` if there is none or it can't be read."""
    try:
        with _opened(path, str(path)) as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"There is no image file {path}.", "Check the path.") from None
    except OSError as error:
        raise ImageError(f"The image {path} can't be read: {error.strerror}.", "Check the file.") from None


def full_size(image: Image.Image) -> tuple[int, int]:
    """The full (height, width) of an image, even if `decode_image` decoded it at a smaller size."""
    # Pillow copies `info` to crops and scaled copies, whose size no longer matches. And a file's own metadata can put
    # any text under any key.
    sizes = image.info.get(_SIZES)
    width, height = sizes.full if isinstance(sizes, _Sizes) and sizes.decoded == image.size else image.size
    return height, width


def list_images(path: str | Path) -> list[Path]:
    """The image file `path`, or all image files in the folder `path` and its subfolders, sorted by name ("2" < "10").

    In a folder, hidden files and files without a common image extension are ignored; a single file is accepted whatever
    its extension. Raises `UserError` if the path doesn't exist or the folder has no images.
    """
    path = existing(str(path))
    if not path.is_dir():
        return [path]
    images = [file for file in walk(path) if is_image(file) and not is_hidden(file, path)]
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"No images in the folder {path}.", f"Files with these extensions count as images: {suffixes}.")
    return images


def suffix_of(path: Path | str) -> str:
    """The extension of a file's name in lower case, with its dot; empty if there is none."""
    name = (
        path if isinstance(path, str) else path.name
    )  # twice as fast as `os.path.splitext`, which is called per image
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def is_image(path: Path | str) -> bool:
    """Whether `path` has the extension of an image file that can be read."""
    suffix = suffix_of(path)
    return suffix in IMAGE_SUFFIXES or (suffix in HEIF_SUFFIXES and reads_heif())


def is_unreadable_image(path: Path | str) -> bool:
    """Whether `path` has the extension of an image of a kind that can't be read here."""
    suffix = suffix_of(path)
    return suffix in UNREADABLE_SUFFIXES or (suffix in HEIF_SUFFIXES and not reads_heif())


@cache
def reads_heif() -> bool:
    """Whether pillow-heif is installed. If it is, Pillow reads its formats from now on."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    register_heif_opener()
    return True


def _opened(source: bytes | Path, name: str) -> BinaryIO:
    if isinstance(source, Path) and source.exists() and not source.is_file():  # opening a pipe would block forever
        raise ImageError(f"{name} isn't a file.", "Give the path of an image file.")
    if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
        raise ImageError(f"The image {name} is empty (0 bytes).", "Download it again or remove it.")
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


class _Quiet:
    """Suppresses warnings while any thread is decoding.

    Pillow warns about image sizes, which are checked here, and about damaged tags, which need no action.
    `catch_warnings` alone changes the state of the process and isn't thread-safe.
    """

    def __init__(self) -> None:
        self._lock, self._decoding, self._caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._decoding += 1
            if self._decoding == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._decoding -= 1
            if self._decoding == 0:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()


def _decode(
    stream: BinaryIO,
    name: str,
    max_pixels: int,
    enough: Enough | None,
    look: Callable[[Image.Image], object] | None,
) -> Image.Image:
    with _quiet, Image.open(stream) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"The image {name} has {width} x {height} pixels, more than the limit of {max_pixels:,}.",
                "Scale it down.",
            )
        if look:
            look(image)
        is_jpeg = image.format in ("JPEG", "MPO")  # the formats that can be decoded at a reduced size
        if enough and is_jpeg:
            sideways = _transposition(image) in _SIDEWAYS
            least_height, least_width = enough(*((width, height) if sideways else (height, width)))
            image.draft(None, (least_height, least_width) if sideways else (least_width, least_height))
        image.load()
        # Read the tag after loading, because Pillow's TIFF decoder turns the image itself and drops the tag.
        transposition = _transposition(image)
        upright = _to_rgb(image) if transposition is None else _to_rgb(image).transpose(transposition)
        if is_jpeg:
            full = (height, width) if transposition in _SIDEWAYS else (width, height)
            upright.info[_SIZES] = _Sizes(upright.size, full)
        return upright


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright according to its orientation tag."""
    orientation = None
    with suppress(Exception):  # a damaged tag is no reason to refuse the image
        orientation = image.getexif().get(_ORIENTATION_TAG)
    return _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    # No copy is needed: a loaded image keeps its pixels when its file is closed. Copying a large image would take a
    # fifth of its decoding time.
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
