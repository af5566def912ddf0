"""Sound slides of a kind that is not read: another copy of them, or leaving out patches, is no remedy."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile
import zarr

from wsi_vmamba.pipelines import extract

KINDS = {
    "float": lambda path: tifffile.imwrite(
        path, np.zeros((100, 100, 3), "f4"), photometric="rgb", tile=(64, 64)
    ),
    "12 bits in 16": lambda path: tifffile.imwrite(
        path, np.full((100, 100, 3), 4000, "u2"), photometric="rgb", tile=(64, 64)
    ),
    "mirrored": lambda path: tifffile.imwrite(
        path,
        np.zeros((100, 100, 3), "u1"),
        photometric="rgb",
        tile=(64, 64),
        extratags=[(274, "H", 1, 2, True)],
    ),
    "another codec": lambda path: of_number(path, 34661),
    "strips of one bit": lambda path: tifffile.imwrite(path, np.zeros((100, 100), bool), rowsperstrip=10),
    "zarr of 16 bits": lambda path: zarr.create_array(path, data=np.zeros((9, 9, 3), "u2"), chunks=(9, 9, 3)),
}


def of_number(path, number):
    tifffile.imwrite(
        path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(64, 64), compression="deflate"
    )
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[0].tags[259].valueoffset
    data[place : place + 2] = struct.pack("<H", number)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_the_remedy_is_to_save_it_otherwise(tmp_path, extract_config, read_outcomes, kind):
    slides = tmp_path / "slides"
    slides.mkdir()
    KINDS[kind](slides / ("a.zarr" if "zarr" in kind else "a.tif"))
    assert extract.run(extract_config(slides, tmp_path / "out", mpp_override=0.5)) is False
    row = read_outcomes(tmp_path / "out")["a"]
    assert row["outcome"] == "failed"
    assert row["remedy"].startswith("save it again as 8-bit RGB, with JPEG, deflate or Zstandard")
    assert "copy the slide again" not in row["detail"] + row["remedy"]
    assert "--on-bad-tile" not in row["detail"] + row["remedy"]
