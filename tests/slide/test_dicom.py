"""DICOM headers in every transfer syntax, hostile ones, and what is said of a file that OpenSlide refuses."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide import find_slides, open_slide
from wsi_vmamba.slide.openslide.dicom import describe, read_header, remedy, series_uid

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
SERIES = "1.2.826.0.1.3680043.8.498.7"


def slide_header(*, image_type=("ORIGINAL", "PRIMARY", "VOLUME", "NONE"), series=SERIES):
    """What a scanner writes in front of the frames, a nested sequence and a large one behind what is wanted."""
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "1"
    outer.ConceptCodeSequence = Sequence([inner])
    dataset = Dataset()
    dataset.ImageType = list(image_type)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    dataset.SOPInstanceUID = f"{series}.1"
    dataset.ProcedureCodeSequence = Sequence([outer])
    dataset.SeriesInstanceUID = series
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 42, 256, 512
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = 3236, 2638
    dataset.OpticalPathSequence = Sequence([Dataset()])
    dataset.OpticalPathSequence[0].ICCProfile = bytes(5000)
    return dataset


def dicom(dataset, syntax):
    """The bytes of a file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta = meta
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, JPEG])
def test_the_header_in_every_transfer_syntax(tmp_path, syntax):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(slide_header(), syntax))
    header = read_header(path)
    assert header.syntax == syntax
    assert (header.series, header.image_type) == (SERIES, ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"))
    assert (header.frames, header.frame_px, header.matrix_px) == (42, (512, 256), (3236, 2638))
    assert (header.photometric, header.is_whole) == ("YBR_FULL_422", True)
    words = describe(header)
    assert r"ImageType ORIGINAL\PRIMARY\VOLUME\NONE, 42 frame(s) of 512 x 256 px" in words
    assert UID(syntax).name in words


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG, DEFLATED])
def test_one_file_per_series_whatever_the_syntax(tmp_path, syntax):
    for name, series in (("0", SERIES), ("1", SERIES), ("2", f"{SERIES}.5")):
        (tmp_path / name).write_bytes(dicom(slide_header(series=series), syntax))
    assert find_slides(tmp_path) == [tmp_path / "0", tmp_path / "2"]


def test_every_cut_gives_the_series_or_nothing(tmp_path):
    data, path = dicom(slide_header(), IMPLICIT), tmp_path / "a.dcm"
    for length in range(132, len(data) - 5000, 7):
        path.write_bytes(data[:length])
        assert series_uid(path) in {SERIES, None}
    path.write_bytes(data[:400])
    assert not read_header(path).is_whole
    assert "damaged or cut short; copy it again" in remedy(read_header(path))


def test_flipped_bits_end_in_a_header_and_nothing_else(tmp_path):
    path, rng = tmp_path / "a.dcm", np.random.default_rng(0)
    for syntax in (IMPLICIT, EXPLICIT, DEFLATED):
        sound = dicom(slide_header(), syntax)[:1200]
        for _ in range(60):
            data = bytearray(sound)
            for place in rng.integers(132, len(data), 4):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            header = read_header(path)
            assert isinstance(describe(header), str)
            assert isinstance(remedy(header), str)


def _element(tag, kind, value, length=None):
    return (
        struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        + kind
        + b"\0\0"
        + struct.pack("<I", length or len(value))
        + value
    )


def _behind_meta(syntax, rest):
    """A sound file up to its data set, and something else behind it."""
    head = dicom(slide_header(), syntax)
    return head[: 144 + int.from_bytes(head[140:144], "little")] + rest


def _zeros():
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(64 << 20)) + packer.flush()


HOSTILE = {
    "nested fifty thousand times": lambda: _behind_meta(
        EXPLICIT, _element(0x00081110, b"SQ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff", 0xFFFFFFFF) * 50_000
    ),
    "deflated zeros": lambda: _behind_meta(DEFLATED, _zeros()),
    "a value of 4 GiB": lambda: _behind_meta(EXPLICIT, _element(0x00080008, b"UT", b"abc", 0xFFFFFFFE)),
    "a value without an end": lambda: _behind_meta(
        EXPLICIT, _element(0x00080008, b"UN", bytes(1 << 20), 0xFFFFFFFF)
    ),
    "no meta group": lambda: bytes(128) + b"DICM",
    "nothing but marks": lambda: bytes(128) + b"DICM" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_cost_no_memory(tmp_path, name):
    path = tmp_path / "a.dcm"
    path.write_bytes(HOSTILE[name]())
    read_header(path)  # so that importing pydicom does not count
    tracemalloc.start()
    header = read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.series == ""
    assert peak < 64 << 20
    assert find_slides(tmp_path) == [path]


@pytest.mark.parametrize(
    ("image_type", "message"),
    [
        (
            (),
            r"ImageType absent, 42 frame\(s\).*wants VOLUME as the third value of ImageType; write it again",
        ),
        (
            ("ORIGINAL", "PRIMARY", "LABEL", "NONE"),
            "it is the label of the glass; name the file of the series",
        ),
        (
            ("ORGINAL", "PRIMARY", "VOLUME", "NONE"),
            "begins with ORGINAL, DICOM knows ORIGINAL and DERIVED; write",
        ),
    ],
)
def test_what_openslide_refuses_ends_with_what_was_found_and_a_remedy(tmp_path, image_type, message):
    path = tmp_path / "a.dcm"
    dataset = slide_header(image_type=image_type or ("X", "Y"))
    if not image_type:
        del dataset.ImageType
    path.write_bytes(dicom(dataset, JPEG))
    with pytest.raises(UnreadableSlideError, match="OpenSlide cannot open it") as caught:
        open_slide(path, reader="openslide")
    caught.match("transfer syntax JPEG Baseline")
    caught.match(message)


@pytest.mark.real_slides
@pytest.mark.parametrize(
    ("name", "found", "advice"),
    [
        ("pathml_small.dcm", r"ImageType absent, 42 frame\(s\) of 500 x 500 px", "wants VOLUME"),
        (
            "35220404935377466417110411569853018212.dcm",
            r"ImageType ORGINAL.*130 frame\(s\)",
            "begins with ORGINAL",
        ),
        ("74255198296915566858533158243156409717.dcm", r"LABEL.*387 x 463", "it is the label of the glass"),
    ],
)
def test_real_files_that_openslide_refuses(real_data, name, found, advice):
    (path,) = (real_data / "vendor").rglob(f"*{name}")
    with pytest.raises(UnsupportedSlideError, match=f"transfer syntax JPEG Baseline.*{found}.*{advice}"):
        open_slide(path)
