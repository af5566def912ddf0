"""WebP, Zstandard, JPEG XL, JPEG XR, LERC and LZMA tiles: the right pixels, or damage that is named."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.jpegxr import _DECODER, decode_jpegxr
from wsi_vmamba.slide.picture_codecs import JPEG_XL, JPEG_XR, LERC, WEBP, decode_picture
from wsi_vmamba.slide.tolerant import TolerantSlide

LOSSLESS = {
    "webp": {"lossless": True},
    "zstd": {},
    "jpegxl": {"lossless": True},
    "jpegxr": {},
    "lerc": {},
    "lzma": {},
}
NAMES = {
    "webp": "WebP",
    "zstd": "Zstandard",
    "jpegxl": "JPEG XL",
    "jpegxr": "JPEG XR",
    "lerc": "LERC",
    "lzma": "LZMA",
}
CODECS = pytest.mark.parametrize("codec", LOSSLESS)
ENCODE = {
    WEBP: lambda pixels: imagecodecs.webp_encode(pixels, lossless=True),
    JPEG_XL: lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True),
    JPEG_XR: imagecodecs.jpegxr_encode,
    LERC: imagecodecs.lerc_encode,
}
PICTURE_CODECS = pytest.mark.parametrize("compression", ENCODE)


@pytest.fixture(scope="module")
def speckled() -> np.ndarray:
    """300 x 200 px whose tiles need some kilobytes each in every codec."""
    y, x = np.mgrid[:200, :300]
    noise = np.random.default_rng(0).integers(0, 8, (200, 300, 3))
    return (np.stack([x % 251, y % 241, (x + y) % 256], axis=-1) ^ noise).astype(np.uint8)


def write(path: Path, picture: np.ndarray, codec: str, **options: object) -> Path:
    options = {"photometric": "rgb" if picture.ndim == 3 else "minisblack", "tile": (64, 64), **options}
    tifffile.imwrite(path, picture, compression=codec, compressionargs=LOSSLESS[codec], **options)
    return path


def whole(slide) -> np.ndarray:
    level = slide.levels[0]
    return slide.read_region(x_l0=0, y_l0=0, level=0, width_px=level.width_px, height_px=level.height_px)


def tile(path: Path, index: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tif:
        return tif.pages[0].dataoffsets[index], tif.pages[0].databytecounts[index]


@CODECS
@pytest.mark.parametrize("options", [{}, {"tile": None, "rowsperstrip": 33}, {"tile": (80, 112)}], ids=str)
def test_the_stored_pixels_come_back(tmp_path, speckled, codec, options):
    with open_slide(write(tmp_path / "a.tif", speckled, codec, **options)) as slide:
        assert slide.reader == "tiff"
        assert slide.properties["codec"] == NAMES[codec]
        np.testing.assert_array_equal(whole(slide), speckled)
        part = slide.read_region(x_l0=100, y_l0=50, level=0, width_px=90, height_px=70)
    np.testing.assert_array_equal(part, speckled[50:120, 100:190])


@pytest.mark.parametrize("codec", ["zstd", "jpegxl", "jpegxr", "lerc", "lzma"])
def test_grey(tmp_path, speckled, codec):
    with open_slide(write(tmp_path / "a.tif", speckled[..., 0], codec)) as slide:
        np.testing.assert_array_equal(whole(slide), np.repeat(speckled[..., :1], 3, axis=2))


@pytest.mark.parametrize("codec", ["zstd", "lzma"])
def test_differences_along_rows(tmp_path, speckled, codec):
    with open_slide(write(tmp_path / "a.tif", speckled, codec, predictor=True)) as slide:
        np.testing.assert_array_equal(whole(slide), speckled)


@pytest.mark.parametrize(
    ("codec", "options", "most"),
    [
        ("webp", {"level": 95, "lossless": False}, 40),
        ("jpegxl", {"distance": 0.5}, 25),
        ("jpegxr", {"level": 0.95}, 25),
    ],
)
def test_lossy_pictures_are_near(tmp_path, coordinates, codec, options, most):
    y, x = np.mgrid[:200, :300]
    smooth = np.stack([x // 2 + 40, y + 20, (x + y) // 3 + 30], axis=-1).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        smooth,
        photometric="rgb",
        tile=(64, 64),
        compression=codec,
        compressionargs=options,
    )
    with open_slide(tmp_path / "a.tif") as slide:
        difference = np.abs(whole(slide).astype(int) - smooth)
    assert 0 < difference.max() <= most
    assert difference.mean() < 2


@pytest.mark.parametrize("inner", ["deflate", "zstd"])
def test_lerc_packed_once_more(tmp_path, speckled, inner):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        speckled,
        photometric="rgb",
        tile=(64, 64),
        compression="lerc",
        compressionargs={"compression": inner},
    )
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].tags["LercParameters"].value[1] == {"deflate": 1, "zstd": 2}[inner]
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole(slide), speckled)


def test_lerc_packed_in_something_unknown_is_damage_of_the_directory(tmp_path, speckled):
    path = write(tmp_path / "a.tif", speckled, "lerc")
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags["LercParameters"].valueoffset
    data = bytearray(path.read_bytes())
    data[place + 4] = 9
    path.write_bytes(data)
    with pytest.raises(UnreadableSlideError, match="LercParameters"):
        open_slide(path)


def test_lerc_without_a_value_somewhere_is_no_picture(speckled):
    part = speckled[:64, :64]
    data = imagecodecs.lerc_encode(part, masks=part[..., 0] > 20)
    with pytest.raises(DamagedTileError, match="marked as having no value"):
        decode_picture(data, LERC, height_px=64, width_px=64, samples=3)


@CODECS
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_tile_cut_short_is_damage_and_the_others_are_read(tmp_path, speckled, codec, share):
    """Cut by its byte count, as an interrupted writer leaves it."""
    path = write(tmp_path / "a.tif", speckled, codec)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags["TileByteCounts"]
    width = tag.valuebytecount // tag.count
    place = tag.valueoffset + 6 * width  # column 1, row 1
    data = bytearray(path.read_bytes())
    count = int.from_bytes(data[place : place + width], "little")
    data[place : place + width] = max(1, int(count * share)).to_bytes(width, "little")
    path.write_bytes(data)
    with (
        open_slide(path) as slide,
        pytest.raises(
            BadTileError, match=rf"level 0, tile \(col, row\) \(1, 1\): .*({NAMES[codec]}|expected)"
        ),
    ):
        whole(slide)
    with TolerantSlide(open_slide(path)) as slide:
        found = whole(slide)
        assert [(area.x_px, area.y_px) for area in slide.damage(0)] == [(64, 64)]
    right = speckled.copy()
    right[64:128, 64:128] = 255
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("codec", ["jpegxl", "lerc", "lzma"])
def test_a_lost_sector_is_damage(tmp_path, speckled, codec):
    """512 zeros inside a tile. WebP and JPEG XR have nothing to notice them by: both may hold longer runs of zeros."""
    path = write(tmp_path / "a.tif", speckled, codec)
    offset, count = tile(path, 6)
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count // 2 + 512] = bytes(512)
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(BadTileError, match=r"\(1, 1\)"):
        whole(slide)


@PICTURE_CODECS
@pytest.mark.parametrize("shape", [(64, 65, 3), (65, 64, 3), (32, 32, 3), (64, 64)])
def test_another_size_than_the_tile_is_damage(speckled, compression, shape):
    if compression == WEBP and len(shape) == 2:
        pytest.skip("WebP is never grey")
    stored = speckled[: shape[0], : shape[1]]
    data = ENCODE[compression](np.ascontiguousarray(stored if len(shape) == 3 else stored[..., 0]))
    with pytest.raises(DamagedTileError):
        decode_picture(data, compression, height_px=64, width_px=64, samples=3)


@PICTURE_CODECS
@pytest.mark.parametrize("data", [b"", b"\0", b"II\xbc\1", b"RIFF", b"RIFF\xff\xff\xff\xffWEBP", bytes(500)])
def test_data_of_no_kind_are_damage(compression, data):
    with pytest.raises((DamagedTileError, RuntimeError)):
        decode_picture(data, compression, height_px=64, width_px=64, samples=3)


def test_a_tile_that_ends_the_decoder_of_jpeg_xr_ends_nothing_else(coordinates):
    part = coordinates(256, 256)
    sound = imagecodecs.jpegxr_encode(part)
    ended = 0
    for seed in (213, 589, 873, 947, 1341):  # of damages drawn like this, with which jxrlib divides by zero
        random = np.random.default_rng(seed)
        damaged = bytearray(sound)
        for _ in range(3):
            damaged[random.integers(8, 220)] = random.integers(256)
        try:
            decode_jpegxr(bytes(damaged), height_px=256, width_px=256, samples=3)
        except DamagedTileError as error:
            ended += "stopped their decoder" in str(error)
    assert ended
    np.testing.assert_array_equal(decode_jpegxr(sound, height_px=256, width_px=256, samples=3), part)


def test_the_decoder_of_jpeg_xr_is_started_again_after_it_was_killed(speckled):
    part = np.ascontiguousarray(speckled[:64, :64])
    sound = imagecodecs.jpegxr_encode(part)
    decode_jpegxr(sound, height_px=64, width_px=64, samples=3)
    process = _DECODER._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(DamagedTileError, match="stopped their decoder"):
        decode_jpegxr(sound, height_px=64, width_px=64, samples=3)
    np.testing.assert_array_equal(decode_jpegxr(sound, height_px=64, width_px=64, samples=3), part)


def test_a_jpeg_xr_directory_that_points_out_of_the_data_is_damage(speckled):
    data = bytearray(imagecodecs.jpegxr_encode(np.ascontiguousarray(speckled[:64, :64])))
    data[4:8] = struct.pack("<I", len(data) + 5)
    with pytest.raises(DamagedTileError, match="directory of JPEG XR data"):
        decode_jpegxr(bytes(data), height_px=64, width_px=64, samples=3)


@pytest.mark.real_slides
def test_a_real_webp_file_is_near_the_jpeg_of_the_same_slide(real_data):
    folder = real_data / "vendor"
    pictures = []
    for name in ("webp", "jpeg"):
        with open_slide(folder / f"CMU-1-Small-Region.{name}.tiff") as slide:
            assert slide.reader == "tiff"
            pictures.append(whole(slide).astype(int))
    assert pictures[0].shape == (2967, 2220, 3)
    difference = np.abs(pictures[0] - pictures[1])
    assert difference.mean() < 6  # both are lossy
    # Tiles at another place would differ by far more.
    assert difference.mean() < np.abs(pictures[0][:, 256:] - pictures[1][:, :-256]).mean() / 5
