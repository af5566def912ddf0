"""What tells a slide from what it was: every file that its pixels come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsi_vmamba.slide.identity import slide_identity


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("slide", "file"),
    [
        ("a.tif", "a.tif"),
        ("a.mrxs", "a/Data0003.dat"),  # its pixels lie in a folder of its name
        ("a.vms", "a_(1,0).jpg"),  # and of these beside it
        ("series/1.dcm", "series/2.dcm"),
        ("a.zarr", "a.zarr/0/c/1/2"),
    ],
)
def test_a_change_of_any_file_of_a_slide_is_a_change_of_the_slide(tmp_path: Path, slide: str, file: str):
    for name in {slide, file} - {"a.zarr"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"pixels")
    place = str(tmp_path / slide)
    before = slide_identity(place)
    assert before is not None
    assert slide_identity(place) == before
    touch(tmp_path / file)
    touched = slide_identity(place)
    assert touched not in (None, before)
    (tmp_path / file).write_bytes(b"more pixels")
    assert slide_identity(place) not in (None, before, touched)


def test_other_slides_beside_it_are_none_of_its_business(tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(b"pixels")
    before = slide_identity(str(tmp_path / "a.tif"))
    (tmp_path / "b.tif").write_bytes(b"pixels")
    assert slide_identity(str(tmp_path / "a.tif")) == before


def test_what_is_gone_or_behind_a_url_has_none(tmp_path: Path):
    assert slide_identity(str(tmp_path / "gone.tif")) is None
    assert slide_identity("s3://bucket/a.zarr") is None
