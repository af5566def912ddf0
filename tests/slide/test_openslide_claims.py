"""Vendors' files that mean harm. OpenSlide ends the process on most of these, so each is opened in one of its own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

LARGEST_MB = 60


def edit_text(path: Path, **values: int) -> None:
    text = path.read_text(encoding="utf-8-sig")
    for key, value in values.items():
        text, found = re.subn(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
        assert found, key
    path.write_text(text)


def edit_czi(path: Path, *, at: int, value: int, axis: bytes = b"") -> None:
    """Write a number into the directory, or into the first frame's entry of an axis there."""
    data = bytearray(path.read_bytes())
    place = data.index(b"ZISRAWDIRECTORY")
    place = data.index(axis + b"\0\0\0", place) if axis else place
    data[place + at : place + at + 4] = struct.pack("<i", value)
    path.write_bytes(data)


def edit_ndpi(path: Path, *, width: int | None = None, height: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    for tag, value in ((256, width), (257, height), (278, height)):
        if value is not None:
            place = data.index(struct.pack("<HHI", tag, 4, 1))
            data[place + 8 : place + 12] = struct.pack("<I", value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("values", "claim"),
    [
        ({"IMAGENUMBER_X": 10**9}, "1000000000 x 3 images"),
        ({"IMAGENUMBER_X": 30_000, "IMAGENUMBER_Y": 30_000}, "30000 x 30000 images"),
        ({"CameraImageDivisionsPerSide": 100}, "100 x 100 to a photo"),
        ({"CameraImageDivisionsPerSide": 0}, "0 x 0 to a photo"),
        ({"NONHIER_COUNT": 2**31 - 1}, "a list of 2147483647 parts"),
        ({"HIER_0_COUNT": 2**31 - 1}, "a list of 2147483647 parts"),
        ({"FILE_COUNT": 2**31 - 1}, "a list of 2147483647 parts"),
        ({"DIGITIZER_WIDTH": 10**9}, "images of 1000000000 x 128 px"),
        ({"DIGITIZER_WIDTH": 60_000, "DIGITIZER_HEIGHT": 60_000}, "images of 60000 x 60000 px"),
    ],
)
def test_mirax(attempt, vendor_writers, tmp_path, values, claim):
    made = vendor_writers["mirax"](tmp_path)
    edit_text(made.path.with_suffix("") / "Slidedat.ini", **values)
    refused(attempt(made.path), claim)


@pytest.mark.parametrize(
    ("values", "claim"),
    [
        ({"NoJpegColumns": 2**31 - 2}, "2147483646 x 1 JPEG files and names 2"),
        ({"NoJpegColumns": 40_000, "NoJpegRows": 40_000}, "40000 x 40000 JPEG files and names 2"),
    ],
)
def test_vms(attempt, vendor_writers, tmp_path, values, claim):
    made = vendor_writers["vms"](tmp_path)
    edit_text(made.path, **values)
    refused(attempt(made.path), claim)


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"at": 32, "value": 2**31 - 1}, "2147483647 frames"),
        ({"at": 32, "value": -1}, "-1 frames"),
        ({"at": 16, "value": 0, "axis": b"X"}, "a frame of 0 x 128 px"),
        ({"at": 16, "value": 2**31 - 1, "axis": b"X"}, "a frame of 2147483647 x 128 px"),
        ({"at": 16, "value": 2**20, "axis": b"X"}, "a frame of 1048576 x 128 px on 128 x 128 px"),
        ({"at": 8, "value": 0, "axis": b"Y"}, "a frame of 128 x 128 px on 128 x 0 px"),
    ],
)
def test_czi(attempt, vendor_writers, tmp_path, change, claim):
    made = vendor_writers["czi"](tmp_path)
    edit_czi(made.path, **change)
    refused(attempt(made.path), claim)


@pytest.mark.parametrize(
    "sizes", [{"height": 2**31 - 8}, {"width": 2**31 - 8}, {"width": 2**30, "height": 2**30}]
)
def test_ndpi(attempt, vendor_writers, tmp_path, sizes):
    made = vendor_writers["ndpi"](tmp_path)
    edit_ndpi(made.path, **sizes)
    refused(attempt(made.path), "a level of")


def test_tiles(attempt, vendor_writers, tmp_path):
    """OpenSlide makes room for one as it is."""
    made = vendor_writers["philips"](tmp_path)
    data = bytearray(made.path.read_bytes())
    place = data.index(struct.pack("<HHQ", 323, 4, 1))
    data[place + 12 : place + 16] = struct.pack("<I", 2**27)
    made.path.write_bytes(data)
    refused(attempt(made.path), "claims tiles of 128 x 134217728 px")


def test_bif(attempt, vendor_writers, tmp_path):
    made = vendor_writers["ventana"](tmp_path)
    data = made.path.read_bytes()
    # The text of the file keeps its length: the height gives way to a longer number.
    old, new = b'Height="128" NumRows="3"', b'NumRows="99999999999999"'
    many = data.replace(old, new)
    assert len(old) == len(new)
    assert many != data
    made.path.write_bytes(many)
    refused(attempt(made.path), "frames; it is damaged")


def refused(report: dict[str, object], claim: str) -> None:
    assert report["error"] == "UnreadableSlideError", report
    assert claim in str(report["message"])
    assert float(str(report["s"])) < 5
    assert float(str(report["mb"])) < LARGEST_MB
