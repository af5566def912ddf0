"""Parts of levels that a slide lacks: made once, the dearest kept longest, from tiles decoded small."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import simplejpeg

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.view.made_parts import MadeParts
from wsi_vmamba.view.picture import SlidePicture
from wsi_vmamba.view.shrinking import decoded_small


def pixels(value: int) -> np.ndarray:
    return np.full((10, 10, 3), value, dtype=np.uint8)


def test_who_asks_while_a_part_is_made_waits_for_it_and_gets_the_same():
    parts, begun, go, made = MadeParts(1 << 20), threading.Event(), threading.Event(), []

    def make():
        made.append(1)
        begun.set()
        assert go.wait(20)
        return pixels(7), False

    found = []
    ask = [
        threading.Thread(target=lambda: found.append(parts.part("a", halvings=1, name="s", make=make)))
        for _ in range(3)
    ]
    ask[0].start()
    assert begun.wait(20)
    for thread in ask[1:]:
        thread.start()
    go.set()
    for thread in ask:
        thread.join(20)
    assert made == [1]
    assert len(found) == 3
    assert all(part is found[0][0] and not is_damaged for part, is_damaged in found)


def test_fine_parts_that_come_later_do_not_push_out_coarse_ones():
    parts = MadeParts(5 * pixels(0).nbytes)
    parts.part("coarse", halvings=4, name="s", make=lambda: (pixels(1), False))
    for number in range(50):
        parts.part(number, halvings=1, name="s", make=lambda: (pixels(2), False))
    assert parts.held_bytes == parts.capacity_bytes
    kept, _ = parts.part("coarse", halvings=4, name="s", make=lambda: pytest.fail("made again"))
    assert (kept == 1).all()


def test_an_error_reaches_who_asks_and_the_next_try_is_a_new_one_and_damage_is_not_kept():
    parts = MadeParts(1 << 20)

    def fail():
        raise UnreadableSlideError("s", "gone")

    with pytest.raises(UnreadableSlideError, match="gone"):
        parts.part("a", halvings=1, name="s", make=fail)
    assert parts.part("a", halvings=1, name="s", make=lambda: (pixels(3), True))[1]
    assert (parts.part("a", halvings=1, name="s", make=lambda: (pixels(4), False))[0] == 4).all()
    parts.stop()
    with pytest.raises(UnreadableSlideError, match="ending"):
        parts.part("b", halvings=1, name="s", make=lambda: (pixels(5), False))


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_tile_decoded_small_is_the_mean_of_its_squares(shrink):
    y, x = np.mgrid[:256, :192]
    whole = np.stack([x, 255 - y, (x + y) // 2], axis=-1).astype(np.uint8)
    small = decoded_small(simplejpeg.encode_jpeg(whole, quality=95), shrink)
    means = whole.reshape(256 // shrink, shrink, 192 // shrink, shrink, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, means, atol=4)


def test_of_a_slide_without_small_levels_each_stored_tile_is_read_once_a_level(
    tmp_path, write_slide, picture
):
    """A coarse level would read the whole slide again for each of its tiles, if its parts were dropped meanwhile."""
    path = write_slide(tmp_path / "a.tif", picture(2048, 2048), tile=128)
    with open_slide(path) as slide:
        read: Counter[tuple[int, int]] = Counter()
        stored = slide.encoded_tile

        def count(*, level, column, row):
            read[column, row] += 1
            return stored(level=level, column=column, row=row)

        slide.encoded_tile = count
        shown = SlidePicture(slide, made=MadeParts(4 << 20))
        last = len(shown.levels) - 1
        for level in range(last, 0, -1):
            for row in range(shown.levels[level].rows):
                for column in range(shown.levels[level].columns):
                    shown.tile(level=level, column=column, row=row)
    assert len(read) == 16 * 16
    assert set(read.values()) == {
        last
    }  # each of the made levels is decoded from them, and they are not asked again
