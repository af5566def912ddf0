"""Tiles handed out as they are stored: another decoder must see the same pixels, and nothing else travels with them."""

from __future__ import annotations

import io

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_vmamba.errors import BadTileError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.encoded import EncodedTiles

TILE = 64


def smooth(width, height):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2 % 256, y * 2 % 256, np.full_like(x, 60)], -1).astype(np.uint8)


def write(path, pixels, *, photometric="ycbcr", **options):
    """A tiled TIFF; JPEG of colours is YCbCr, or RGB that does not say so, as Aperio writes it."""
    if photometric == "rgb" and options.get("compression", "jpeg") == "jpeg":
        return write_tiles(path, _encoded(pixels), pixels.shape, photometric="rgb", **options)
    photometric = "rgb" if photometric == "ycbcr" else photometric  # tifffile turns it into YCbCr itself
    options = {"compression": "jpeg", "compressionargs": {"level": 95}, **options}
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, tile=(TILE, TILE), photometric=photometric, metadata=None, **options)
    return path


def write_tiles(path, tiles, shape, **options):
    """A tiled TIFF of JPEG data that are encoded already."""
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            iter(tiles),
            shape=shape,
            dtype=np.uint8,
            tile=(TILE, TILE),
            metadata=None,
            compression=7,
            **options,
        )
    return path


def _encoded(pixels):
    height, width = pixels.shape[:2]
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            part = np.ascontiguousarray(pixels[y : y + TILE, x : x + TILE])
            data = imagecodecs.jpeg8_encode(part, level=95, colorspace="RGB", outcolorspace="RGB")
            yield _unmarked(data)


def _unmarked(data):
    """A JPEG without the segments that say what its components are, and with identifiers that do not either."""
    at, kept = 2, data[:2]
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4])
        kept += b"" if data[at + 1] in (0xE0, 0xEE) else data[at : at + length]
        at += length
    whole = bytearray(kept + data[at:])
    frame, scan = whole.index(b"\xff\xc0"), whole.index(b"\xff\xda")
    for number in range(3):
        whole[frame + 10 + 3 * number] = whole[scan + 5 + 2 * number] = number + 1
    return bytes(whole)


def tiles_of(path):
    """The data of the tiles of a TIFF."""
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        return [content[o : o + n] for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]


def seen(data):
    """What a browser's decoder, which goes by the markers alone, makes of it."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def stored(slide, column=0, row=0):
    return slide.read_region(x_l0=column * TILE, y_l0=row * TILE, level=0, width_px=TILE, height_px=TILE)


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_a_passed_tile_has_the_colours_that_the_reader_gives(tmp_path, photometric):
    # Without APP14 a decoder takes three components for YCbCr: RGB tiles would be green and pink.
    with open_slide(write(tmp_path / "a.tif", smooth(192, 128), photometric=photometric)) as slide:
        assert isinstance(slide, EncodedTiles)
        data = slide.encoded_tile(level=0, column=1, row=0)
        np.testing.assert_allclose(seen(data), stored(slide, 1).astype(int), atol=2)


def test_a_grey_tile_is_passed_as_grey(tmp_path):
    grey = smooth(128, 128)[..., 0]
    with open_slide(write(tmp_path / "a.tif", grey, photometric="minisblack")) as slide:
        np.testing.assert_allclose(
            seen(slide.encoded_tile(level=0, column=1, row=1)), stored(slide, 1, 1), atol=1
        )


def test_shared_tables_are_merged_in(tmp_path):
    """As Aperio and vips write them: tables in a tag, tiles without."""
    data = tiles_of(write(tmp_path / "a.tif", smooth(128, 64)))
    split = [_split(each) for each in data]
    abbreviated = [b"\xff\xd8" + rest for _, rest in split]
    tables = b"\xff\xd8" + split[0][0] + b"\xff\xd9"
    write_tiles(
        tmp_path / "b.tif",
        abbreviated,
        (64, 128, 3),
        photometric="ycbcr",
        jpegtables=tables,
        subsampling=(2, 2),
    )
    with open_slide(tmp_path / "b.tif") as slide:
        passed = slide.encoded_tile(level=0, column=1, row=0)
        assert b"\xff\xc4" in passed
        np.testing.assert_allclose(seen(passed), stored(slide, 1).astype(int), atol=2)


def _split(data):
    """Tables of a JPEG, and the rest of it."""
    tables, rest, at = b"", b"", 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4])
        part = data[at : at + length]
        tables, rest = (tables + part, rest) if data[at + 1] in (0xDB, 0xC4) else (tables, rest + part)
        at += length
    return tables, rest + data[at:]


def test_a_tile_that_says_ycbcr_and_is_rgb_is_shown_as_rgb(tmp_path):
    """The tag of the TIFF wins, as in the reader: JFIF's mark is taken out."""
    (tile,) = tiles_of(write(tmp_path / "a.tif", smooth(64, 64), photometric="rgb"))
    jfif = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    path = write_tiles(tmp_path / "b.tif", [tile[:2] + jfif + tile[2:]], (64, 64, 3), photometric="rgb")
    with open_slide(path) as slide:
        data = slide.encoded_tile(level=0, column=0, row=0)
        assert b"JFIF" not in data
        np.testing.assert_allclose(seen(data), stored(slide).astype(int), atol=2)


def test_the_colour_profile_is_carried_and_a_long_one_in_parts(tmp_path):
    profile = bytes(range(256)) * 300
    path = write(tmp_path / "a.tif", smooth(64, 64), extratags=[(34675, 7, len(profile), profile, True)])
    with open_slide(path) as slide:
        assert slide.icc_profile == profile
        assert (
            Image.open(io.BytesIO(slide.encoded_tile(level=0, column=0, row=0))).info["icc_profile"]
            == profile
        )


def test_neither_turns_nor_texts_travel_with_a_tile(tmp_path):
    """A browser turns a picture by its EXIF; a comment may name a patient."""
    folder = tmp_path / "HE_files" / "6"
    folder.mkdir(parents=True)
    (tmp_path / "HE.dzi").write_text(
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" TileSize="64">'
        '<Size Height="64" Width="64"/></Image>'
    )
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(smooth(64, 64)).save(folder / "0_0.jpg", quality=95, exif=exif, comment=b"Jane Doe")
    with open_slide(tmp_path / "HE.dzi") as slide:
        data = slide.encoded_tile(level=0, column=0, row=0)
    assert b"Jane" not in data
    assert b"Exif" not in data
    np.testing.assert_allclose(seen(data), smooth(64, 64).astype(int), atol=6)


def test_a_padded_tile_at_the_edge_is_not_passed(tmp_path):
    with open_slide(write(tmp_path / "a.tif", smooth(100, 64))) as slide:
        assert slide.encoded_tile(level=0, column=0, row=0) is not None
        assert slide.encoded_tile(level=0, column=1, row=0) is None


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "deflate", "compressionargs": None, "photometric": "rgb"},
        {"photometric": "miniswhite"},
    ],
    ids=["no JPEG", "white is zero"],
)
def test_what_no_browser_would_show_rightly_is_decoded(tmp_path, options):
    pixels = smooth(64, 64)
    pixels = pixels[..., 0] if options["photometric"] == "miniswhite" else pixels
    with open_slide(write(tmp_path / "a.tif", pixels, **options)) as slide:
        assert slide.encoded_tile(level=0, column=0, row=0) is None


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_visible_damage_is_said_and_not_passed(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    path = write(tmp_path / "a.tif", noise)
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content[offset + length - 2 : offset + length] = b"\x12\x34"
    else:
        content[offset + length // 2 : offset + length // 2 + 512] = bytes(512)
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(BadTileError, match="tile") as error:
        slide.encoded_tile(level=0, column=0, row=0)
    assert error.value.box_px == (0, 0, 64, 64)


def test_a_deep_zoom_tile_is_passed_with_what_it_shares(tmp_path):
    picture = smooth(100, 80)
    folder = tmp_path / "HE_files" / "7"
    folder.mkdir(parents=True)
    (tmp_path / "HE.dzi").write_text(
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="1" TileSize="40">'
        '<Size Height="80" Width="100"/></Image>'
    )
    for row in range(2):
        for column in range(3):
            x, y = column * 40, row * 40
            part = picture[max(0, y - 1) : y + 41, max(0, x - 1) : x + 41]
            Image.fromarray(part).save(folder / f"{column}_{row}.jpg", quality=95)
    with open_slide(tmp_path / "HE.dzi") as slide:
        assert slide.tile_overlap_px == 1
        data = slide.encoded_tile(level=0, column=1, row=0)
        np.testing.assert_allclose(seen(data), picture[0:41, 39:81].astype(int), atol=8)
        Image.fromarray(picture[:30, :30]).save(folder / "0_0.jpg")
        with pytest.raises(BadTileError, match="30 x 30"):
            slide.encoded_tile(level=0, column=0, row=0)


def test_a_closed_slide_hands_nothing_out(tmp_path):
    slide = open_slide(write(tmp_path / "a.tif", cv2.resize(smooth(64, 64), (64, 64))))
    slide.close()
    with pytest.raises(OSError, match="closed"):
        slide.encoded_tile(level=0, column=0, row=0)
