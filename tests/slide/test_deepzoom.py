"""Deep Zoom slides that the test cuts itself, by the published rules: every pixel of every level, and what is wrong."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from wsi_vmamba.errors import BadTileError, MissingMppError, SceneError, UnreadableSlideError
from wsi_vmamba.slide import find_slides, open_slide, resolve_mpp
from wsi_vmamba.slide.tolerant import TolerantSlide

XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/{year}" '
    'Format="{format}" Overlap="{overlap}" TileSize="{tile}">{rects}<Size Height="{height}" Width="{width}"/></Image>'
)


def pyramid(picture):
    """Pictures by Deep Zoom's number: each half the next one, rounded up, down to one pixel."""
    deepest = math.ceil(math.log2(max(picture.shape[:2])))
    found = {deepest: picture}
    for number in range(deepest - 1, -1, -1):
        height, width = (-(-side // 2) for side in found[number + 1].shape[:2])
        found[number] = np.ascontiguousarray(cv2.resize(found[number + 1], (width, height)))
    return found


def cut(folder, picture, *, tile=30, overlap=1, form="png", year=2008, rects="", save=None, levels=None):
    """Write a descriptor and its tiles; returns the descriptor and the pictures of its levels, finest first."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = picture.shape[:2]
    text = XML.format(
        year=year, format=form, overlap=overlap, tile=tile, width=width, height=height, rects=rects
    )
    (folder / "HE.dzi").write_text(text)
    pictures = pyramid(picture)
    options = save or {"jpeg": {"quality": 90}, "webp": {"lossless": True}}.get(form, {})
    for number, level in pictures.items():
        if levels is not None and number not in levels:
            continue
        place = folder / "HE_files" / str(number)
        place.mkdir(parents=True)
        for row in range(math.ceil(level.shape[0] / tile)):
            for column in range(math.ceil(level.shape[1] / tile)):
                x, y = column * tile, row * tile
                part = level[
                    max(0, y - overlap) : y + tile + overlap, max(0, x - overlap) : x + tile + overlap
                ]
                Image.fromarray(part).save(place / f"{column}_{row}.{form}", **options)
    return folder / "HE.dzi", [pictures[number] for number in sorted(pictures, reverse=True)]


@pytest.fixture(params=["folder", "zip"])
def pack(request, tmp_path):
    """The descriptor as it is, or a zip of it."""

    def packed(descriptor: Path) -> Path:
        if request.param == "folder":
            return descriptor
        with zipfile.ZipFile(tmp_path / "HE.dzi.zip", "w") as archive:
            for path in sorted(descriptor.parent.rglob("*")):
                archive.write(path, Path("slide") / path.relative_to(descriptor.parent))
        return tmp_path / "HE.dzi.zip"

    return packed


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [((101, 77), 30, 1), ((256, 64), 64, 0), ((97, 130), 16, 3), ((61, 5), 254, 1)],
)
@pytest.mark.parametrize("form", ["png", "webp"])
def test_every_pixel_of_every_level(tmp_path, coordinates, pack, size, tile, overlap, form):
    descriptor, pictures = cut(tmp_path / "a", coordinates(*size), tile=tile, overlap=overlap, form=form)
    with open_slide(pack(descriptor)) as slide:
        assert (slide.reader, slide.slide_id, slide.mpp) == ("deepzoom", "HE", None)
        assert [(lv.width_px, lv.height_px) for lv in slide.levels] == [p.shape[1::-1] for p in pictures]
        assert [lv.downsample for lv in slide.levels] == [2.0**i for i in range(len(pictures))]
        for level, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            place = {"x_l0": 0, "y_l0": 0, "level": level, "width_px": width, "height_px": height}
            np.testing.assert_array_equal(slide.read_region(**place), picture)


def test_parts_and_the_outside(tmp_path, coordinates, expected):
    descriptor, pictures = cut(tmp_path, coordinates(101, 77), tile=20, overlap=2)
    with open_slide(descriptor) as slide:
        for x, y, width, height in ((-5, -3, 40, 50), (19, 21, 2, 40), (90, 70, 30, 30), (200, 0, 5, 5)):
            found = slide.read_region(x_l0=x, y_l0=y, level=0, width_px=width, height_px=height)
            np.testing.assert_array_equal(found, expected(pictures[0], x=x, y=y, width=width, height=height))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_tiles_are_what_the_decoder_makes_of_each(tmp_path, coordinates, mode):
    picture = coordinates(101, 77)
    picture = picture if mode == "RGB" else picture[..., 0]
    descriptor, _ = cut(tmp_path, picture, tile=30, overlap=1, form="jpeg")
    with open_slide(descriptor) as slide:
        whole = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=101, height_px=77)
    for column in range(4):
        for row in range(3):
            tile = np.asarray(Image.open(tmp_path / f"HE_files/7/{column}_{row}.jpeg").convert("RGB"))
            own = tile[bool(row) :, bool(column) :][:30, :30]
            there = whole[row * 30 : row * 30 + 30, column * 30 : column * 30 + 30]
            np.testing.assert_array_equal(there, own)


def test_what_a_jpeg_is_counts_and_not_what_it_is_called(tmp_path, coordinates):
    """A JPEG of RGB without a marker whose components are named R, G and B; PNG under the name of JPEG."""
    import imagecodecs

    picture = coordinates(24, 20)
    descriptor, _ = cut(tmp_path, picture, form="jpeg")
    tile = tmp_path / "HE_files/5/0_0.jpeg"
    plain = imagecodecs.jpeg8_encode(picture, level=100, colorspace="RGB", outcolorspace="RGB")
    assert b"Adobe" in plain
    without = plain[:2] + plain[18:] if plain[2:4] == b"\xff\xee" else plain
    for data in (plain, without):
        tile.write_bytes(data)
        with open_slide(descriptor) as slide:
            found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=24, height_px=20)
        assert np.abs(found.astype(int) - picture).max() <= 4
    Image.fromarray(picture).save(tile, "PNG")
    with open_slide(descriptor) as slide:
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=24, height_px=20)
    np.testing.assert_array_equal(found, picture)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P"])
def test_opacity_is_over_white_and_palettes_are_colours(tmp_path, mode):
    tile = np.zeros((10, 12, 4), np.uint8)
    tile[..., :3], tile[:5, :, 3] = 90, 255
    descriptor, _ = cut(tmp_path, tile[..., :3])
    image = Image.fromarray(tile).convert(mode) if mode != "P" else Image.fromarray(tile[..., :3]).quantize()
    image.save(tmp_path / "HE_files/4/0_0.png")
    with open_slide(descriptor) as slide:
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=12, height_px=10)
    assert (found[:5] == 90).all()
    assert (found[5:] == (255 if mode in ("RGBA", "LA") else 90)).all()


@pytest.mark.parametrize("name", ["HE.dzi", "HE.json"])
def test_the_json_form(tmp_path, coordinates, name):
    descriptor, pictures = cut(tmp_path, coordinates(101, 77))
    descriptor.unlink()
    image = {
        "xmlns": "http://schemas.microsoft.com/deepzoom/2008", "Format": "png", "Overlap": "1", "TileSize": 30,
        "Size": {"Width": "101", "Height": 77},
    }  # fmt: skip
    (tmp_path / name).write_text(json.dumps({"Image": image}))
    with open_slide(tmp_path / name) as slide:
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=101, height_px=77)
    np.testing.assert_array_equal(found, pictures[0])


def test_the_namespace_of_2009_and_levels_that_were_not_written(tmp_path, coordinates):
    descriptor, pictures = cut(tmp_path, coordinates(101, 77), year=2009, levels=(7, 5))
    with open_slide(descriptor) as slide:
        assert [lv.downsample for lv in slide.levels] == [1.0, 4.0]
        found = slide.read_region(x_l0=0, y_l0=0, level=1, width_px=26, height_px=20)
    np.testing.assert_array_equal(found, pictures[2])


def test_the_usual_remedies_for_the_resolution(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path, coordinates(40, 30))
    with open_slide(descriptor) as slide:
        with pytest.raises(MissingMppError, match="records no micrometres per pixel; give the true value"):
            resolve_mpp(slide)
        assert resolve_mpp(slide, mpp_override=0.25).value == 0.25
    with pytest.raises(SceneError, match="sees one picture here"):
        open_slide(descriptor, scene=1)


def vips_properties(**properties):
    """As `vips dzsave` writes them; `level_0_width` stands for `openslide.level[0].width`."""
    named = {
        re.sub(r"level_(\d)_", r"openslide.level[\1].", name): value for name, value in properties.items()
    }
    listed = "".join(
        f"<property><name>{name.replace('mpp_', 'openslide.mpp-').replace('slide_', 'slide-')}</name>"
        f'<value type="VipsRefString">{value}</value></property>'
        for name, value in named.items()
    )
    start = '<?xml version="1.0"?>\n<image xmlns="http://www.vips.ecs.soton.ac.uk//dzsave" version="8.14.2">'
    return f"{start}<properties>{listed}</properties></image>"


#: Of a picture of 40 x 30 px that is level 0 of its slide.
WHOLE = {"level_0_width": 40, "level_0_height": 30, "level_0_downsample": 1}
HALVED = {"level_1_width": 40, "level_1_height": 30, "level_1_downsample": "2.0"}


@pytest.mark.parametrize(
    ("found", "mpp", "source"),
    [
        ({"mpp_x": "0.2524", "mpp_y": "0.2526", "slide_level": 0, **WHOLE}, 0.2525, "openslide.mpp-x"),
        ({"mpp_x": "0.2524", "mpp_y": "0.2526", "slide_level": 1, **HALVED}, 0.505, "openslide.mpp-x"),
        # Cut or scaled after it was read: libvips leaves xres as it was.
        (
            {"mpp_x": "0.25", "mpp_y": "0.25", "level_0_width": 80, "xres": "4000", "yres": "4000"},
            None,
            None,
        ),
        ({"xres": "3961,96", "yres": "3961.96"}, 1000 / 3961.96, "xres"),
        ({"xres": "1", "yres": "1"}, None, None),
        ({"xres": "2.8346", "yres": "2.8346"}, None, None),
        ({"xres": "0", "yres": "nan"}, None, None),
        ({"xres": "4000"}, None, None),
    ],
)
def test_the_resolution_that_vips_leaves_among_the_tiles(tmp_path, coordinates, pack, found, mpp, source):
    descriptor, _ = cut(tmp_path / "a", coordinates(40, 30))
    (tmp_path / "a" / "HE_files" / "vips-properties.xml").write_text(vips_properties(**found))
    with open_slide(pack(descriptor)) as slide:
        assert slide.mpp == pytest.approx(mpp)
        assert slide.properties.get("mpp_source") == (source and f"{source} in vips-properties.xml")


@pytest.mark.parametrize("harm", ["cut", "no XML", "entities", "a folder", "a pipe", "too long"])
def test_properties_of_vips_that_cannot_be_read_are_as_good_as_none(tmp_path, coordinates, harm):
    descriptor, _ = cut(tmp_path, coordinates(40, 30))
    path, whole = tmp_path / "HE_files" / "vips-properties.xml", vips_properties(xres=4000, yres=4000)
    if harm == "a folder":
        path.mkdir()
    elif harm == "a pipe":
        os.mkfifo(path)
    else:
        entities = whole.replace("?>", '?><!DOCTYPE a [<!ENTITY b "4000">]>', 1).replace(">4000<", ">&b;<")
        long = whole.replace("<properties>", f"<properties><!--{' ' * (16 << 20)}-->")
        texts = {"cut": whole[:-20], "no XML": "xres=4000", "entities": entities, "too long": long}
        path.write_text(texts[harm])
    with open_slide(descriptor) as slide:
        assert slide.mpp is None
        assert slide.read_region(x_l0=0, y_l0=0, level=0, width_px=40, height_px=30).shape == (30, 40, 3)


@pytest.mark.parametrize(
    "harm", ["cut", "gone", "other size", "no picture", "too long", "a pipe", "a folder"]
)
def test_a_damaged_tile(tmp_path, coordinates, harm):
    picture = coordinates(101, 77)
    descriptor, _ = cut(tmp_path, picture)
    tile = tmp_path / "HE_files/7/1_1.png"
    sound = tile.read_bytes()
    tile.unlink()
    if harm == "a pipe":
        os.mkfifo(tile)
    elif harm == "a folder":
        tile.mkdir()
    elif harm == "other size":
        Image.fromarray(picture[:30, :30]).save(tile)
    elif harm != "gone":
        tile.write_bytes({"cut": sound[:-200], "no picture": b"<html>", "too long": bytes(6 << 20)}[harm])
    words = {"gone": r"7/1_1.png is not there", "other size": "30 x 30 px, its place asks for 32 x 32"}.get(
        harm, ""
    )
    place = {"x_l0": 0, "y_l0": 0, "level": 0, "width_px": 101, "height_px": 77}
    with open_slide(descriptor) as slide:
        with pytest.raises(
            BadTileError, match=rf"level 0 \(folder 7\), tile \(col, row\) \(1, 1\).*{words}"
        ) as caught:
            slide.read_region(**place)
        assert caught.value.box_px == (30, 30, 30, 30)
        tolerant = TolerantSlide(slide)
        found = tolerant.read_region(**place)
        (area,) = tolerant.damage(0)
        assert (area.x_px, area.y_px, area.width_px, area.height_px) == (30, 30, 30, 30)
    left = picture.copy()
    left[30:60, 30:60] = 255
    np.testing.assert_array_equal(found, left)


def test_a_sparse_picture_is_white_where_the_descriptor_says_that_nothing_is(tmp_path, coordinates):
    rects = (
        '<DisplayRects><DisplayRect MinLevel="7" MaxLevel="7"><Rect X="0" Y="0" Width="50" Height="77"/>'
        '</DisplayRect><DisplayRect MinLevel="0" MaxLevel="6"><Rect X="0" Y="0" Width="101" Height="77"/>'
        "</DisplayRect></DisplayRects>"
    )
    picture = coordinates(101, 77)
    descriptor, _ = cut(tmp_path, picture, rects=rects)
    for column in (2, 3):
        for row in range(3):
            (tmp_path / f"HE_files/7/{column}_{row}.png").unlink()
    with open_slide(descriptor) as slide:
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=101, height_px=77)
        np.testing.assert_array_equal(found[:, :60], picture[:, :60])
        assert (found[:, 60:] == 255).all()
        (tmp_path / "HE_files/7/0_1.png").unlink()
        with pytest.raises(BadTileError, match=r"7/0_1\.png is not there"):
            slide.read_region(x_l0=0, y_l0=0, level=0, width_px=10, height_px=77)


HOSTILE = {
    "entities": ("<Image", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Image', "damaged"),
    "bomb": ("<Image", '<!DOCTYPE a [<!ENTITY x "aaaa">]><Image', "damaged"),
    "format": ('Format="png"', 'Format="../../png"', "expected one of jpeg, jpg, png, webp"),
    "no size": ('Height="77"', "", "Height=''"),
    "no number": ('Height="77"', 'Height="-77"', "expected a whole number"),
    "too large": ('Height="77" Width="101"', 'Height="77000000" Width="10100000"', "more than any scanner"),
    "more than is there": ('Height="77" Width="101"', 'Height="70000" Width="100000"', "is not there"),
    "no tile": ('TileSize="30"', 'TileSize="0"', "tiles of 0 px"),
    "a tile of gigabytes": ('TileSize="30"', 'TileSize="100000"', "tiles of 100000 px"),
    "all overlap": ('Overlap="1"', 'Overlap="30"', "overlap by 30"),
    "other": ("Image", "Picture", "expected a Deep Zoom descriptor"),
    "collection": ("Image", "Collection", "expected one Deep Zoom picture, found a collection"),
    "cut": ("/></Image>", "", "damaged"),
    "digits": ('Height="77"', 'Height="٧٧"', "expected a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_descriptors(tmp_path, coordinates, name):
    descriptor, _ = cut(tmp_path, coordinates(101, 77))
    sound, harmful, message = HOSTILE[name]
    text = descriptor.read_text().replace(sound, harmful)
    assert text != descriptor.read_text()
    descriptor.write_text(text, encoding="utf-8")
    with pytest.raises(UnreadableSlideError, match=message):
        open_slide(descriptor, reader="deepzoom")


@pytest.mark.parametrize(
    "text", ["{}", "[" * 100_000, '{"Image": 3}', '{"Image": {"Size": [1]}}', "{" + '"a":{' * 50_000]
)
def test_hostile_json(tmp_path, coordinates, text):
    descriptor, _ = cut(tmp_path, coordinates(40, 30))
    descriptor.write_text(text)
    with pytest.raises(UnreadableSlideError, match="damaged"):
        open_slide(descriptor, reader="deepzoom")


def test_a_claim_that_its_tiles_cannot_hold(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path, coordinates(101, 77))
    (tmp_path / "HE_files/7").rename(tmp_path / "HE_files/17")
    text = descriptor.read_text().replace('Height="77" Width="101"', 'Height="77000" Width="101000"')
    descriptor.write_text(text)
    with pytest.raises(UnreadableSlideError, match="bytes of tiles cannot hold"):
        open_slide(descriptor)


def test_a_png_that_claims_gigapixels_is_not_decoded(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path, coordinates(24, 20))
    tile = tmp_path / "HE_files/5/0_0.png"
    data = tile.read_bytes()
    tile.write_bytes(data[:16] + b"\x00\x7f\xff\xff\x00\x7f\xff\xff" + data[24:])
    with open_slide(descriptor) as slide, pytest.raises(BadTileError, match="8388607 x 8388607"):
        slide.read_region(x_l0=0, y_l0=0, level=0, width_px=5, height_px=5)


def test_hostile_zips(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path / "a", coordinates(40, 30))
    text = descriptor.read_text()
    names = {
        "out.szi": (["a.dzi", "a_files/6/0_0.png", "../b"], "which leads out of it; it is malicious"),
        "two.szi": (
            ["a.dzi", "a_files/6/0_0.png", "b.dzi", "b_files/6/0_0.png"],
            r"2 Deep Zoom slides \(a.dzi, b.dzi\)",
        ),
    }
    for name, (entries, message) in names.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry in entries:
                archive.writestr(entry, text if entry.endswith(".dzi") else b"")
        with pytest.raises(UnreadableSlideError, match=message):
            open_slide(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "bomb.szi", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dzi", text)
        archive.writestr("a_files/6/0_0.png", bytes(64 << 20))
    with pytest.raises(UnreadableSlideError, match="would inflate from"):
        open_slide(tmp_path / "bomb.szi")


def test_a_damaged_entry_of_a_zip_is_one_tile(tmp_path, coordinates):
    descriptor, pictures = cut(tmp_path / "a", coordinates(101, 77))
    path = tmp_path / "HE.szi"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(descriptor.parent.rglob("*")):
            archive.write(file, file.relative_to(descriptor.parent))
        entry = archive.getinfo("HE_files/7/2_0.png")
    data = bytearray(path.read_bytes())
    data[entry.header_offset + 100] ^= 0x55
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(BadTileError, match=r"\(2, 0\): its entry in the zip is damaged \(Bad CRC"):
            slide.read_region(x_l0=0, y_l0=0, level=0, width_px=101, height_px=77)
        found = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=60, height_px=77)
    np.testing.assert_array_equal(found, pictures[0][:, :60])


def test_descriptor_without_tiles_and_tiles_without_descriptor(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path, coordinates(40, 30))
    with pytest.raises(
        UnreadableSlideError, match=r"holds the tiles of a Deep Zoom slide; name HE.dzi beside it"
    ):
        open_slide(tmp_path / "HE_files")
    (tmp_path / "HE_files").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UnreadableSlideError, match="the folder HE_files with the tiles is not beside it; copy both"
    ):
        open_slide(descriptor)


def test_find_slides_lists_the_descriptor_and_never_the_tiles(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path / "deep", coordinates(40, 30))
    Image.fromarray(coordinates(9, 9)).save(tmp_path / "deep/HE_files/6/thumbnail.tif")
    for name in ("b.dzi.zip", "c.szi", "d.zip"):
        (tmp_path / name).write_bytes(b"PK")
    assert find_slides(tmp_path) == [tmp_path / "b.dzi.zip", tmp_path / "c.szi", descriptor]


def test_closed_and_gone(tmp_path, coordinates, pack):
    descriptor, _ = cut(tmp_path / "a", coordinates(40, 30))
    place = {"x_l0": 0, "y_l0": 0, "level": 0, "width_px": 40, "height_px": 30}
    slide = open_slide(pack(descriptor))
    slide.read_region(**place)
    slide.close()
    slide.close()
    with pytest.raises(UnreadableSlideError, match="the slide is closed"):
        slide.read_region(**place)
    with open_slide(descriptor) as slide:
        shutil.rmtree(descriptor.parent / "HE_files")
        with pytest.raises(UnreadableSlideError, match="it went away") as caught:
            slide.read_region(**place)
        assert not isinstance(caught.value, BadTileError)


def test_web_pages_and_other_xml_are_no_deep_zoom(tmp_path):
    for text in ("<!DOCTYPE html><html>404</html>", "<?xml version='1.0'?><Error>NoSuchKey</Error>"):
        path = tmp_path / "a.svs"
        path.write_text(text)
        with pytest.raises(UnreadableSlideError, match="expected a whole-slide image"):
            open_slide(path)


def test_a_truncated_jpeg_is_damage_and_not_grey(tmp_path, coordinates):
    descriptor, _ = cut(tmp_path, coordinates(101, 77), form="jpeg")
    tile = tmp_path / "HE_files/7/0_0.jpeg"
    data = tile.read_bytes()
    cmyk = io.BytesIO()
    Image.fromarray(coordinates(31, 31)).convert("CMYK").save(cmyk, "JPEG")
    for harmful in (data[: len(data) // 2], data[: len(data) // 2] + data[-2:], cmyk.getvalue()):
        tile.write_bytes(harmful)
        with open_slide(descriptor) as slide, pytest.raises(BadTileError):
            slide.read_region(x_l0=0, y_l0=0, level=0, width_px=30, height_px=30)
