"""A decoded image is what a person would see; anything else is reported in one sentence that names the file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.data import decode_image, list_images
from lensmith.data.images import Enough, full_size, is_image
from lensmith.errors import ImageError, UserError
from lensmith.models.base import Model
from lensmith.models.views import shape_of
from tests.data.pictures import png, write
from tests.models import checkpoints
from tests.models.pictures import picture

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = decode_image(data, name="photo")
    assert image.mode == "RGB"
    return image


def near(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int], by: int = 6) -> bool:
    pixel = image.getpixel(at)
    assert isinstance(pixel, tuple)
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def half_red(mode: str = "RGB") -> Image.Image:
    """16 x 8: red on the left, green on the right."""
    image = Image.new("RGB", (16, 8), RED)
    image.paste(GREEN, (8, 0, 16, 8))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("orientation", "size", "red", "green"),
    [
        (1, (16, 8), (2, 4), (13, 4)),
        (2, (16, 8), (13, 4), (2, 4)),
        (3, (16, 8), (13, 4), (2, 4)),
        (4, (16, 8), (2, 4), (13, 4)),
        (5, (8, 16), (4, 2), (4, 13)),
        (6, (8, 16), (4, 2), (4, 13)),
        (7, (8, 16), (4, 13), (4, 2)),
        (8, (8, 16), (4, 13), (4, 2)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_tag_turns_the_image_upright_once(
    kind: str, orientation: int, size: tuple[int, int], red: tuple[int, int], green: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decoded(encoded(half_red(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})))
    assert image.size == size
    assert near(image, red, RED, 40)
    assert near(image, green, GREEN, 40)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_blended_onto_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    kind = "TIFF" if mode == "PA" else "PNG"
    out = decoded(encoded(image.convert(mode), kind))
    assert near(out, (0, 0), WHITE)
    assert near(out, (1, 0), (0, 0, 0))


def test_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 255, 0, 0])
    image.putpixel((1, 0), 1)
    out = decoded(encoded(image, transparency=0))
    assert near(out, (0, 0), WHITE)
    assert near(out, (1, 0), RED)
    assert near(decoded(encoded(image)), (0, 0), (10, 20, 30)), "without transparency the colour itself shows"


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I", "TIFF")])
def test_sixteen_bits_are_scaled_not_clipped(mode: str, kind: str) -> None:
    values = np.array([[0, 257 * 100, 65535]])
    types = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}
    image = Image.frombytes(mode, (3, 1), values.astype(types[mode]).tobytes())
    out = decoded(encoded(image, kind))
    assert [out.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (100, 100, 100), WHITE]


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floating_point_range_is_taken_from_the_largest_value(top: float) -> None:
    values = np.array([[0.0, top * 0.5, top, float("nan")]], dtype=np.float32)
    out = decoded(encoded(Image.fromarray(values), "TIFF"))
    assert [out.getpixel((x, 0)) for x in range(4)] == [(0, 0, 0), (128, 128, 128), WHITE, (0, 0, 0)]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow make red
    out = decoded(encoded(image, kind))
    assert near(out, (4, 4), (255, 0, 0), 12)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_black_and_white(mode: str) -> None:
    assert decoded(encoded(Image.new(mode, (1, 1), 255))).getpixel((0, 0)) == WHITE


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    assert near(decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])), (1, 1), RED)


JPEG = encoded(Image.effect_noise((64, 64), 90), "JPEG")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:20], "isn't an image"),
        (png(1)[:-30], "truncated"),
        (b"to be a cat", "isn't an image"),
        (png_header(50_000, 50_000), "too large|limit"),
        (png_header(10_001, 10_000), "10001 x 10000 pixels"),
        (b"P5 4 4 255\n123", "truncated"),
    ],
    ids=["empty", "half a JPEG", "JPEG header", "cut PNG", "text", "bomb", "just over", "short PNM"],
)
@pytest.mark.parametrize("by", ["bytes", "path"])
def test_an_invalid_image_is_one_error_that_names_it(tmp_path: Path, data: bytes, says: str, by: str) -> None:
    path = tmp_path / "Ma photo é.jpg"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's warnings must not leak
        with pytest.raises(ImageError, match=says) as caught:
            decode_image(data if by == "bytes" else path, name=str(path))
    assert str(path) in caught.value.what
    assert "\n" not in str(caught.value)


def test_the_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="4 x 4"):
        decode_image(png(1), name="x", max_pixels=15)


def test_the_limit_may_be_higher_than_pillows_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="truncated"):
            decode_image(png_header(9_900, 9_900), name="x")


@pytest.fixture(scope="module", params=[None, 16])
def photo_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """LFM2-VL's settings with small tiles, so that small images are tiled; and with untiled images of 16 tokens."""
    small = {"tile_size": 128, "min_image_tokens": 4, "max_image_tokens": 16}
    folder = checkpoints.make("lfm2_vl", tmp_path_factory.mktemp("photo") / "model", **small)
    return models.load_base(ModelOptions(base=str(folder), dtype="float32", device="cpu", image_tokens=request.param))


PHOTO = picture(1504, 1000, 1)


def within(longest: int) -> Enough:
    """An image may be decoded with its longest side at `longest` pixels."""
    return lambda height, width: (height * longest // max(height, width), width * longest // max(height, width))


@pytest.mark.parametrize(("longest", "size"), [(1504, (1504, 1000)), (752, (752, 500)), (753, (1504, 1000)),
                                               (300, (376, 250)), (2, (188, 125))])  # fmt: skip
def test_a_large_jpeg_is_decoded_no_smaller_than_enough(longest: int, size: tuple[int, int]) -> None:
    data = encoded(PHOTO, "JPEG", quality=90, subsampling=0)
    image = decode_image(data, name="photo", enough=within(longest))
    assert image.size == size
    assert full_size(image) == (1000, 1504)
    full = np.asarray(decoded(data).resize(image.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(image) - full).mean() < 1


def test_the_full_size_is_the_upright_one() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    calls: list[tuple[int, int]] = []

    def enough(height: int, width: int) -> tuple[int, int]:
        calls.append((height, width))
        return 700, 400  # a half is 752 x 500

    image = decode_image(encoded(PHOTO, "JPEG", exif=exif), name="photo", enough=enough)
    assert calls == [(1504, 1000)]
    assert image.size == (500, 752)
    assert full_size(image) == (1504, 1000)


def test_other_formats_are_decoded_at_full_size() -> None:
    image = decode_image(encoded(PHOTO), name="photo", enough=within(2))
    assert image.tobytes() == PHOTO.tobytes()
    assert full_size(image) == (1000, 1504)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(1504, 1000), (2400, 704), (904, 1304)], ids=str)
def test_a_model_is_shown_almost_the_same_from_a_shrunk_image(
    photo_model: Model, size: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Soft, because at hard edges and in fine patterns the two ways of scaling differ: see `decode_image`. The size must
    # be divisible: otherwise the last row is less than a pixel, but counts as one.
    soft = Image.fromarray(np.random.default_rng(2).integers(64, 192, (6, 4, 3), dtype=np.uint8))
    data = encoded(soft.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90, exif=exif)
    shrunk = decode_image(data, name="photo", enough=photo_model.sufficient_size)
    assert shrunk.size[0] < decoded(data).size[0], "otherwise there is nothing to compare"
    from_shrunk, from_full = photo_model.prepare(shrunk), photo_model.prepare(decoded(data))
    assert shape_of(from_shrunk) == shape_of(from_full)
    for one, other in zip(from_shrunk, from_full, strict=True):
        apart = (one.int() - other.int()).abs()
        assert apart.max() <= 4
        assert apart.double().mean() < 1


def test_pillows_settings_are_left_unchanged() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]
    decode_image(png(1), name="x", max_pixels=10**9)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters) == before


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image file"):
        decode_image(tmp_path / "a.png", name="a.png")
    with pytest.raises(ImageError, match="isn't a file"):
        decode_image(tmp_path, name="folder")


def test_list_images_sorts_naturally_and_searches_subfolders(tmp_path: Path) -> None:
    for name in ["10.png", "2.png", "b/1.JPG", ".hidden.png", ".git/x.png", "notes.txt"]:
        write(tmp_path / name, 1)
    assert [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)] == ["2.png", "10.png", "b/1.JPG"]
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"], (
        "a single file is accepted whatever its extension"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No images"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="No such"):
        list_images(tmp_path / "gone")


def test_list_images_survives_a_link_to_its_own_parent(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    other = tmp_path.parent / f"{tmp_path.name} other"
    write(other / "b.png", 2)
    (tmp_path / "linked").symlink_to(other, target_is_directory=True)
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.png"]


def test_metadata_in_a_file_is_not_mistaken_for_a_size(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    for key in ("full_size", "lensmith sizes"):
        note.add_text(key, "no size at all")
    Image.new("RGB", (30, 20)).save(tmp_path / "noted.png", pnginfo=note)
    assert full_size(decode_image(tmp_path / "noted.png", name="noted")) == (20, 30)


def test_a_cropped_image_has_the_size_of_the_crop(tmp_path: Path) -> None:
    Image.new("RGB", (800, 600)).save(tmp_path / "large.jpg")
    image = decode_image(tmp_path / "large.jpg", name="large", enough=lambda *_: (150, 200))
    assert (image.size, full_size(image)) == ((200, 150), (600, 800))
    assert full_size(image.crop((0, 0, 50, 40))) == (40, 50)


def test_photos_of_phones_are_read_if_their_library_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pip install 'lensmith[heic]'")
    photo = tmp_path / "IMG_1.HEIC"
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 40, 10))).save(photo)
    assert is_image(photo)
    image = decode_image(photo, name="IMG_1")
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(image, dtype=int) - (200, 40, 10)).max() < 12
    monkeypatch.setattr("lensmith.data.images.reads_heif", lambda: False)
    assert not is_image(photo)
    photo.write_bytes(b"no photo")
    with pytest.raises(ImageError, match=r"pip install 'lensmith\[heic\]'"):
        decode_image(photo, name="IMG_1.HEIC")
