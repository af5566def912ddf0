from __future__ import annotations

import pytest
import tifffile

from wsi_vmamba.errors import MissingMppError
from wsi_vmamba.slide import open_slide, resolve_mpp

HEAD = "Aperio Image Library v12.0.15 \r\n"


def write_svs(path, picture, text):
    with tifffile.TiffWriter(path) as tif:
        tif.write(picture, photometric="rgb", tile=(64, 64), description=text, metadata=None)
    return path


@pytest.mark.parametrize(
    ("recorded", "mpp"),
    [("0,5020", 0.502), ("1,0080", 1.008), ("1,9", 1.9), ("0.2500", 0.25), (" 2.5E-1 ", 0.25)],
)
def test_mpp_with_a_decimal_comma(tmp_path, coordinates, recorded, mpp):
    text = f"{HEAD}200x150 [0,0 200x150] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = {recorded}|Left = 1,5"
    with open_slide(write_svs(tmp_path / "a.svs", coordinates(200, 150), text)) as slide:
        assert resolve_mpp(slide).value == pytest.approx(mpp)
        assert slide.properties["objective_power"] == "20"


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
        ("AppMag = 20", "records no micrometres"),
    ],
)
def test_an_mpp_that_cannot_be_read_is_named(tmp_path, coordinates, fields, message):
    path = write_svs(tmp_path / "a.svs", coordinates(200, 150), f"{HEAD}200x150 (64x64) JPEG|{fields}")
    with open_slide(path) as slide, pytest.raises(MissingMppError, match=message):
        resolve_mpp(slide)
