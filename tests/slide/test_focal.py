"""Focal stacks in OME-TIFF: each plane a scene, all planes a stack; and what of others is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from wsi_vmamba.errors import SceneError, UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.slide.focal import open_focal_stack
from wsi_vmamba.slide.scenes import other_scenes


def planes_of(depth: int, *, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """RGB planes (Z, H, W, 3) whose pixels say where they are: column, row, depth."""
    z, y, x = np.indices((depth, height, width))
    return np.stack([x, y, 40 * z + 10], axis=-1).astype(np.uint8)


def write_stack(path: Path, planes: NDArray[np.uint8], *, levels: int = 2, series: int = 1) -> Path:
    """As tifffile writes a z-stack: a page a plane, the smaller levels of each inside its own."""
    with tifffile.TiffWriter(path, ome=True) as tif:
        for _ in range(series):
            facts = {"axes": "ZYXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.5}
            common = {"photometric": "rgb", "tile": (32, 32)}
            tif.write(planes, subifds=levels - 1, metadata=facts, **common)
            for level in range(1, levels):
                tif.write(planes[:, :: 2**level, :: 2**level], subfiletype=1, **common)
    return path


def whole(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    there = slide.levels[level]
    return slide.read_region(x_l0=0, y_l0=0, level=level, width_px=there.width_px, height_px=there.height_px)


def test_every_plane_is_a_scene_with_its_own_pixels_on_every_level(tmp_path: Path):
    planes = planes_of(5)
    path = write_stack(tmp_path / "a.ome.tif", planes)
    for number, plane in enumerate(planes):
        with open_slide(path, scene=number) as slide:
            assert (slide.scene.number, slide.mpp, len(slide.scenes)) == (number, 0.5, 5)
            assert slide.scene.name.endswith(f"focal plane {number + 1} of 5")
            np.testing.assert_array_equal(whole(slide), plane)
            np.testing.assert_array_equal(whole(slide, 1), plane[::2, ::2])
            assert "focal plane" in other_scenes(slide)


def test_a_stack_is_not_taken_for_one_picture(tmp_path: Path):
    path = write_stack(tmp_path / "a.ome.tif", planes_of(5))
    words = (
        r"a stack of 5 focal planes, scenes 0 to 4; read one with --scene N \(2 is the middle\), or `extract` all with "
        "--focal-planes all"
    )
    for reader in (None, "tiff", "openslide"):
        with pytest.raises(SceneError, match=words):
            open_slide(path, reader=reader)
    with pytest.raises(SceneError, match="there is no scene 5"):
        open_slide(path, scene=5)


def test_all_planes_are_opened_and_the_middle_one_stands_for_them(tmp_path: Path):
    planes = planes_of(4)
    path = write_stack(tmp_path / "a.ome.tif", planes)
    with open_focal_stack(path) as stack:
        assert [plane.scene.number for plane in stack.planes] == [0, 1, 2, 3]
        for opened, plane in zip(stack.planes, planes, strict=True):
            np.testing.assert_array_equal(whole(opened), plane)
        np.testing.assert_array_equal(whole(stack), planes[1])
        assert stack.scene.number == 1
        assert stack.thumbnail(64).shape == (48, 64, 3)
        assert stack.note == "read were 4 focal planes"


def test_a_slide_of_one_plane_is_a_stack_of_one(tmp_path: Path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(planes_of(1)[0], photometric="rgb", tile=(32, 32))
    with open_focal_stack(tmp_path / "a.tif") as stack:
        assert len(stack.planes) == 1
        np.testing.assert_array_equal(whole(stack), planes_of(1)[0])


def test_of_two_stacks_one_has_to_be_chosen(tmp_path: Path):
    path = write_stack(tmp_path / "a.ome.tif", planes_of(3), series=2)
    with pytest.raises(SceneError, match="scenes 0 and 3 have the same size"):
        open_focal_stack(path)
    with open_focal_stack(path, scene=4) as stack:
        assert [plane.scene.number for plane in stack.planes] == [3, 4, 5]
        assert "the file also holds scenes 0" in stack.note


def test_planes_are_where_the_xml_says(tmp_path: Path):
    """Bio-Formats names the page of every plane."""
    planes = planes_of(3)
    path = write_stack(tmp_path / "a.ome.tif", planes, levels=1)
    tags = "".join(f'<TiffData FirstZ="{z}" IFD="{2 - z}"/>' for z in range(3))
    with tifffile.TiffFile(path) as tif:
        xml = re.sub(r"<TiffData.*?(/>|</TiffData>)", tags, tif.ome_metadata, flags=re.DOTALL)
    tifffile.tiffcomment(path, xml.encode())
    with open_focal_stack(path) as stack:
        for opened, plane in zip(stack.planes, planes[::-1], strict=True):
            np.testing.assert_array_equal(whole(opened), plane)
    tifffile.tiffcomment(path, xml.replace('FirstZ="1" IFD="1"', 'FirstZ="2" IFD="1"').encode())
    with pytest.raises(UnreadableSlideError, match="describes 3 focal planes and does not say which page"):
        open_slide(path, scene=0)
    tifffile.tiffcomment(path, xml.replace('IFD="2"', 'IFD="7"').encode())
    with pytest.raises(UnreadableSlideError, match="has image 0 at page 7, the TIFF has 3 pages"):
        open_slide(path, scene=0)


def test_times_and_channels_beside_depths_are_refused(tmp_path: Path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, np.zeros((2, 3, 2, 64, 64), np.uint8), metadata={"axes": "TZCYX"}, tile=(32, 32), ome=True
    )
    with pytest.raises(UnsupportedSlideError, match=r"2 channels .* 3 focal planes and 2 times"):
        open_slide(path, scene=0)
    depths = tmp_path / "b.ome.tif"
    tifffile.imwrite(
        depths, np.zeros((3, 2, 64, 64), np.uint8), metadata={"axes": "ZCYX"}, tile=(32, 32), ome=True
    )
    with pytest.raises(UnsupportedSlideError, match=r"2 channels .* 3 focal planes and 1 times"):
        open_slide(depths, scene=0)


def test_an_ndpi_with_planes_that_are_not_read_is_no_stack(vendor_writers, tmp_path: Path):
    made = vendor_writers["ndpi"](tmp_path)
    with open_slide(made.path):
        pass
    with pytest.raises(
        UnsupportedSlideError, match=r"2 focal planes \(offsets 0, 4000\), and of an NDPI only the one"
    ):
        open_focal_stack(made.path)
