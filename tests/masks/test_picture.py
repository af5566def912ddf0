"""Mask pictures as programs write them: read as viewers show them, or refused in words, never the wrong way round."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from wsi_vmamba.errors import MaskError, PictureError
from wsi_vmamba.masks import read_mask
from wsi_vmamba.masks.picture_files import read_picture
from wsi_vmamba.slide.memory import ArraySlide

MARKED = np.zeros((100, 150), np.bool_)
MARKED[20:60, 30:90] = True
WHITE = np.where(MARKED, np.uint8(255), np.uint8(0))


def first(sizes):
    return 0, ()


def marked(path):
    return read_picture(path, choose=first).marked


def refused(path, message):
    with pytest.raises(PictureError, match=message):
        read_picture(path, choose=first)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
def test_white_is_marked_whatever_number_it_has(tmp_path, photometric, dtype):
    top = np.iinfo(dtype).max if dtype is not np.bool_ else True
    stored = (MARKED if photometric == "minisblack" else ~MARKED) * np.array(top, dtype)
    tifffile.imwrite(tmp_path / "s.tif", stored.astype(dtype), photometric=photometric, software="fax")
    np.testing.assert_array_equal(marked(tmp_path / "s.tif"), MARKED)


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_faxes(tmp_path, compression):
    Image.fromarray(MARKED).save(tmp_path / "s.tif", compression=compression, tiffinfo={262: 0})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "s.tif")), MARKED)
    np.testing.assert_array_equal(marked(tmp_path / "s.tif"), MARKED)


def test_a_bool_array_of_tifffile_which_viewers_show_inverted_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", MARKED)
    refused(tmp_path / "s.tif", "whether True or white means marked is not clear; write the array as uint8")
    tifffile.imwrite(tmp_path / "s.tif", MARKED.astype(np.uint8))
    np.testing.assert_array_equal(marked(tmp_path / "s.tif"), MARKED)


def palette_picture(path, indices, colours):
    picture = Image.fromarray(indices.astype(np.uint8)).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path)


BLACK, RED, PAPER = (0, 0, 0), (200, 0, 0), (255, 255, 255)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize(
    ("background", "colours", "outcome"),
    [
        (0, [BLACK, PAPER], "read"),
        (0, [BLACK, RED, PAPER], "read"),
        (0, [PAPER, RED], "read"),  # as labels are painted: what is not named is white
        (0, [PAPER, RED, *[BLACK] * 200], "read"),  # black only where a palette is filled up
        (1, [PAPER, BLACK], "colour 1 of its palette is black and colour 0 is not black"),
        (1, [RED, BLACK], "colour 1 of its palette is black and colour 0 is not black"),
        (0, [PAPER, BLACK], "colour 1 of its palette is black and colour 0 is not black"),
        (0, [BLACK, BLACK], "colour 1 of its palette is black and colour 0 is black too"),
    ],
)
def test_palettes_are_read_where_number_and_colour_agree(tmp_path, suffix, background, colours, outcome):
    path = tmp_path / f"s{suffix}"
    palette_picture(path, np.where(MARKED, 1 - background, background), colours)
    if outcome == "read":
        np.testing.assert_array_equal(marked(path), MARKED)
    else:
        refused(path, outcome)


def test_the_palette_that_pillow_adapts_is_read_or_refused_never_inverted(tmp_path):
    path = tmp_path / "s.png"
    for shown in (WHITE, WHITE // 2, 255 - WHITE):
        rgb = Image.fromarray(np.stack([shown] * 3, -1))
        rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(path)
        try:
            np.testing.assert_array_equal(marked(path), shown != 0)
        except PictureError:
            refused(path, "palette")


def test_a_grey_palette_says_how_bright_each_pixel_is(tmp_path):
    palette_picture(tmp_path / "s.png", MARKED * 1, [BLACK, PAPER])
    np.testing.assert_array_equal(read_picture(tmp_path / "s.png", choose=first).grey, WHITE)
    palette_picture(tmp_path / "s.png", MARKED * 1, [BLACK, RED])
    assert read_picture(tmp_path / "s.png", choose=first).grey is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_are_no_marks_are_refused(tmp_path, value):
    values = MARKED.astype(np.float32)
    values[0, 0] = value
    tifffile.imwrite(tmp_path / "s.tif", values)
    refused(tmp_path / "s.tif", "write 0 where nothing is marked")


def test_nodata_of_signed_numbers_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.where(MARKED, 1, -9999).astype(np.int16))
    refused(tmp_path / "s.tif", "below 0")


def test_a_bmp_of_eight_bits_that_pillow_takes_for_one(tmp_path):
    path = tmp_path / "s.bmp"
    palette_picture(path, MARKED * 1, [BLACK, PAPER])
    assert path.read_bytes()[28] == 8
    with Image.open(path) as picture:
        assert picture.mode == "1"
    np.testing.assert_array_equal(read_picture(path, choose=first).grey, WHITE)


def test_sixteen_bits_of_colour_are_not_cut_to_eight(tmp_path):
    import imagecodecs

    labels = np.stack([MARKED * 1] * 3, -1).astype(np.uint16)  # Pillow reads label 1 as 0
    assert not np.asarray(_saved_png(tmp_path / "s.png", imagecodecs.png_encode(labels))).any()
    np.testing.assert_array_equal(marked(tmp_path / "s.png"), MARKED)


def _saved_png(path, content):
    path.write_bytes(content)
    with Image.open(path) as picture:
        return picture.copy()


@pytest.mark.parametrize("kind", ["rgba", "la", "key"])
def test_opacity_that_contradicts_the_colours_is_refused(tmp_path, kind):
    opacity = WHITE
    if kind == "rgba":  # transparent white around red, as editors leave it
        colour = np.where(MARKED[..., None], np.uint8([200, 0, 0]), np.uint8([255, 255, 255]))
        Image.fromarray(np.dstack([colour, opacity])).save(tmp_path / "s.png")
    elif kind == "la":
        Image.fromarray(np.dstack([np.full_like(WHITE, 255), opacity])).save(tmp_path / "s.png")
    else:
        Image.fromarray(np.where(MARKED, np.uint8(9), np.uint8(255))).save(
            tmp_path / "s.png", transparency=255
        )
    refused(tmp_path / "s.png", "12600 pixels have a colour and are transparent")


def test_a_mask_in_opacity_alone_is_refused(tmp_path):
    Image.fromarray(np.dstack([np.zeros_like(WHITE)] * 3 + [WHITE])).save(tmp_path / "s.png")
    refused(tmp_path / "s.png", "only opacity differs")


def test_opacity_that_agrees_is_harmless(tmp_path):
    Image.fromarray(np.dstack([WHITE, WHITE, WHITE, WHITE])).save(tmp_path / "s.png")
    np.testing.assert_array_equal(marked(tmp_path / "s.png"), MARKED)
    tifffile.imwrite(
        tmp_path / "s.tif", np.stack([WHITE] * 4), photometric="rgb", planarconfig="separate",
        extrasamples=["unassalpha"],
    )  # fmt: skip
    np.testing.assert_array_equal(marked(tmp_path / "s.tif"), MARKED)


def test_channels_that_the_file_does_not_explain_are_refused(tmp_path):
    bands = np.dstack([WHITE * 0, WHITE, WHITE])
    tifffile.imwrite(tmp_path / "s.tif", bands, photometric="minisblack", planarconfig="contig")
    refused(tmp_path / "s.tif", "3 channels and does not say what they are")


def test_jpeg_is_read_only_where_it_changed_nothing(tmp_path):
    blocks = np.zeros((96, 160), np.uint8)
    blocks[16:48, 32:96] = 255
    tifffile.imwrite(tmp_path / "s.tif", blocks, compression="jpeg", compressionargs={"level": 100})
    np.testing.assert_array_equal(marked(tmp_path / "s.tif"), blocks > 0)
    rough = WHITE[:96, :144].copy()
    rough[::7, ::5] ^= 255
    tifffile.imwrite(tmp_path / "s.tif", rough, compression="jpeg", compressionargs={"level": 60})
    refused(tmp_path / "s.tif", "JPEG, may change values")
    Image.fromarray(rough).save(tmp_path / "s.png", format="JPEG", quality=60)  # a name is only a name
    refused(tmp_path / "s.png", "JPEG, may change values")


@pytest.mark.parametrize(
    ("compression", "options"),
    [
        ("jpeg2000", {"level": 30, "reversible": False}),
        ("jpegxl", {"level": 60, "lossless": False}),
        ("webp", {"level": 20, "lossless": False}),
    ],
)
def test_every_compression_that_may_change_values_is_read_only_where_it_did_not(
    tmp_path, compression, options
):
    rough = WHITE[:96, :144].copy()
    rough[::7, ::5] ^= 255
    picture = np.repeat(rough[..., None], 3, axis=2) if compression == "webp" else rough
    photometric = "rgb" if compression == "webp" else "minisblack"
    common = {"photometric": photometric, "compression": compression}
    tifffile.imwrite(tmp_path / "s.tif", picture, **common, compressionargs=options)
    refused(tmp_path / "s.tif", "may change values")
    exact = {"reversible": True} if compression == "jpeg2000" else {"lossless": True}
    tifffile.imwrite(tmp_path / "s.tif", picture, **common, compressionargs=exact)
    np.testing.assert_array_equal(marked(tmp_path / "s.tif"), rough > 0)


def test_a_tiff_under_another_name_is_read_as_what_it_is(tmp_path):
    deep = 65535 - WHITE.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "s.tif", deep, photometric="miniswhite")
    (tmp_path / "s.tif").rename(tmp_path / "s.png")
    np.testing.assert_array_equal(marked(tmp_path / "s.png"), MARKED)


@pytest.mark.parametrize("black", [0, 4, 31])
def test_a_palette_with_something_nearly_black_behind_its_first_colour_is_refused(tmp_path, black):
    palette_picture(tmp_path / "s.png", WHITE == 0, [PAPER, (black,) * 3])
    refused(tmp_path / "s.png", "not clear which one means")


def test_a_picture_of_another_kind_beside_the_mask_is_not_taken_for_it(tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        writer.write(np.kron(WHITE, np.ones((2, 2), np.uint8)), photometric="minisblack")
        writer.write(np.full((*WHITE.shape, 3), 230, np.uint8), photometric="rgb")
    refused(tmp_path / "s.tif", "of one shape and of several kinds")


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_a_picture_that_is_to_be_turned_is_refused(tmp_path, orientation):
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "s.tif", WHITE, extratags=extra)
    refused(tmp_path / "s.tif", f"orientation {orientation}.*save it upright")
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(WHITE).save(tmp_path / "s.png", exif=exif)
    refused(tmp_path / "s.png", f"orientation {orientation}.*save it upright")


def test_several_pictures_of_one_size_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.stack([WHITE, WHITE * 0]), photometric="minisblack")
    refused(tmp_path / "s.tif", "expected one picture, got 2 of one size")
    frames = [Image.fromarray(WHITE), Image.fromarray(WHITE // 2)]
    frames[0].save(tmp_path / "s.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "s.png", "expected one picture, got 2")
    frames[0].convert("CMYK").save(tmp_path / "t.tif")
    refused(tmp_path / "t.tif", "its colours are")


@pytest.fixture(scope="module")
def slide():
    return ArraySlide(np.full((1000, 1500, 3), 244, np.uint8), 0.5)


def test_a_thumbnail_beside_the_mask_is_said_and_two_masks_are_refused(slide, tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        writer.write(WHITE)
        writer.write(np.full((50, 50), 255, np.uint8))
    found = read_mask(tmp_path / "s.tif", slide, mpp=0.5)
    np.testing.assert_array_equal(found.mask, MARKED)
    assert found.notes == ("the mask file also holds a picture of 50 x 50 px, which is not looked at",)
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for values in (WHITE, 255 - WHITE):
            writer.write(values, contiguous=False, metadata=None, description=str(values[0, 0]))
    with pytest.raises(MaskError, match=r"one size|2 pictures"):
        read_mask(tmp_path / "s.tif", slide, mpp=0.5)


def test_a_mask_that_marks_everything_is_said(slide, tmp_path):
    Image.fromarray(np.full((100, 150, 3), (255, 0, 0), np.uint8)).save(tmp_path / "s.png")
    found = read_mask(tmp_path / "s.png", slide, mpp=0.5)
    assert found.mask.all()
    assert found.notes == (
        "all of the mask is marked, so all of the slide is tissue; what is no tissue must be black",
    )


def test_probabilities_are_said_to_be_tissue_down_to_zero(slide, tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.where(MARKED, 0.3, 0).astype(np.float32))
    found = read_mask(tmp_path / "s.tif", slide, mpp=0.5)
    np.testing.assert_array_equal(found.mask, MARKED)
    assert "all above 0 are tissue, 100% of them are below 0.5" in found.notes[0]


def test_what_was_left_out_of_outlines_goes_with_the_mask(slide, tmp_path):
    (tmp_path / "s.geojson").write_text(
        '{"type":"GeometryCollection","geometries":[{"type":"Point","coordinates":[1,2]},'
        '{"type":"Polygon","coordinates":[[[0,0],[320,0],[320,320],[0,320],[0,0]]]}]}'
    )
    found = read_mask(tmp_path / "s.geojson", slide, mpp=0.5)
    assert found.mask.sum() == 20 * 20
    assert found.notes == ("feature 0: a Point has no area and is left out",)


def test_polygons_that_reach_out_of_the_slide_are_said(slide, tmp_path):
    for right, said in ((1501, ()), (1900, ("polygons reach 400 px beyond the slide of 1500 x 1000 px",))):
        (tmp_path / "s.geojson").write_text(
            f'{{"type":"Polygon","coordinates":[[[0,0],[{right},0],[{right},320],[0,320],[0,0]]]}}'
        )
        notes = read_mask(tmp_path / "s.geojson", slide, mpp=0.5).notes
        assert tuple(note.split(";")[0] for note in notes) == said


arrays = hnp.arrays(
    st.sampled_from([np.bool_, np.uint8, np.uint16, np.float32]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=arrays, photometric=st.sampled_from(["minisblack", "miniswhite"]))
def test_any_grey_tiff_is_read_as_it_is_shown_or_refused(tmp_path, values, photometric):
    tifffile.imwrite(tmp_path / "s.tif", values, photometric=photometric, software="x")
    try:
        found = marked(tmp_path / "s.tif")
    except PictureError:
        assert values.dtype == np.float32
        return
    black = 0 if photometric == "minisblack" else values.dtype.type(-1 % (2 ** (8 * values.itemsize)))
    if values.dtype == np.bool_:
        black = photometric == "miniswhite"
    np.testing.assert_array_equal(found, values != black)
