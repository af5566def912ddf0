"""JPEG frames of DICOM handed out as they lie in the file: the pixels are those that OpenSlide reads."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image

from tests.slide.dicom_slides import jpeg_frames, write_dicom
from wsi_vmamba.errors import BadTileError, UnsupportedSlideError
from wsi_vmamba.slide import open_slide

TILE = 64
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
#: 5 x 4 tiles, the last column and row padded.
WIDTH, HEIGHT = 300, 200


def picture(width=WIDTH, height=HEIGHT):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width + 30, y * 200 // height + 30, np.full_like(x, 60)], -1).astype(np.uint8)


def passed(slide, column, row, level=0):
    """What a browser's decoder, which goes by the markers alone, makes of a tile; None where it is not passed."""
    data = slide.encoded_tile(level=level, column=column, row=row)
    return None if data is None else np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def read(slide, column, row, tile=TILE):
    return slide.read_region(
        x_l0=column * tile, y_l0=row * tile, level=0, width_px=tile, height_px=tile
    ).astype(int)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
@pytest.mark.parametrize("offsets", ["basic", "extended", "none"])
@pytest.mark.parametrize("order", [None, [7, 6, 1, 0, 19]], ids=["full", "sparse"])
def test_whole_frames_are_passed_and_are_what_is_read(tmp_path, photometric, offsets, order):
    path = write_dicom(tmp_path / "a.dcm", picture(), photometric=photometric, offsets=offsets, order=order)
    stored = range(20) if order is None else order
    with open_slide(path) as slide:
        assert slide.has_encoded_tiles(0)
        for row, column in itertools.product(range(4), range(5)):
            found = passed(slide, column, row)
            is_whole = column < 4 and row < 3
            assert (found is not None) == (is_whole and 5 * row + column in stored)
            if found is not None:
                np.testing.assert_array_equal(found, read(slide, column, row))
                x, y = column * TILE, row * TILE
                np.testing.assert_allclose(found, picture()[y : y + TILE, x : x + TILE], atol=4)


@pytest.mark.parametrize(("photometric", "stored"), [("RGB", "YBR_FULL_422"), ("YBR_FULL_422", "RGB")])
def test_the_header_says_the_colours_not_the_marks_of_a_frame(tmp_path, photometric, stored):
    frames = [data[:2] + JFIF + data[2:] for data in jpeg_frames(picture(), TILE, photometric=stored)]
    path = write_dicom(tmp_path / "a.dcm", picture(), photometric=photometric, frames=frames)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(passed(slide, 1, 1), read(slide, 1, 1))


def test_each_level_is_passed_from_its_own_file(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", picture(512, 384))
    write_dicom(tmp_path / "b.dcm", 255 - picture(256, 192))
    write_dicom(tmp_path / "c.dcm", picture(128, 96), series="1.2.3.4")  # another slide
    with open_slide(path) as slide:
        assert [level.width_px for level in slide.levels] == [512, 256]
        np.testing.assert_allclose(passed(slide, 1, 2), picture(512, 384)[128:192, 64:128], atol=4)
        np.testing.assert_allclose(
            passed(slide, 1, 2, level=1), 255 - picture(256, 192)[128:192, 64:128], atol=4
        )


@pytest.mark.parametrize("table", ["basic", "none"])
def test_frames_in_several_pieces_are_left_to_the_reader(tmp_path, table):
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    path = write_dicom(tmp_path / "a.dcm", picture(128, 64))
    dataset = dcmread(path)
    frames = list(jpeg_frames(picture(128, 64), TILE, photometric="YBR_FULL_422"))
    dataset.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=table == "basic")
    dataset.save_as(path)
    with open_slide(path) as slide:
        assert passed(slide, 0, 0) is None


def test_a_frame_of_another_size_is_not_passed(tmp_path):
    other = list(jpeg_frames(picture(), TILE, photometric="RGB"))
    other[0] = next(jpeg_frames(picture(32, 32), 32, photometric="RGB"))
    path = write_dicom(tmp_path / "a.dcm", picture(), photometric="RGB", frames=other)
    with open_slide(path) as slide:
        assert passed(slide, 0, 0) is None
        assert passed(slide, 1, 0) is not None


def test_frames_that_share_a_place_are_left_to_the_reader(tmp_path):
    with open_slide(write_dicom(tmp_path / "a.dcm", picture(), order=[7, 1, 7])) as slide:
        assert passed(slide, 1, 0) is None


def test_frames_across_the_grid_are_refused_by_openslide(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", picture(), order=[7, 1, 0])
    dataset = pydicom.dcmread(path)
    place = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSlideSequence[0]
    place.ColumnPositionInTotalImagePixelMatrix += 5
    dataset.save_as(path)
    with pytest.raises(UnsupportedSlideError, match="unsupported frame alignment"):
        open_slide(path)


def test_damage_is_said_and_names_the_tile(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", noise)
    content = path.read_bytes()
    frame = list(jpeg_frames(noise, TILE, photometric="YBR_FULL_422"))[1]
    at = content.index(frame)
    path.write_bytes(content[: at + 1000] + bytes(512) + content[at + 1512 :])
    with open_slide(path) as slide:
        assert passed(slide, 0, 0) is not None
        with pytest.raises(BadTileError, match=r"tile \(col, row\) \(1, 0\)") as error:
            slide.encoded_tile(level=0, column=1, row=0)
        assert error.value.box_px == (64, 0, 64, 64)
        path.write_bytes(content[: at + 1000])
        with pytest.raises(BadTileError, match="end before their end mark"):
            slide.encoded_tile(level=0, column=1, row=0)


def test_a_closed_slide_hands_nothing_out(tmp_path):
    slide = open_slide(write_dicom(tmp_path / "a.dcm", picture()))
    assert passed(slide, 0, 0) is not None
    slide.close()
    with pytest.raises(OSError, match="closed"):
        slide.encoded_tile(level=0, column=0, row=0)


def test_a_header_on_which_openslide_would_end_the_process_is_refused(tmp_path):
    """In a process of its own, so that a fault fails the test and does not end them all."""
    from pydicom import dcmread

    def without_places(dataset):
        del dataset.PerFrameFunctionalGroupsSequence

    def of_giants(dataset):
        dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = 2**31 - 1

    def of_a_million_million_tiles(dataset):
        dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = 2**18
        dataset.Rows = dataset.Columns = 1

    def pointing_away(dataset):
        dataset.ExtendedOffsetTable = dataset.ExtendedOffsetTable[:-1] + b"\xef"

    cases = {
        without_places: "does not say where each lies; it is damaged",
        of_giants: "2147483647 x 2147483647 px",
        of_a_million_million_tiles: "68719476736 tiles",
        pointing_away: "points out of the file",
    }
    path = write_dicom(tmp_path / "sound.dcm", picture(), order=[7, 6, 1, 0, 19], offsets="extended")
    for change, message in cases.items():
        dataset = dcmread(path)
        change(dataset)
        (tmp_path / change.__name__).mkdir()
        dataset.save_as(tmp_path / change.__name__ / "a.dcm")
        command = f"from wsi_vmamba.slide import open_slide; open_slide({str(tmp_path / change.__name__ / 'a.dcm')!r})"
        done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 1, change.__name__
        assert message in done.stderr


def test_whatever_is_flipped_in_a_header_nothing_but_a_readers_error_comes_of_it(tmp_path):
    path, rng = tmp_path / "a.dcm", np.random.default_rng(0)
    sound = [
        write_dicom(path, picture(), order=order, offsets=offsets).read_bytes()
        for order in (None, [7, 6, 1, 0, 19]) for offsets in ("basic", "extended", "none")
    ]  # fmt: skip
    for number in range(90):
        data = bytearray(sound[number % len(sound)])
        head = data.index(b"\xe0\x7f\x10\x00OB")
        for place in rng.integers(132, head + 60, 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(OSError), open_slide(path, reader="openslide") as slide:
            for column in range(min(4, slide.levels[0].width_px // TILE)):
                slide.encoded_tile(level=0, column=column, row=0)


@pytest.mark.real_slides
@pytest.mark.parametrize(
    "name", ["slides/bone-jpeg.dcm", "slides/camelyon-overview-jpeg.dcm", "vendor/ez_camelyon.dcm"]
)
def test_real_slides(real_data, name):
    with open_slide(real_data / name) as slide:
        level, (tile, _) = slide.levels[0], slide.levels[0].stored_px
        seen = 0
        for row, column in itertools.product(
            range(-(-level.height_px // tile)), range(-(-level.width_px // tile))
        ):
            found = passed(slide, column, row)
            is_whole = (column + 1) * tile <= level.width_px and (row + 1) * tile <= level.height_px
            assert (found is not None) == is_whole
            if found is not None:
                np.testing.assert_allclose(found, read(slide, column, row, tile), atol=1)
                seen += 1
        assert seen == (level.width_px // tile) * (level.height_px // tile) > 4


@pytest.mark.real_slides
@pytest.mark.parametrize("name", ["slides/bone-jpeg2000.dcm", "slides/bone-raw.dcm"])
def test_real_slides_that_are_no_jpeg(real_data, name):
    with open_slide(real_data / name) as slide:
        assert not slide.has_encoded_tiles(0)
        assert passed(slide, 0, 0) is None


@pytest.mark.real_slides
@pytest.mark.parametrize("name", ["full_no_bot", "full_with_bot", "sparse_no_bot", "sparse_with_bot"])
def test_real_slides_smaller_than_their_frame(real_data, name):
    with open_slide(real_data / f"vendor/{name}.dcm") as slide:
        assert passed(slide, 0, 0) is None
