"""Tiles over HTTP, by value: each pixel where it belongs, on every level, at every edge, and damage that is seen."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.slide.dicom_slides import write_dicom
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.view.made_parts import MadeParts
from wsi_vmamba.view.picture import SlidePicture
from wsi_vmamba.view.pyramid import view_levels


def seen(answer):
    assert answer.status == 200, answer.body[:200]
    return np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB")).astype(int)


def tile(viewer, slide, level, column, row):
    url = (
        slide["tile_url"]
        .replace("{level}", str(level))
        .replace("{column}", str(column))
        .replace("{row}", str(row))
    )
    return viewer.get(url)


def page(viewer, name):
    return viewer.get(f"/slides/{viewer.id_of(name)}").json


def whole_level(viewer, slide, number):
    """A level put together from its tiles, by the rectangles that the API documents."""
    level, overlap = slide["levels"][number], slide["overlap"]
    out = np.zeros((level["height"], level["width"], 3), dtype=int)
    for row in range(level["rows"]):
        for column in range(level["columns"]):
            x0, y0 = (
                max(0, column * level["tile_width"] - overlap),
                max(0, row * level["tile_height"] - overlap),
            )
            x1 = min(level["width"], (column + 1) * level["tile_width"] + overlap)
            y1 = min(level["height"], (row + 1) * level["tile_height"] + overlap)
            got = seen(tile(viewer, slide, number, column, row))
            assert got.shape == (y1 - y0, x1 - x0, 3)
            out[y0:y1, x0:x1] = got
    return out


def test_every_pixel_of_every_level_is_where_it_belongs(view, tmp_path, picture, write_slide):
    pixels = picture(900, 700)
    write_slide(tmp_path / "a.tif", pixels, levels=2)
    viewer = view(tmp_path)
    slide = page(viewer, "a")
    assert [(each["width"], each["height"], each["downsample"]) for each in slide["levels"]] == [
        (900, 700, 1),
        (450, 350, 2),
    ]
    with open_slide(tmp_path / "a.tif") as reader:
        for number, level in enumerate(reader.levels):
            got = whole_level(viewer, slide, number)
            # 6 is what JPEG may change; in the last blocks it also blurs the file's padding in.
            np.testing.assert_allclose(
                got[:-16, :-16], pixels[:: 2**number, :: 2**number][:-16, :-16], atol=6
            )
            read = reader.read_region(
                x_l0=0, y_l0=0, level=number, width_px=level.width_px, height_px=level.height_px
            )
            np.testing.assert_allclose(
                got, read, atol=25
            )  # edges are encoded once more; a smear would be 100
            assert np.abs(got - read).mean() < 1


def test_whole_tiles_are_the_bytes_of_the_file_and_edges_are_cropped(view, tmp_path, picture, write_slide):
    path = write_slide(tmp_path / "a.tif", picture(300, 256))
    viewer = view(tmp_path)
    slide = page(viewer, "a")
    inside, edge = tile(viewer, slide, 0, 1, 0), tile(viewer, slide, 0, 2, 0)
    assert (inside.headers["tile-source"], edge.headers["tile-source"]) == ("file", "decoded")
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[0].dataoffsets[1], tif.pages[0].databytecounts[1]
    scan = path.read_bytes()[offset : offset + length].partition(b"\xff\xda")[2]
    assert inside.body.endswith(scan)
    assert seen(edge).shape == (128, 44, 3)


@pytest.mark.parametrize(("kib", "carried"), [(1, True), (33, False)])
def test_a_colour_profile_is_in_every_tile_or_in_none(tmp_path, picture, kib, carried):
    profile = bytes(range(256)) * 4 * kib
    tifffile.imwrite(
        tmp_path / "a.tif", picture(300, 200), photometric="rgb", compression="jpeg", tile=(128, 128),
        extratags=[(34675, 7, len(profile), profile, True)],
    )  # fmt: skip
    with open_slide(tmp_path / "a.tif") as slide:
        shown = SlidePicture(slide, made=MadeParts(4 << 20))
        tiles = [shown.tile(level=0, column=column, row=0) for column in range(3)]
        assert [tile.source for tile in tiles] == ["file", "file", "decoded"]
        found = [Image.open(io.BytesIO(tile.data)).info.get("icc_profile") for tile in tiles]
        assert found == [profile if carried else None] * 3
        assert shown.carries_icc == carried


def test_small_levels_that_are_missing_are_made_of_what_is_there(view, tmp_path, picture, write_slide):
    pixels = picture(2100, 1500)
    write_slide(tmp_path / "a.tif", pixels, tile=256)
    viewer = view(tmp_path)
    slide = page(viewer, "a")
    assert [(each["width"], each["made"]) for each in slide["levels"]] == [
        (2100, False), (1050, True), (525, True), (263, True)
    ]  # fmt: skip
    for number in (1, 2, 3):
        factor = 2**number
        level = slide["levels"][number]
        centres = [
            np.minimum((np.arange(level[side]) + 0.5) * factor, last - 1).astype(int)
            for side, last in (("height", 1500), ("width", 2100))
        ]
        np.testing.assert_allclose(
            whole_level(viewer, slide, number)[:-16, :-16], pixels[np.ix_(*centres)][:-16, :-16], atol=7
        )
    assert tile(viewer, slide, 3, 0, 0).headers["tile-source"] == "made"


def test_levels_far_apart_get_some_between_and_tiny_ones_are_left_out():
    sizes = [
        level.downsample
        for level in view_levels(ArraySlide(np.zeros((4096, 4096, 3), np.uint8), 0.5, downsamples=(1, 32)))
    ]
    assert sizes == [1, 2, 4, 8, 32]
    sizes = [
        level.width_px
        for level in view_levels(
            ArraySlide(np.zeros((1024, 1024, 3), np.uint8), 0.5, downsamples=(1, 2, 4, 8))
        )
    ]
    assert sizes == [1024, 512]


@pytest.mark.parametrize("where", ["inside", "edge", "made level"])
def test_a_damaged_tile_is_striped_and_says_so_and_its_neighbours_are_sound(
    view, tmp_path, picture, write_slide, where
):
    pixels = picture(600, 300)
    path = write_slide(tmp_path / "a.tif", pixels)
    column = 4 if where == "edge" else 1
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[0].dataoffsets[column], tif.pages[0].databytecounts[column]
    content = bytearray(path.read_bytes())
    content[offset + length - 2 : offset + length] = b"\x12\x34"
    path.write_bytes(content)
    viewer = view(tmp_path)
    slide = page(viewer, "a")
    bad = tile(viewer, slide, 1, 0, 0) if where == "made level" else tile(viewer, slide, 0, column, 0)
    assert bad.headers["tile-damaged"] == "true"
    assert bad.headers["cache-control"] == "no-store"
    red = (seen(bad)[..., 0] > 150) & (seen(bad)[..., 1] < 60)
    assert 0.02 < red.mean() < 0.7
    sound = tile(viewer, slide, 0, 0, 0)
    assert "tile-damaged" not in sound.headers
    np.testing.assert_allclose(seen(sound), pixels[:128, :128], atol=6)


def test_a_rectangle_is_read_where_it_is_asked_for_and_white_beyond(view, tmp_path, picture, write_slide):
    pixels = picture(900, 700)
    write_slide(tmp_path / "a.tif", pixels, levels=2)
    viewer = view(tmp_path)
    base = f"/slides/{viewer.id_of('a')}/region"
    got = seen(viewer.get(f"{base}.png?x_l0=130&y_l0=70&width_l0=100&height_l0=60&max_px=512"))
    np.testing.assert_allclose(got, pixels[70:130, 130:230], atol=6)
    half = seen(viewer.get(f"{base}.jpg?x_l0=100&y_l0=100&width_l0=400&height_l0=400&max_px=200"))
    np.testing.assert_allclose(half, pixels[101:501:2, 101:501:2], atol=8)
    beyond = seen(viewer.get(f"{base}.png?x_l0=880&y_l0=690&width_l0=40&height_l0=40"))
    np.testing.assert_allclose(beyond[:8, :18], pixels[690:698, 880:898], atol=12)
    assert (beyond[10:] == 255).all()
    assert (beyond[:, 20:] == 255).all()


@pytest.mark.parametrize("query", [
    "x_l0=nan&y_l0=0&width_l0=10&height_l0=10", "x_l0=0&y_l0=0&width_l0=0&height_l0=10", "x_l0=0&y_l0=0&width_l0=10",
    "x_l0=0&y_l0=0&width_l0=10&height_l0=10&max_px=99999", "x_l0=1e300&y_l0=0&width_l0=1e300&height_l0=1e300",
    "x_l0=0&y_l0=0&width_l0=100000000&height_l0=100000000&max_px=2048",
])  # fmt: skip
def test_a_rectangle_that_would_exhaust_memory_or_is_none_is_refused(
    view, tmp_path, picture, write_slide, query
):
    write_slide(tmp_path / "a.tif", picture(300, 300))
    viewer = view(tmp_path)
    assert viewer.get(f"/slides/{viewer.id_of('a')}/region.png?{query}").status == 400


def test_tiles_are_kept_by_browsers_until_the_slide_changes(view, tmp_path, picture, write_slide):
    path = write_slide(tmp_path / "a.tif", picture(300, 300))
    viewer = view(tmp_path)
    slide = page(viewer, "a")
    first = tile(viewer, slide, 0, 0, 0)
    assert "immutable" in first.headers["cache-control"]
    assert (
        viewer.get(
            slide["tile_url"].format(level=0, column=0, row=0), if_none_match=first.headers["etag"]
        ).status
        == 304
    )
    assert "no-cache" in viewer.get(f"/slides/{slide['id']}/tiles/0/0_0.jpg").headers["cache-control"]
    write_slide(path, 255 - picture(300, 300))
    viewer.slides()
    changed = page(viewer, "a")
    assert changed["version"] != slide["version"]
    np.testing.assert_allclose(
        seen(tile(viewer, changed, 0, 0, 0)), 255 - picture(300, 300)[:128, :128], atol=6
    )


@pytest.mark.parametrize(
    "name",
    [
        "0/99_0.jpg",
        "0/0_99.jpg",
        "9/0_0.jpg",
        "0/-1_0.jpg",
        "0/0_0.png",
        "x/0_0.jpg",
        "0/0.jpg",
        "0/0_0_0.jpg",
        "0/٣_0.jpg",
    ],
)
def test_a_tile_that_is_none_is_not_found(view, tmp_path, picture, write_slide, name):
    write_slide(tmp_path / "a.tif", picture(300, 300))
    viewer = view(tmp_path)
    assert viewer.get(f"/slides/{viewer.id_of('a')}/tiles/{name}").status == 404


def test_zarr_is_tiled_by_its_chunks(view, tmp_path, picture):
    import zarr

    pixels = picture(700, 500)
    root = zarr.create_array(
        store=tmp_path / "z.zarr", shape=(500, 700, 3), chunks=(256, 256, 3), dtype="uint8"
    )
    root[:] = pixels
    viewer = view(tmp_path)
    slide = page(viewer, "z")
    assert (slide["levels"][0]["tile_width"], slide["reader"]) == (256, "zarr")
    assert not slide["levels"][0]["passthrough"]
    np.testing.assert_allclose(whole_level(viewer, slide, 0), pixels, atol=6)


def test_deep_zoom_tiles_are_passed_with_their_overlap(view, tmp_path, picture):
    pixels = picture(600, 450)
    folder = tmp_path / "HE_files" / "10"
    folder.mkdir(parents=True)
    (tmp_path / "HE.dzi").write_text(
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="2" TileSize="254">'
        '<Size Height="450" Width="600"/></Image>'
    )
    for row in range(2):
        for column in range(3):
            x, y = column * 254, row * 254
            part = pixels[max(0, y - 2) : y + 256, max(0, x - 2) : x + 256]
            Image.fromarray(part).save(folder / f"{column}_{row}.jpg", quality=95)
    viewer = view(tmp_path)
    slide = page(viewer, "HE")
    assert slide["overlap"] == 2
    np.testing.assert_allclose(whole_level(viewer, slide, 0), pixels, atol=6)
    assert tile(viewer, slide, 0, 2, 1).headers["tile-source"] == "file"
    np.testing.assert_allclose(whole_level(viewer, slide, 1).shape, (225, 300, 3))


def test_frames_of_dicom_are_passed_and_padded_ones_are_cut(view, tmp_path, picture):
    pixels = picture(300, 200)
    write_dicom(tmp_path / "d.dcm", pixels, tile=128, photometric="RGB")
    viewer = view(tmp_path)
    slide = page(viewer, "d")
    assert [(each["tile_width"], each["passthrough"]) for each in slide["levels"]] == [(128, True)]
    np.testing.assert_allclose(whole_level(viewer, slide, 0), pixels, atol=6)
    sources = [tile(viewer, slide, 0, column, row).headers["tile-source"] for row, column in np.ndindex(2, 3)]
    assert sources == ["file", "file", "decoded", "decoded", "decoded", "decoded"]


def test_many_threads_read_one_slide_at_once(tmp_path, picture, write_slide):
    """A peer holds one lock per slide; here two reads that wait for each other must both be inside."""
    import threading

    from wsi_vmamba.view.made_parts import MadeParts
    from wsi_vmamba.view.picture import SlidePicture

    slide = open_slide(write_slide(tmp_path / "a.tif", picture(300, 300)))
    both = threading.Barrier(2, timeout=10)

    class Waiting:
        def __getattr__(self, name):
            return getattr(slide, name)

        def encoded_tile(self, **where):
            both.wait()
            return slide.encoded_tile(**where)

        icc_profile, tile_overlap_px = None, 0

    shown = SlidePicture(Waiting(), made=MadeParts(1 << 20))
    threads = [
        threading.Thread(target=shown.tile, kwargs={"level": 0, "column": n, "row": 0}) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken
    slide.close()
