from __future__ import annotations

import re

import pytest
import tifffile

from wsi_vmamba.errors import MissingMppError
from wsi_vmamba.slide import open_slide, resolve_mpp
from wsi_vmamba.slide.resolution import mpp_note

HEAD = "Aperio Image Library v12.0.15 \r\n"


def write_svs(path, picture, text, **tags):
    with tifffile.TiffWriter(path) as tif:
        tif.write(picture, photometric="rgb", tile=(64, 64), description=text, metadata=None, **tags)
    return path


@pytest.mark.parametrize(
    ("recorded", "mpp"),
    [
        ("0,5020", 0.502), ("1,0080", 1.008), ("1,9", 1.9), ("0.2500", 0.25), (" 2.5E-1 ", 0.25),
        ("0.5 um", 0.5), ("0.5um", 0.5), ("0,5 micron", 0.5), ("500 nm", 0.5), ("5e2 nm", 0.5), ("500 nm/pixel", 0.5),
        ("0.0005 mm per px", 0.5),
    ],
)  # fmt: skip
def test_mpp_in_its_spellings(tmp_path, coordinates, recorded, mpp):
    text = f"{HEAD}200x150 [0,0 200x150] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = {recorded}|Left = 1,5"
    with open_slide(write_svs(tmp_path / "a.svs", coordinates(200, 150), text)) as slide:
        assert resolve_mpp(slide).value == pytest.approx(mpp)
        assert slide.properties["objective_power"] == "20"


def test_one_mpp_in_two_units_is_one(tmp_path, coordinates):
    text = f"{HEAD}200x150 (64x64) JPEG|MPP = 0.5|MPP = 500 nm"
    with open_slide(write_svs(tmp_path / "a.svs", coordinates(200, 150), text)) as slide:
        assert resolve_mpp(slide).value == 0.5


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
@pytest.mark.parametrize(
    ("per_unit", "unit", "um"),
    [
        (20_000, "CENTIMETER", "0.5"),
        (25_400, "INCH", "1"),
        (40_000, "CENTIMETER", ""),
        (37_500, "CENTIMETER", ""),  # 0.267 um, rounding
        (72, "INCH", ""),
        (96, "INCH", ""),
        (1, "NONE", ""),
        (0, "CENTIMETER", ""),
    ],
)
def test_tags_that_contradict_the_text_are_named(tmp_path, coordinates, reader, per_unit, unit, um):
    text = f"{HEAD}200x150 (64x64) JPEG|AppMag = 20|MPP = 0.2500"
    path = write_svs(
        tmp_path / "a.svs", coordinates(200, 150), text, resolution=((per_unit, 1),) * 2, resolutionunit=unit
    )
    with open_slide(path, reader=reader) as slide:
        assert resolve_mpp(slide).value == 0.25
        note = mpp_note(slide)
    assert bool(note) == bool(um)
    assert not um or re.search(
        rf"contradicts itself: 0\.25 um per pixel by .*, {um} by TIFF resolution tags; .*--mpp-override", note
    )


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("824x620 [0,0 800x600] (64x64) JPEG/RGB Q=70", "a picture of 800 x 600 px, the page has 200 x 150"),
        ("800x600 (64x64) J2K/KDU Q=70", "a picture of 800 x 600 px, the page has 200 x 150"),
        ("824x620 [0,0,800x600] (64x64) JPEG/YCC Q=91", "a picture of 800 x 600 px, the page has 200 x 150"),
        ("400x300 [0,0 400x300] (64x64) -> 200x150 JPEG/RGB", "brought from 400 x 300 to 200 x 150 px"),
    ],
)
def test_a_resized_picture_with_the_text_of_before_is_not_believed(
    tmp_path, coordinates, reader, size, message
):
    path = write_svs(tmp_path / "a.svs", coordinates(200, 150), f"{HEAD}{size}|AppMag = 40|MPP = 0.2500")
    with open_slide(path, reader=reader) as slide:
        with pytest.raises(MissingMppError, match=f"{message}.*--mpp-override"):
            resolve_mpp(slide)
        assert resolve_mpp(slide, mpp_override=1.0).value == 1.0


@pytest.mark.parametrize(
    "size",
    [
        "200x150 [0,0 200x150] (64x64) JPEG/RGB Q=70",
        "4600x3291 [4267,557 200x150] (64x64) JPEG/RGB Q=30;Aperio Image Library v10\r\n4692x3301 [0,100 4600x3291]",
        "200x150 [0,0,200x150] (64x64) JPEG/YCC Q=91",
        "201x150 (64x64) J2K/KDU Q=70",
        "made by a converter",
    ],
)
def test_a_text_that_fits_the_page_is_believed(tmp_path, coordinates, size):
    path = write_svs(tmp_path / "a.svs", coordinates(200, 150), f"{HEAD}{size}|AppMag = 40|MPP = 0.2500")
    with open_slide(path) as slide:
        assert resolve_mpp(slide).value == 0.25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("MPP = 0.25|MPP = 0.5", r"several MPP: 0\.25, 0\.5"),
        ("MPP = unknown", "Aperio's MPP is 'unknown', expected a number"),
        ("MPP = ", "records no micrometres"),
        (
            "MPP = 0.5 furlong",
            r"Aperio's MPP is '0\.5 furlong', expected a number such as 0\.25, with a unit",
        ),
        ("MPP = 0.5 0.5", r"Aperio's MPP is '0\.5 0\.5', expected a number"),
        ("MPP = 0.5.5", r"Aperio's MPP is '0\.5\.5', expected a number"),
        ("MPP = 0.5 um|MPP = 250 nm", r"several MPP: 0\.5 um, 250 nm"),
        ("MPP = 0.5 pixels", "records no micrometres"),
        ("AppMag = 20", "records no micrometres"),
    ],
)
def test_an_mpp_that_cannot_be_read_is_named(tmp_path, coordinates, fields, message):
    path = write_svs(tmp_path / "a.svs", coordinates(200, 150), f"{HEAD}200x150 (64x64) JPEG|{fields}")
    with open_slide(path) as slide, pytest.raises(MissingMppError, match=message):
        resolve_mpp(slide)
