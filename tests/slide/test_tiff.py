from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsi_vmamba.errors import BadTileError, UnreadableSlideError, UnsupportedSlideError, UsageError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.base import NeedsOtherReaderError
from wsi_vmamba.slide.tiff.slide import TiffSlide

RECTANGLES = [
    (0, 0, 301, 203),  # all of it
    (60, 60, 10, 10),  # across a corner of four tiles
    (64, 128, 64, 64),  # exactly a tile
    (-7, -5, 40, 30),  # over the top left corner
    (290, 190, 50, 60),  # over the bottom right corner
    (-400, 10, 100, 20),  # all of it outside
    (300, 202, 1, 1),  # the last pixel
]


def read(slide, *, x, y, width, height, level=0):
    return slide.read_region(x_l0=x, y_l0=y, level=level, width_px=width, height_px=height)


@pytest.mark.parametrize("rectangle", RECTANGLES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "deflate"},
        {"compression": "deflate", "predictor": True},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"tile": None, "rowsperstrip": 17},
        {"tile": None, "rowsperstrip": 17, "compression": "deflate"},
        {"tile": None},
        {"tile": (32, 80), "bigtiff": True},
        {"byteorder": ">"},
        {"compression": "jpeg2000", "compressionargs": {"reversible": True}},
    ],
    ids=str,
)
def test_pixels_are_where_they_belong(tmp_path, coordinates, expected, write_pyramid, options, rectangle):
    picture = coordinates(301, 203)
    options = dict(options)
    if options.pop("byteorder", None):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, picture, byteorder=">", tile=(64, 64), photometric="rgb")
    else:
        path = write_pyramid(tmp_path / "a.tif", [picture], **options)
    x, y, width, height = rectangle
    with open_slide(path) as slide:
        assert slide.reader == "tiff"
        assert (slide.levels[0].width_px, slide.levels[0].height_px) == (301, 203)
        found = read(slide, x=x, y=y, width=width, height=height)
    np.testing.assert_array_equal(found, expected(picture, x=x, y=y, width=width, height=height))


@pytest.mark.parametrize("subifds", [True, False])
def test_levels_are_found_and_read(tmp_path, coordinates, expected, write_pyramid, subifds):
    pictures = [coordinates(1001, 603), coordinates(500, 301), coordinates(250, 150)]
    path = write_pyramid(tmp_path / "a.tif", pictures, subifds=subifds)
    with open_slide(path) as slide:
        assert [(lv.width_px, lv.height_px, lv.downsample) for lv in slide.levels] == [
            (1001, 603, 1.0), (500, 301, 2.0), (250, 150, 4.0)
        ]  # fmt: skip
        for level, picture in enumerate(pictures):
            at = slide.levels[level].downsample
            for x, y in [(0, 0), (33, 70), (249, 149), (-3, -2)]:
                found = read(slide, x=round(x * at), y=round(y * at), width=90, height=80, level=level)
                np.testing.assert_array_equal(found, expected(picture, x=x, y=y, width=90, height=80))


def test_every_level_pixel_is_reached_by_rounding(tmp_path, coordinates, write_pyramid):
    # 3.37 x smaller: no whole factor explains it, so the scale is the ratio of the sizes.
    pictures = [coordinates(337, 337), coordinates(100, 100)]
    with open_slide(write_pyramid(tmp_path / "a.tif", pictures)) as slide:
        assert slide.levels[1].downsample == pytest.approx(3.37)
        for x in range(100):
            found = read(slide, x=round(x * 3.37), y=0, width=1, height=1, level=1)
            assert found[0, 0, 0] == x


def test_label_macro_and_thumbnail_are_no_levels(tmp_path, coordinates):
    path = tmp_path / "a.svs"
    description = "Aperio Image Library v1\n400x300 (64x64) J2K|AppMag = 20|MPP = 0.4990"
    with tifffile.TiffWriter(path) as tif:
        common = {"photometric": "rgb", "metadata": None}
        tif.write(coordinates(400, 300), tile=(64, 64), description=description, **common)
        tif.write(coordinates(100, 75), description=description, **common)  # thumbnail: same aspect, strips
        tif.write(coordinates(200, 150), tile=(64, 64), description=description, **common)
        tif.write(coordinates(60, 70), subfiletype=1, description="Aperio\nlabel 60x70", **common)
        tif.write(coordinates(120, 40), tile=(64, 64), subfiletype=9, description="Aperio\nmacro", **common)
    with open_slide(path) as slide:
        assert [lv.width_px for lv in slide.levels] == [400, 200]
        assert slide.mpp == pytest.approx(0.499)
        assert slide.properties["objective_power"] == "20"
        assert slide.properties["mpp_source"] == "Aperio's MPP"


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (40000, 40000), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
    ids=["centimetre", "inch", "no unit", "nothing"],
)
def test_mpp_from_resolution_tags(tmp_path, coordinates, write_pyramid, options, mpp):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(80, 70)], **options)
    with open_slide(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-6))


@pytest.mark.parametrize(("size", "unit", "mpp"), [(0.25, "µm", 0.25), (250, "nm", 0.25), (3, "pixel", None)])
def test_mpp_from_ome(tmp_path, coordinates, size, unit, mpp):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size,
                "PhysicalSizeYUnit": unit}  # fmt: skip
    tifffile.imwrite(
        path, coordinates(200, 100), photometric="rgb", tile=(64, 64), ome=True, metadata=metadata
    )
    with open_slide(path) as slide:
        assert slide.slide_id == "a"
        assert slide.properties["format"] == "OME-TIFF"
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


def test_ome_stack_is_refused(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, np.zeros((3, 100, 120), np.uint8), ome=True, metadata={"axes": "CYX"}, tile=(64, 64)
    )
    with pytest.raises(UnreadableSlideError, match=r"expected one RGB picture.* 3 channels"):
        open_slide(path)


def test_grey_is_repeated_and_alpha_lies_over_white(tmp_path):
    grey = np.arange(100 * 90, dtype=np.uint8).reshape(90, 100)
    for photometric, wanted in (("minisblack", grey), ("miniswhite", 255 - grey)):
        path = tmp_path / f"{photometric}.tif"
        tifffile.imwrite(path, grey, photometric=photometric, tile=(64, 64))
        with open_slide(path) as slide:
            np.testing.assert_array_equal(
                read(slide, x=0, y=0, width=100, height=90), np.repeat(wanted[..., None], 3, axis=2)
            )
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, 32:, 3] = 255
    rgba[:, :, 0] = 200
    tifffile.imwrite(
        tmp_path / "alpha.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64)
    )
    with open_slide(tmp_path / "alpha.tif") as slide:
        found = read(slide, x=30, y=0, width=4, height=1)[0]
    np.testing.assert_array_equal(found, [[255] * 3, [255] * 3, [200, 0, 0], [200, 0, 0]])


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_planes_stored_apart(tmp_path, coordinates, expected, tile):
    picture = coordinates(150, 130)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=tile)
    with open_slide(path) as slide:
        found = read(slide, x=-3, y=50, width=140, height=100)
    np.testing.assert_array_equal(found, expected(picture, x=-3, y=50, width=140, height=100))


@pytest.mark.parametrize(("stored", "photometric"), [("RGB", 2), ("YCBCR", 6)])
def test_photometric_decides_the_colours_of_jpeg(tmp_path, stored, photometric):
    red = np.full((64, 64, 3), (200, 30, 60), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, red, photometric="rgb", tile=(64, 64), compression="jpeg",
                     compressionargs={"outcolorspace": stored})  # fmt: skip
    # Component names 1, 2, 3 and no Adobe mark: a decoder left to itself takes these for YCbCr, always.
    data = bytearray(path.read_bytes().replace(b"Adobe", b"adobe"))
    frame = data.index(b"\xff\xc0") + 10
    scan = data.index(b"\xff\xda") + 5
    for number in range(3):
        data[frame + 3 * number] = data[scan + 2 * number] = number + 1
    path.write_bytes(data)
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].photometric == photometric
    with open_slide(path) as slide:
        found = read(slide, x=0, y=0, width=64, height=64)
    assert np.abs(found.astype(int) - red).max() <= 2


def test_jpeg2000_ycbcr_is_converted(tmp_path):
    ycbcr = np.full((64, 64, 3), (100, 90, 180), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, ycbcr, photometric="rgb", tile=(64, 64), compression=34712,
                     compressionargs={"reversible": True})  # fmt: skip
    data = bytearray(path.read_bytes())
    at = data.index((259).to_bytes(2, "little") + b"\3\0\1\0\0\0")
    data[at + 8 : at + 10] = (33003).to_bytes(2, "little")
    path.write_bytes(data)
    with TiffSlide(path) as slide:
        found = read(slide, x=0, y=0, width=1, height=1)[0, 0]
    # 100 + 1.402 * 52; 100 + 0.344136 * 38 - 0.714136 * 52; 100 - 1.772 * 38
    np.testing.assert_array_equal(found, [173, 76, 33])


def test_sparse_tile_is_white(tmp_path, coordinates, expected, write_pyramid):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(200, 200)])
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags["TileByteCounts"]
    data = bytearray(path.read_bytes())
    width = tag.valuebytecount // tag.count
    data[tag.valueoffset + 5 * width : tag.valueoffset + 6 * width] = bytes(width)  # column 1, row 1
    path.write_bytes(data)
    wanted = expected(coordinates(200, 200), x=0, y=0, width=200, height=200)
    wanted[64:128, 64:128] = 255
    with open_slide(path) as slide:
        np.testing.assert_array_equal(read(slide, x=0, y=0, width=200, height=200), wanted)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "jpeg", "jpeg2000", "zstd"])
def test_rotten_tile_is_named_and_the_others_stay_readable(tmp_path, coordinates, write_pyramid, compression):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(300, 300)], compression=compression)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[7], page.databytecounts[7]  # column 2, row 1
    with open_slide(path) as slide:
        sound = read(slide, x=0, y=128, width=300, height=172)
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(BadTileError, match=r"level 0, tile \(col, row\) \(2, 1\)") as caught:
                read(slide, x=0, y=0, width=300, height=300)
            assert str(path) in str(caught.value)
        np.testing.assert_array_equal(read(slide, x=0, y=128, width=300, height=172), sound)


def test_jpeg_tile_cut_short_inside_is_bad(tmp_path, coordinates, write_pyramid):
    # libjpeg would fill it up with grey and say nothing.
    path = write_pyramid(tmp_path / "a.tif", [coordinates(64, 64)], compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(BadTileError, match="end mark"):
        read(slide, x=0, y=0, width=64, height=64)


def test_jpeg_that_claims_another_size_is_not_decoded(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(64, 64)], compression="jpeg")
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(BadTileError, match="65500 x 65500 px of 3 samples"):
        read(slide, x=0, y=0, width=64, height=64)


def test_inflating_bomb_is_stopped_at_the_size_of_the_tile(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(64, 64)])
    bomb = imagecodecs.zlib_encode(bytes(10_000_000))
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, tag, codec = page.dataoffsets[0], page.tags["TileByteCounts"], page.tags["Compression"]
    data[offset : offset + len(bomb)] = bomb
    data[codec.valueoffset : codec.valueoffset + 2] = (8).to_bytes(2, "little")
    width = tag.valuebytecount
    data[tag.valueoffset : tag.valueoffset + width] = len(bomb).to_bytes(width, "little")
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(BadTileError, match="deflate data do not decode"):
        read(slide, x=0, y=0, width=64, height=64)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_file(tmp_path, coordinates, expected, write_pyramid, share):
    picture = coordinates(400, 400)
    path = write_pyramid(tmp_path / "a.tif", [picture])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with open_slide(path) as slide:
        found = read(slide, x=0, y=0, width=300, height=60)
        np.testing.assert_array_equal(found, expected(picture, x=0, y=0, width=300, height=60))
        with pytest.raises(BadTileError, match=r"tile \(col, row\) \(6, 6\).*the file ends at"):
            read(slide, x=390, y=390, width=10, height=10)


def test_truncated_directory(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(400, 400)])
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(UnreadableSlideError, match=r"damaged|cut short|holds no picture"):
        open_slide(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({256: 2_000_000, 257: 2_000_000}, "the header claims 2000000 x 2000000 px"),
        ({322: 1 << 20, 323: 1 << 20}, "claims tiles of 1048576 x 1048576 px"),
        ({322: 1 << 14, 323: 3 << 12}, "16384 x 12288 px, which cannot be decoded in parts"),
        ({256: 900}, "lists 49 tiles, expected 105"),
        ({322: 0}, "claims|damaged"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, coordinates, write_pyramid, changes, message):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(400, 400)], compression="deflate")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for code, value in changes.items():
            tag = tif.pages[0].tags[code]
            data[tag.offset + 2 : tag.offset + 4] = (4).to_bytes(2, "little")  # LONG
            data[tag.offset + 8 : tag.offset + 12] = value.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableSlideError, match=message):
        open_slide(path)


def test_what_neither_reader_reads_is_refused_with_both_reasons(tmp_path, coordinates):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, coordinates(100, 100)[..., 0] % 2 > 0, photometric="minisblack", rowsperstrip=20)
    with pytest.raises(NeedsOtherReaderError, match="1 bits per sample, expected 8"):
        TiffSlide(path)
    with pytest.raises(UnsupportedSlideError, match=r"native TIFF: 1 bits.*OpenSlide:"):
        open_slide(path)


def test_eight_threads_read_the_same_pixels(tmp_path, coordinates, expected, write_pyramid):
    picture = coordinates(700, 600)
    path = write_pyramid(tmp_path / "a.tif", [picture], compression="deflate")
    corners = [(x, y) for x in range(-50, 700, 97) for y in range(-50, 600, 83)]
    start = threading.Barrier(8)

    def read_all(_):
        start.wait()
        return [read(slide, x=x, y=y, width=150, height=140) for x, y in corners]

    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        for found in pool.map(read_all, range(8)):
            for (x, y), pixels in zip(corners, found, strict=True):
                np.testing.assert_array_equal(pixels, expected(picture, x=x, y=y, width=150, height=140))


def test_closed_slide_and_wrong_requests(tmp_path, coordinates, write_pyramid):
    slide = open_slide(write_pyramid(tmp_path / "a.tif", [coordinates(100, 100)]))
    with pytest.raises(UsageError, match="levels 0 to 0, asked for level 1"):
        read(slide, x=0, y=0, width=5, height=5, level=1)
    with pytest.raises(UsageError, match="positive width and height, got 0 x 5"):
        read(slide, x=0, y=0, width=0, height=5)
    slide.close()
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        read(slide, x=0, y=0, width=5, height=5)


def test_each_tile_is_decoded_once(tmp_path, coordinates, write_pyramid, monkeypatch):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(400, 300)])
    decoded = []
    with TiffSlide(path) as slide:
        whole = slide._decode
        monkeypatch.setattr(
            slide, "_decode", lambda table, index, row: (decoded.append(index), whole(table, index, row))[1]
        )
        read(slide, x=10, y=10, width=380, height=200)
    assert sorted(decoded) == list(range(28))  # 7 columns of 4 rows


@pytest.mark.parametrize(
    ("unit", "mpp"),
    [("micron", 0.25), ("um", 0.25), ("\\u00B5m", 0.25), ("nm", None), ("pixel", None), ("furlong", "named")],
)
def test_mpp_in_imagejs_unit(tmp_path, coordinates, unit, mpp):
    # ImageJ says pixels per unit in the tags, that the tags have no unit, and the unit in its text.
    text = f"ImageJ=1.53t\nunit={unit}\n"
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, coordinates(200, 100), photometric="rgb", tile=(64, 64), description=text, metadata=None,
        resolution=(4, 4), resolutionunit="NONE",
    )  # fmt: skip
    with open_slide(path) as slide:
        if mpp == "named":
            assert "'furlong'" in slide.properties["mpp_problem"]
        elif unit == "nm":
            assert slide.mpp == pytest.approx(0.00025)
        else:
            assert slide.mpp == mpp
