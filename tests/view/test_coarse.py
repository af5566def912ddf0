"""Slides without small levels: a coarse picture at once, finer as they are read, and exact in the end."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.view import made_levels
from wsi_vmamba.view.coarse import UNKNOWN, CoarsePicture
from wsi_vmamba.view.made_parts import MadeParts
from wsi_vmamba.view.picture import SlidePicture

SQUARE, SHRINK = 32, 8


def painted(rows: int, columns: int, *, height: int, width: int):
    """A picture of squares of one colour each, as it is when all is read, and what reads it."""
    y, x = np.mgrid[:rows, :columns]
    colours = np.stack([10 + 3 * y, 10 + 3 * x, 7 * (x + y) % 200], -1).astype(np.uint8)
    whole = colours.repeat(SQUARE, 0).repeat(SQUARE, 1)[:height, :width]

    def read(box):
        left, top, right, bottom = box
        return whole[top:bottom:SHRINK, left:right:SHRINK], False

    return colours, whole[::SHRINK, ::SHRINK], read


@pytest.mark.parametrize(("rows", "columns"), [(40, 50), (1, 600), (33, 31)])
def test_the_first_pass_shows_the_nearest_square_and_the_last_the_truth(rows, columns):
    width, height = columns * SQUARE - 5, rows * SQUARE - 11
    colours, truth, read = painted(rows, columns, height=height, width=width)
    coarse = CoarsePicture(width_px=width, height_px=height, square_px=SQUARE, shrink=SHRINK)
    assert coarse.pixels.shape == truth.shape
    assert (coarse.pixels == UNKNOWN).all()
    boxes = []
    coarse.read_on(lambda box: boxes.append(box) or read(box), seconds=60, first_pass_only=True)
    assert 0 < coarse.read_share < 0.6
    read_at = np.zeros((rows, columns), dtype=bool)
    for left, top, _, _ in boxes:
        read_at[top // SQUARE, left // SQUARE] = True
    first = np.argwhere(read_at)
    stride = max(first[:, 0].max(), first[:, 1].max()) // max(1, len(set(first[:, int(rows == 1)])) - 1)
    for row in range(rows):
        for column in range(columns):
            shown = coarse.pixels[row * 4, column * 4]
            if read_at[row, column]:
                assert (shown == colours[row, column]).all()
            else:
                near = first[np.abs(first - (row, column)).max(axis=1) <= stride]
                assert (colours[near[:, 0], near[:, 1]] == shown).all(-1).any()
    while not coarse.is_complete:
        coarse.read_on(read, seconds=0)
    np.testing.assert_array_equal(coarse.pixels, truth)
    assert len(boxes) == np.count_nonzero(read_at)


def test_what_is_not_known_is_grey_and_what_failed_is_read_again():
    _, truth, read = painted(40, 50, height=1280, width=1600)
    coarse = CoarsePicture(width_px=1600, height_px=1280, square_px=SQUARE, shrink=SHRINK)
    left_over = [40]

    def fail_later(box):
        left_over[0] -= 1
        if left_over[0] < 0:
            raise UnreadableSlideError("s", "gone")
        return read(box)

    with pytest.raises(UnreadableSlideError, match="gone"):
        coarse.read_on(fail_later, seconds=60)
    assert coarse.read_share == pytest.approx(40 / 2000)
    assert (coarse.pixels[-1] == UNKNOWN).all()
    coarse.read_on(read, seconds=60)
    np.testing.assert_array_equal(coarse.pixels, truth)


def test_damage_is_known_by_place_and_tried_again_when_somebody_looks_anew():
    _, truth, read = painted(20, 20, height=640, width=640)
    coarse = CoarsePicture(width_px=640, height_px=640, square_px=SQUARE, shrink=SHRINK)
    coarse.read_on(lambda box: (read(box)[0], box[:2] == (64, 96)), seconds=60)
    assert coarse.is_damaged((8, 12, 9, 13))
    assert not coarse.is_damaged((0, 0, 8, 80))
    coarse.try_damage_again()
    assert not coarse.is_complete
    coarse.read_on(read, seconds=60)
    assert coarse.is_complete
    assert not coarse.is_damaged((0, 0, 80, 80))
    np.testing.assert_array_equal(coarse.pixels, truth)


@pytest.fixture
def coarsely(monkeypatch):
    """Small slides are read as large ones are."""
    monkeypatch.setattr(made_levels, "MOST_TILES_AT_ONCE", 16)
    monkeypatch.setattr(made_levels, "COARSE_MAX_PX", 200_000)


@pytest.mark.parametrize(
    ("tile", "options"),
    [(128, {}), (144, {}), (128, {"compression": "deflate", "compressionargs": {}})],
    ids=["jpeg", "tiles that are no multiple", "decoded whole"],
)
def test_every_coarse_level_is_in_the_end_what_the_slide_shows(
    tmp_path, write_slide, picture, coarsely, tile, options
):
    pixels = picture(2100, 1500)
    with open_slide(write_slide(tmp_path / "a.tif", pixels, tile=tile, **options)) as slide:
        shown = SlidePicture(slide, made=MadeParts(4 << 20))
        assert [shown.is_coarse(n) for n in range(len(shown.levels))] == [False, False, False, True]
        before = shown.tile(level=3, column=0, row=0)
        assert (before.source, before.is_passing) == ("made", True)
        while not shown.coarse.is_complete:
            shown.read_on(seconds=0.05)
        for number in range(3, len(shown.levels)):
            level, factor = shown.levels[number], 2**number
            found = shown.tile(level=number, column=0, row=0)
            assert not found.is_passing
            got = np.asarray(Image.open(io.BytesIO(found.data)).convert("RGB")).astype(int)
            rows = np.minimum((np.arange(min(512, level.height_px)) + 0.5) * factor, 1499).astype(int)
            columns = np.minimum((np.arange(min(512, level.width_px)) + 0.5) * factor, 2099).astype(int)
            np.testing.assert_allclose(got[:-8, :-8], pixels[np.ix_(rows, columns)][:-8, :-8], atol=9)


def wait_until_read(viewer, slide) -> list[float]:
    """Ask as the page does; return how much had been read each time."""
    shares, until = [], time.monotonic() + 30
    while time.monotonic() < until:
        found = viewer.get(slide["coarse"]).json
        shares.append(found["read"])
        if found["complete"]:
            return shares
        time.sleep(0.01)
    raise AssertionError(shares)


def test_the_page_of_such_a_slide_says_how_much_has_been_read_until_all_is(
    view, tmp_path, picture, write_slide, coarsely, monkeypatch
):
    monkeypatch.setattr(made_levels, "FIRST_LOOK_S", 0.0)
    monkeypatch.setattr("wsi_vmamba.view.coarse._FIRST_SQUARES", 4)
    monkeypatch.setattr("wsi_vmamba.view.coarse._TAKEN", 2)
    pixels = picture(2100, 1500)
    write_slide(tmp_path / "a.tif", pixels, tile=128)
    write_slide(tmp_path / "small.tif", picture(300, 200))
    viewer = view(tmp_path)
    assert viewer.get(f"/slides/{viewer.id_of('small')}").json["coarse"] is None
    slide = viewer.get(f"/slides/{viewer.id_of('a')}").json
    assert [each["coarse"] for each in slide["levels"]] == [False, False, False, True]
    url = slide["tile_url"].format(level=3, column=0, row=0)
    first = viewer.get(url)
    assert (first.headers["tile-passing"], first.headers["cache-control"]) == ("true", "no-store")
    thumbnail = viewer.get(slide["thumbnail"])
    assert thumbnail.headers["cache-control"] == "no-store"
    shares = wait_until_read(viewer, slide)
    assert shares == sorted(shares)
    assert shares[0] < 1
    last = viewer.get(url)
    assert "tile-passing" not in last.headers
    assert "immutable" in last.headers["cache-control"]
    got = np.asarray(Image.open(io.BytesIO(last.body)).convert("RGB")).astype(int)
    np.testing.assert_allclose(got[:-4, :-4], pixels[4::8, 4::8][: len(got) - 4, : got.shape[1] - 4], atol=9)


def test_a_slide_that_goes_away_while_it_is_read_is_said_to_who_asks(
    view, tmp_path, picture, write_slide, coarsely, monkeypatch
):
    write_slide(tmp_path / "a.tif", picture(2100, 1500), tile=128)
    viewer = view(tmp_path)
    slide = viewer.get(f"/slides/{viewer.id_of('a')}").json
    monkeypatch.setattr(
        SlidePicture,
        "read_on",
        lambda *_, **__: (_ for _ in ()).throw(UnreadableSlideError("a", "it went away")),
    )
    until, answer = time.monotonic() + 20, viewer.get(slide["coarse"])
    while answer.status == 200 and time.monotonic() < until:
        time.sleep(0.01)
        answer = viewer.get(slide["coarse"])
    assert answer.status == 422
    assert "it went away" in answer.json["error"]["message"]


def test_damaged_tiles_are_striped_in_the_coarse_picture(tmp_path, write_slide, picture, coarsely):
    path = write_slide(tmp_path / "a.tif", picture(4096, 1024), tile=128)
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + length // 4 : offset + length] = bytes(length - length // 4)
    path.write_bytes(data)
    with open_slide(path) as slide:
        shown = SlidePicture(slide, made=MadeParts(4 << 20))
        shown.read_on(seconds=60)
        tile = shown.tile(level=3, column=0, row=0)
        assert tile.is_damaged
        got = np.asarray(Image.open(io.BytesIO(tile.data)).convert("RGB")).astype(int)
        assert got[:8, :8, 0].mean() > got[:8, :8, 2].mean() + 60  # red
