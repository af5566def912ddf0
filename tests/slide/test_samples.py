"""What the samples of a TIFF mean: RGB tagged grey, a fourth sample, and what is refused and not guessed."""

from __future__ import annotations

import struct

import numpy as np
import openslide
import pytest
import tifffile
import zarr

from wsi_vmamba.errors import BadTileError, UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.tiff.slide import TiffSlide

LAYOUTS = [
    {"tile": (64, 64)},
    {"tile": (64, 64), "compression": "deflate", "predictor": True},
    {"rowsperstrip": 20},
    {"tile": (64, 64), "compression": "webp", "compressionargs": {"lossless": True}},
    {"tile": (64, 64), "compression": "jpeg2000", "compressionargs": {"reversible": True}},
]
PLANES = [{"tile": (64, 64)}, {"rowsperstrip": 20}]


def whole(path, **options):
    with open_slide(path, **options) as slide:
        level = slide.levels[0]
        return slide.read_region(
            x_l0=0, y_l0=0, level=0, width_px=level.width_px, height_px=level.height_px
        ), slide.properties.get("samples", "")


def with_opacity(picture):
    """An opacity beside a picture that has all values, and the picture over white, computed in float64."""
    height, width, _ = picture.shape
    alpha = np.broadcast_to(np.arange(width) % 256, (height, width)).astype(np.uint8)
    share = alpha[..., None] / 255
    return alpha, picture * share + 255 * (1 - share)


# --- RGB tagged grey ---


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_three_samples_tagged_grey_are_rgb(tmp_path, coordinates, options):
    picture = coordinates(150, 130)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="minisblack", planarconfig="contig", **options)
    found, note = whole(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, picture)
    assert note == "tagged grey, read as red, green and blue"


@pytest.mark.parametrize("options", PLANES, ids=str)
@pytest.mark.parametrize("samples", [3, 4])
def test_planes_tagged_grey_are_rgb(tmp_path, coordinates, options, samples):
    picture = coordinates(150, 130)
    stored = np.dstack([picture, np.full(picture.shape[:2], 7, np.uint8)])[..., :samples]
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored.transpose(2, 0, 1),
        photometric="minisblack",
        planarconfig="separate",
        **options,
    )
    found, note = whole(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, picture)
    assert note.startswith("tagged grey, read as")


def test_four_samples_tagged_grey_with_opacity_lie_over_white(tmp_path, coordinates):
    picture = coordinates(150, 130)
    alpha, right = with_opacity(picture)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([picture, alpha]), photometric="minisblack", planarconfig="contig",
        extrasamples=[0, 0, 2], tile=(64, 64),
    )  # fmt: skip
    assert np.abs(whole(tmp_path / "a.tif")[0] - right).max() <= 0.51


def test_the_case_as_it_came_is_no_longer_grey_through_openslide_either(tmp_path, coordinates):
    tifffile.imwrite(
        tmp_path / "a.tif",
        coordinates(150, 130),
        photometric="minisblack",
        planarconfig="contig",
        tile=(64, 64),
    )
    with pytest.raises(UnsupportedSlideError, match="interpretation 1 of 3 samples"):
        open_slide(tmp_path / "a.tif", reader="openslide")


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((130, 150, 3), {"photometric": "minisblack", "compression": "jpeg"}, "JPEG tagged as grey with 3 samples"),
        ((130, 150, 3), {"photometric": "miniswhite"}, "interpretation 0 of 3 samples"),
        ((130, 150, 2), {"photometric": "minisblack"}, "found 2 samples per pixel"),
        ((130, 150, 5), {"photometric": "minisblack"}, "found 5 samples per pixel"),
        ((130, 150, 6), {"photometric": "rgb"}, "found 6 samples per pixel"),
        (
            (130, 150, 3),
            {"photometric": "minisblack", "extratags": [(320, "H", 768, tuple(range(768)), True)]},
            "tagged grey and a colour map",
        ),
    ],
)  # fmt: skip
def test_samples_that_could_be_anything_are_refused(tmp_path, shape, options, words):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros(shape, np.uint8), planarconfig="contig", tile=(64, 64), **options
    )
    for reader in (None, "openslide"):
        with pytest.raises(UnsupportedSlideError, match=words if reader is None else None):
            open_slide(tmp_path / "a.tif", reader=reader)


# --- the fourth sample ---


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_straight_and_premultiplied_opacity_lie_over_white(tmp_path, coordinates, options):
    picture = coordinates(150, 130)
    alpha, right = with_opacity(picture)
    premultiplied = np.rint(picture * (alpha[..., None] / 255)).astype(np.uint8)
    for kind, colours in (("unassalpha", picture), ("assocalpha", premultiplied)):
        path = tmp_path / f"{kind}.tif"
        tifffile.imwrite(
            path,
            np.dstack([colours, alpha]),
            photometric="rgb",
            extrasamples=[kind],
            planarconfig="contig",
            **options,
        )
        found, note = whole(path)
        assert np.abs(found - right).max() <= (0.51 if kind == "unassalpha" else 1.01), kind
        assert note == ""


def test_premultiplied_opacity_of_smaller_levels_and_of_openslide(tmp_path, coordinates):
    pictures = [coordinates(256, 192), coordinates(128, 96)]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for number, picture in enumerate(pictures):
            alpha, _ = with_opacity(picture)
            stored = np.dstack([np.rint(picture * (alpha[..., None] / 255)).astype(np.uint8), alpha])
            tif.write(
                stored,
                photometric="rgb",
                extrasamples=["assocalpha"],
                tile=(64, 64),
                subfiletype=number,
                metadata=None,
            )
    with open_slide(path) as native, open_slide(path, reader="openslide") as other:
        for level, picture in enumerate(pictures):
            height, width, _ = picture.shape
            place = {"x_l0": 0, "y_l0": 0, "level": level, "width_px": width, "height_px": height}
            right = with_opacity(picture)[1]
            assert np.abs(native.read_region(**place) - right).max() <= 1.01
            # OpenSlide divides by the opacity and rounds; we multiply again.
            assert np.abs(other.read_region(**place) - right).mean() < 1


@pytest.mark.parametrize("extra", [[0], []], ids=["unspecified", "absent"])
@pytest.mark.parametrize("fourth", ["zeros", "infrared", "full"])
@pytest.mark.parametrize("options", [each for each in LAYOUTS if each.get("compression") != "webp"], ids=str)
def test_a_fourth_sample_of_no_said_meaning_is_left_out(tmp_path, coordinates, options, extra, fourth):
    picture = coordinates(150, 130)
    values = {"zeros": 0 * picture[..., 0], "infrared": picture[..., 0], "full": 0 * picture[..., 0] + 255}[
        fourth
    ]
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.dstack([picture, values]),
        photometric="rgb",
        extrasamples=[0],
        planarconfig="contig",
        **options,
    )
    if not extra:
        drop_tag(path, 338)
    found, note = whole(path)
    np.testing.assert_array_equal(found, picture)
    assert note.startswith("the fourth sample is left out")
    if options == {"tile": (64, 64)}:
        with pytest.raises(
            UnsupportedSlideError, match=r"would take the fourth sample for opacity.*\(0,\)|absent"
        ):
            open_slide(path, reader="openslide")


def test_the_fourth_sample_of_webp_is_opacity_whatever_the_tag_says(tmp_path, coordinates):
    picture = coordinates(150, 130)
    alpha, right = with_opacity(picture)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([picture, alpha]), photometric="rgb", extrasamples=[0], tile=(64, 64),
        compression="webp", compressionargs={"lossless": True},
    )  # fmt: skip
    assert np.abs(whole(tmp_path / "a.tif")[0] - right).max() <= 0.51


def drop_tag(path, code):
    """Make a tag one that nobody knows."""
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags[code].offset
    data = bytearray(path.read_bytes())
    data[place : place + 2] = struct.pack("<H", 65000)
    path.write_bytes(data)


def test_grey_with_opacity_lies_over_white(tmp_path):
    grey, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([grey, alpha]), photometric="minisblack", planarconfig="contig",
        extrasamples=["unassalpha"], tile=(64, 64),
    )  # fmt: skip
    share = alpha / 255
    right = np.repeat((grey * share + 255 * (1 - share))[..., None], 3, axis=2)
    assert np.abs(whole(tmp_path / "a.tif")[0] - right).max() <= 0.51


# --- what no reader reads as what it is ---


@pytest.mark.parametrize("tile", [(64, 64), None])
@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("uint16", "found 16 bits, and the file does not say how many of them are used"),
        ("int8", "found signed ones of 8 bits"),
        ("float32", "found floating-point ones of 32 bits"),
        ("uint32", "found 32 bits"),
    ],
)
def test_other_samples_than_8_bits_are_refused_when_the_slide_is_opened(tmp_path, dtype, words, tile):
    # 12-bit values in 16 bits look the same; OpenSlide shows their upper bytes, all but black.
    picture = np.full((100, 100, 3), 100, dtype)
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", tile=tile)
    with pytest.raises(UnsupportedSlideError, match=words) as caught:
        open_slide(tmp_path / "a.tif")
    assert not isinstance(caught.value, BadTileError)
    assert "scale them to 0 to 255" in str(caught.value)
    with pytest.raises(UnreadableSlideError):
        open_slide(tmp_path / "a.tif", reader="openslide")


def test_zarr_and_tiff_keep_one_rule_for_16_bits(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((100, 100, 3), np.uint16), chunks=(64, 64, 3))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((100, 100, 3), np.uint16), photometric="rgb", tile=(64, 64))
    for name in ("a.zarr", "a.tif"):
        with pytest.raises(UnsupportedSlideError, match="expected 8-bit"):
            open_slide(tmp_path / name)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_and_mirrored_pictures_are_refused(tmp_path, coordinates, orientation):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        coordinates(100, 90),
        photometric="rgb",
        tile=(64, 64),
        extratags=[(274, "H", 1, orientation, True)],
    )
    for reader in (None, "tiff", "openslide"):
        with pytest.raises(UnsupportedSlideError, match=rf"Orientation {orientation}\b.*save it upright"):
            open_slide(path, reader=reader)


@pytest.mark.parametrize("orientation", [0, 1])
def test_upright_pictures_are_read(tmp_path, coordinates, orientation):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        coordinates(100, 90),
        photometric="rgb",
        tile=(64, 64),
        extratags=[(274, "H", 1, orientation, True)],
    )
    np.testing.assert_array_equal(whole(path)[0], coordinates(100, 90))


def test_a_palette_goes_to_openslide_with_the_colours_of_its_map(tmp_path):
    colours = (np.arange(768).reshape(3, 256) * 85 % 65536).astype(np.uint16)
    index = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colours, tile=(64, 64))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.reader == "openslide"
    np.testing.assert_allclose(whole(tmp_path / "a.tif")[0], (colours // 256).T[index], atol=1)


def test_cmyk_goes_to_openslide(tmp_path):
    ink = np.zeros((128, 128, 4), np.uint8)
    ink[..., 0], ink[:64, :, 3] = 255, 128
    tifffile.imwrite(tmp_path / "a.tif", ink, photometric="separated", planarconfig="contig", tile=(64, 64))
    found, _ = whole(tmp_path / "a.tif")
    # Without a colour profile: (255 - ink) * (255 - black) / 255.
    np.testing.assert_allclose(found[0, 0], [0, 127, 127], atol=1)
    np.testing.assert_allclose(found[100, 0], [0, 255, 255], atol=1)


def test_names_of_what_is_not_decoded_are_words(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(64, 64), compression="deflate"
    )
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags[259].valueoffset
    for number, words in (
        (34661, r"compression JBIG \(TIFF number 34661\)"),
        (61234, "with the TIFF number 61234"),
    ):
        data[place : place + 2] = struct.pack("<H", number)
        path.write_bytes(data)
        with pytest.raises(UnsupportedSlideError, match=words):
            open_slide(path)
    with pytest.raises(UnsupportedSlideError):
        TiffSlide(path)
    assert openslide.OpenSlide.detect_format(str(path)) in (None, "generic-tiff")
