from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import zarr
from PIL import Image

from wsi_vmamba.errors import UnknownNameError, UnreadableSlideError
from wsi_vmamba.slide import READERS, Slide, open_slide


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"just some notes\nabout a slide\n", "text beginning with 'just some notes"),
        (b"\x89PNG\r\n\x1a\n0000", "a PNG picture"),
        (b"<!DOCTYPE html><html>404</html>", "a web page, as a failed download leaves it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04rest", "a zip archive"),
        (bytes(4096), "zero bytes"),
        (b"\xfe\xdc\xba\x98\x76\x54\x32\x10\x00", "unknown bytes fe dc ba 98 76 54 32 10"),
    ],
)
def test_what_is_no_slide_is_described(tmp_path, content, found):
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=found) as caught:
        open_slide(path)
    assert "expected a whole-slide image" in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UnreadableSlideError, match="No such file"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(UnreadableSlideError, match="found a folder"):
        open_slide(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"II*\0")
    path.chmod(0)
    with pytest.raises(UnreadableSlideError, match="Permission denied"):
        open_slide(path)


def test_content_wins_over_the_name(tmp_path, coordinates, write_pyramid):
    path = write_pyramid(tmp_path / "a.tif", [coordinates(100, 90)])
    for name in ("a.mrxs", "a.dcm", "a.txt", "no-extension"):
        shutil.copy(path, tmp_path / name)
        with open_slide(str(tmp_path / name)) as slide:
            assert slide.reader == "tiff"
            assert slide.path == str(tmp_path / name)


@pytest.mark.real_slides
def test_dicom_under_another_name(tmp_path, real_data):
    shutil.copy(real_data / "slides/bone-jpeg.dcm", tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert (slide.reader, slide.levels[0].width_px) == ("openslide", 957)


@pytest.mark.parametrize("name", list(READERS))
def test_every_reader_gives_a_slide_and_refuses_what_it_cannot_read(
    tmp_path, coordinates, write_pyramid, name
):
    if name == "zarr":
        path = tmp_path / "a.zarr"
        zarr.create_array(path, data=coordinates(100, 90), chunks=(64, 64, 3))
    elif name == "deepzoom":
        path = tmp_path / "a.dzi"
        path.write_text(
            '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" TileSize="100">'
            '<Size Width="100" Height="90"/></Image>'
        )
        (tmp_path / "a_files" / "7").mkdir(parents=True)
        Image.fromarray(coordinates(100, 90)).save(tmp_path / "a_files" / "7" / "0_0.png")
    else:
        path = write_pyramid(tmp_path / "a.tif", [coordinates(100, 90)])
    with open_slide(path, reader=name) as slide:
        assert isinstance(slide, Slide)
        assert (slide.reader, slide.slide_id) == (name, "a")
        assert (slide.levels[0].width_px, slide.levels[0].height_px) == (100, 90)
        assert all(isinstance(text, str) for item in slide.properties.items() for text in item)
        found = slide.read_region(x_l0=90, y_l0=-1, level=0, width_px=20, height_px=5)
        assert (found.dtype, found.shape) == (np.uint8, (5, 20, 3))
        np.testing.assert_array_equal(found[1:, :10], coordinates(100, 90)[:4, 90:])
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    for missing in (text, tmp_path / "none.svs"):
        with pytest.raises(UnreadableSlideError):
            open_slide(missing, reader=name)


def test_unknown_reader_lists_the_choices(tmp_path):
    with pytest.raises(
        UnknownNameError, match=r"did you mean 'tiff'.*choose from deepzoom, openslide, tiff, zarr"
    ):
        open_slide(tmp_path / "a.tif", reader="tif")


def test_importing_the_room_is_cheap():
    heavy = "{'numpy', 'torch', 'openslide', 'tifffile', 'imagecodecs', 'zarr', 'cv2'}"
    code = f"import sys, wsi_vmamba.slide; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stdout.strip() == "[]"


def _environment():
    """This process' import path, so that the child finds the same package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
