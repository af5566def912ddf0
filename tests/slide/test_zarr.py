from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import zarr

from wsi_vmamba.errors import BadTileError, UnreadableSlideError
from wsi_vmamba.slide import open_slide

UM = {"type": "space", "unit": "micrometer"}
AXES = {
    "tczyx": [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, {"name": "z", **UM},
              {"name": "y", **UM}, {"name": "x", **UM}],
    "yxc": [{"name": "y", **UM}, {"name": "x", **UM}, {"name": "c", "type": "channel"}],
    "cyx": [{"name": "c", "type": "channel"}, {"name": "y", **UM}, {"name": "x", **UM}],
}  # fmt: skip


def arrange(picture, axes):
    """Put (h, w, c) into the order of ``axes``, with t and z of length 1."""
    kept = picture.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
    for position, axis in enumerate(axes):
        if axis in "tz":
            kept = np.expand_dims(kept, position)
    return kept


def write_ome(path, pictures, *, axes="tczyx", version="0.5", mpp=0.25, unit="micrometer", chunk=64):
    zarr_format = 3 if version == "0.5" else 2
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    datasets = []
    for level, picture in enumerate(pictures):
        data = arrange(picture, axes)
        chunks = tuple(chunk if axis in "yx" else 1 for axis in axes)
        group.create_array(str(level), data=data, chunks=chunks)
        scale = [mpp * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    named = [dict(axis) for axis in AXES[axes]]
    for axis in named:
        if axis["type"] == "space":
            axis["unit"] = unit
            if unit is None:
                del axis["unit"]
    multiscales = [{"version": version, "axes": named, "datasets": datasets}]
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": multiscales}}
        if version == "0.5"
        else {"multiscales": multiscales}
    )
    return path


def read(slide, *, x, y, width, height, level=0):
    return slide.read_region(x_l0=x, y_l0=y, level=level, width_px=width, height_px=height)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "yxc", "cyx"])
def test_ome_zarr(tmp_path, coordinates, expected, version, axes):
    pictures = [coordinates(301, 203), coordinates(150, 101)]
    path = write_ome(tmp_path / "s.ome.zarr", pictures, axes=axes, version=version)
    with open_slide(path) as slide:
        assert (slide.reader, slide.slide_id, slide.mpp) == ("zarr", "s", 0.25)
        assert [(lv.width_px, lv.height_px, lv.downsample) for lv in slide.levels] == [
            (301, 203, 1.0),
            (150, 101, 2.0),
        ]
        for x, y in [(0, 0), (-7, -5), (60, 60), (290, 190), (400, 0)]:
            for level, picture in enumerate(pictures):
                found = read(slide, x=x * 2**level, y=y * 2**level, width=90, height=85, level=level)
                np.testing.assert_array_equal(found, expected(picture, x=x, y=y, width=90, height=85))


@pytest.mark.parametrize(
    ("unit", "mpp"), [("micrometer", 0.25), ("nanometer", 0.00025), ("millimeter", 250.0), (None, None)]
)
def test_mpp_needs_a_unit(tmp_path, coordinates, unit, mpp):
    path = write_ome(tmp_path / "s.zarr", [coordinates(80, 70)], unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


def test_bioformats2raw_and_zip(tmp_path, coordinates, expected):
    picture = coordinates(150, 130)
    root = tmp_path / "s.zarr"
    zarr.open_group(root, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write_ome(root / "0", [picture], version="0.4")
    zipped = tmp_path / "s.zarr.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root))
    for path in (root, zipped):
        with open_slide(path) as slide:
            assert (slide.reader, slide.slide_id, slide.mpp) == ("zarr", "s", 0.25)
            np.testing.assert_array_equal(
                read(slide, x=-2, y=60, width=160, height=100),
                expected(picture, x=-2, y=60, width=160, height=100),
            )


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_array_and_group(tmp_path, coordinates, zarr_format):
    picture, half = coordinates(150, 130), coordinates(75, 65)
    zarr.create_array(tmp_path / "array.zarr", data=picture, chunks=(64, 64, 3), zarr_format=zarr_format)
    group = zarr.open_group(tmp_path / "group.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("half", data=half.transpose(2, 0, 1), chunks=(3, 64, 64))
    group.create_array("whole", data=picture, chunks=(64, 64, 3))
    with open_slide(tmp_path / "array.zarr") as slide:
        assert slide.mpp is None
        np.testing.assert_array_equal(read(slide, x=20, y=30, width=100, height=90), picture[30:120, 20:120])
    with open_slide(tmp_path / "group.zarr") as slide:
        assert [lv.downsample for lv in slide.levels] == [1.0, 2.0]
        np.testing.assert_array_equal(
            read(slide, x=20, y=30, width=50, height=40, level=1), half[15:55, 10:60]
        )


def test_grey_is_repeated(tmp_path):
    grey = np.arange(80 * 70, dtype=np.uint8).reshape(70, 80)
    zarr.create_array(tmp_path / "a.zarr", data=grey, chunks=(64, 64))
    with open_slide(tmp_path / "a.zarr") as slide:
        found = read(slide, x=0, y=0, width=80, height=70)
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("fill", [0, 255])
def test_chunks_never_written_have_the_fill_value(tmp_path, coordinates, fill):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(128, 128, 3), chunks=(64, 64, 3), dtype="uint8", fill_value=fill
    )
    picture = np.full((128, 128, 3), fill, np.uint8)
    array[:64, :64] = picture[:64, :64] = coordinates(64, 64)
    with open_slide(tmp_path / "a.zarr") as slide:
        np.testing.assert_array_equal(read(slide, x=0, y=0, width=128, height=128), picture)


def test_rotten_chunk_is_named_and_the_others_stay_readable(tmp_path, coordinates):
    picture = coordinates(300, 200)
    path = write_ome(tmp_path / "s.zarr", [picture], axes="yxc")
    # The three colours of one place are three chunks here.
    (path / "0" / "c" / "1" / "2" / "1").write_bytes(b"not what was written")
    with open_slide(path) as slide:
        with pytest.raises(BadTileError, match=r"level 0, chunk \(col, row\) \(2, 1\)"):
            read(slide, x=0, y=0, width=300, height=200)
        np.testing.assert_array_equal(read(slide, x=0, y=0, width=120, height=200), picture[:, :120])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: zarr.open_group(p, mode="w"), "neither multiscales nor arrays"),
        (
            lambda p: zarr.create_array(p, data=np.zeros((9, 9, 3), np.uint16)),
            "expected 8-bit pixels, found uint16",
        ),
        (lambda p: zarr.create_array(p, data=np.zeros((9, 9, 7), np.uint8)), r"found shape \(9, 9, 7\)"),
        (lambda p: write_ome(p, [np.zeros((40, 30, 4), np.uint8)], axes="cyx"), "one RGB or grey plane"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, make, message):
    make(tmp_path / "a.zarr")
    with pytest.raises(UnreadableSlideError, match=message):
        open_slide(tmp_path / "a.zarr")


def test_damaged_metadata_and_missing_level(tmp_path, coordinates):
    path = write_ome(tmp_path / "a.zarr", [coordinates(100, 100), coordinates(50, 50)])
    (path / "1" / "zarr.json").unlink()
    with pytest.raises(UnreadableSlideError, match="level '1' is listed but not there"):
        open_slide(path)
    (path / "zarr.json").write_text("{ half")
    with pytest.raises(UnreadableSlideError, match="metadata are damaged"):
        open_slide(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_codec_that_nobody_knows_is_named(tmp_path, coordinates, zarr_format):
    """JPEG among them, which other programs write with imagecodecs."""
    zarr.create_array(tmp_path / "a.zarr", data=coordinates(100, 100), zarr_format=zarr_format)
    path = tmp_path / "a.zarr" / {2: ".zarray", 3: "zarr.json"}[zarr_format]
    facts = json.loads(path.read_text())
    if zarr_format == 2:
        facts["compressor"] = {"id": "imagecodecs_jpeg", "level": 95}
    else:
        facts["codecs"] = [{"name": "imagecodecs_jpeg", "configuration": {"level": 95}}]
    path.write_text(json.dumps(facts))
    with pytest.raises(UnreadableSlideError, match=r"compressed in a way .*imagecodecs_jpeg.*write it again"):
        open_slide(tmp_path / "a.zarr")


def test_closed_slide(tmp_path, coordinates):
    slide = open_slide(write_ome(tmp_path / "a.zarr", [coordinates(100, 100)]))
    slide.close()
    with pytest.raises(UnreadableSlideError, match="closed"):
        read(slide, x=0, y=0, width=5, height=5)
