from __future__ import annotations

import shutil
import struct

import numpy as np
import pytest
import zarr

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide import find_slides
from wsi_vmamba.slide.openslide.dicom import series_uid


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def element(group, number, kind, value):
    long = kind in (b"OB", b"SQ", b"UN")
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + length + value


def dicom(series):
    """A DICOM file up to its series, with a nested sequence of undefined length before it."""
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    begin = b"SQ\0\0\xff\xff\xff\xff"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item_end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    inner = struct.pack("<HH", 0x0008, 0x1111) + begin + item + item_end + end
    body = element(0x0002, 0x0001, b"OB", b"\0\1")
    body += element(0x0008, 0x0016, b"UI", b"1.2.840\0")
    body += struct.pack("<HH", 0x0008, 0x1110) + begin + item + inner + item_end + end
    body += element(0x0020, 0x000D, b"UI", b"9.9.9\0")
    body += element(0x0020, 0x000E, b"UI", series + b"\0" * (len(series) % 2))
    return bytes(128) + b"DICM" + body + element(0x0028, 0x0010, b"US", b"\0\1")


def test_slides_in_order_and_nothing_else(tmp_path):
    wanted = [
        touch(tmp_path / "b.svs"),
        touch(tmp_path / "deep" / "er" / "a.TIF"),
        touch(tmp_path / "deep" / "c.ndpi"),
        touch(tmp_path / "empty.tif", b""),  # damaged, but to be reported and not passed over
        touch(tmp_path / "m.mrxs"),
    ]
    touch(tmp_path / "m" / "Data0001.dat")
    touch(tmp_path / "m" / "hidden-in-companion.tif")
    touch(tmp_path / ".b.svs")
    touch(tmp_path / ".cache" / "c.svs")
    touch(tmp_path / "labels.csv")
    touch(tmp_path / "b.xml")
    assert find_slides(tmp_path) == sorted(wanted)
    assert find_slides(tmp_path / "b.svs") == [tmp_path / "b.svs"]


def test_a_link_in_a_circle_hides_nothing_that_lies_beside_it(tmp_path):
    wanted = [
        touch(tmp_path / "a.svs"),
        tmp_path / "round.tif",
    ]  # listed by its ending, to be reported as unreadable
    wanted[1].symlink_to(wanted[1])
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert find_slides(tmp_path) == wanted


def test_zarr_pictures_are_slides_and_feature_files_are_not(tmp_path):
    picture = tmp_path / "p.zarr"
    zarr.create_array(picture, data=np.zeros((9, 9, 3), np.uint8))
    features = zarr.open_group(tmp_path / "f.zarr", mode="w")
    features.create_array("features", data=np.zeros((4, 8), np.float16))
    features.create_array("coords_l0", data=np.zeros((4, 2), np.int64))
    zipped = touch(tmp_path / "z.ome.zarr.zip")
    assert find_slides(tmp_path) == [picture, zipped]
    assert find_slides(picture) == [picture]


def test_one_file_per_dicom_series(tmp_path):
    touch(tmp_path / "000", dicom(b"1.2.3"))
    touch(tmp_path / "001.dcm", dicom(b"1.2.3"))
    touch(tmp_path / "002.dcm", dicom(b"1.2.44"))
    touch(tmp_path / "other" / "a.dcm", dicom(b"1.2.3"))
    assert find_slides(tmp_path) == [tmp_path / "000", tmp_path / "002.dcm", tmp_path / "other" / "a.dcm"]
    assert series_uid(tmp_path / "002.dcm") == "1.2.44"


@pytest.mark.parametrize("cut", [132, 140, 150, 170, 200])
def test_dicom_cut_short_is_its_own_series(tmp_path, cut):
    touch(tmp_path / "a.dcm", dicom(b"1.2.3")[:cut])
    assert series_uid(tmp_path / "a.dcm") is None
    assert find_slides(tmp_path) == [tmp_path / "a.dcm"]


def test_missing_folder(tmp_path):
    with pytest.raises(UnreadableSlideError, match="no such file or folder"):
        find_slides(tmp_path / "none")


@pytest.mark.real_slides
def test_real_slides(real_data, tmp_path):
    names = [path.name for path in find_slides(real_data / "slides")]
    assert names == [
        "bone-jpeg.dcm", "bone-jpeg2000.dcm", "bone-raw.dcm", "camelyon-overview-jpeg.dcm",
        "camelyon-overview-jpeg2000.dcm", "cmu-1-small-region.svs", "lymph-node-metastasis.tif",
        "tcga-cr-7395-01a-01-ts1.svs",
    ]  # fmt: skip
    for copy in ("a.dcm", "b.dcm"):
        shutil.copy(real_data / "slides/bone-jpeg.dcm", tmp_path / copy)
    assert find_slides(tmp_path) == [tmp_path / "a.dcm"]


def test_zipped_zarrs_are_found_by_both_endings(tmp_path):
    for name in ("a.zarr.zip", "b.ozx", "c.OZX", "d.zip"):
        (tmp_path / name).write_bytes(b"PK")
    assert [path.name for path in find_slides(tmp_path)] == ["a.zarr.zip", "b.ozx", "c.OZX"]
