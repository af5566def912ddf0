from __future__ import annotations

import pytest

from wsi_vmamba.progress import News, RunProgress, in_words


def news(slide_id: str, done_px: int, *, total_px: int = 1000, kept_px: int = 0) -> News:
    return News(
        slide_id=slide_id,
        regions=done_px // 100,
        n_regions=total_px // 100,
        done_px=done_px,
        total_px=total_px,
        kept_px=kept_px,
    )


def test_the_time_left_follows_the_pixels():
    run = RunProgress(n_slides=1, began_s=0)
    run.take(news("a", 0), 100)
    assert run.running["a"].left_s(150) is None
    run.take(news("a", 250), 150)
    assert run.running["a"].left_s(150) == 150  # 250 px in 50 s, 750 to come
    assert run.running["a"].left_s(200) == 300  # nothing came since


def test_what_was_kept_is_done_but_says_nothing_of_the_pace():
    run = RunProgress(n_slides=1, began_s=0)
    run.take(news("a", 900, kept_px=900), 0)
    assert run.left_s(1) is None
    run.take(news("a", 950, kept_px=900), 60)
    assert run.running["a"].left_s(60) == 60
    assert run.left_s(60) == 60


def test_slides_that_nobody_has_looked_at_count_as_large_as_the_others():
    run = RunProgress(n_slides=4, began_s=0)
    run.take(news("a", 0), 0)
    run.take(news("a", 1000), 100)
    run.finish("a")
    run.take(news("b", 0, total_px=3000), 100)
    run.take(news("b", 1000, total_px=3000), 200)
    # 2000 px in 200 s; 2000 of b to come, and two slides of (1000 + 3000) / 2.
    assert run.left_s(200) == 200 + 400
    assert run.finished == 1


def test_workers_side_by_side_are_one_pace():
    run = RunProgress(n_slides=2, began_s=0)
    for slide_id in "ab":
        run.take(news(slide_id, 0), 0)
        run.take(news(slide_id, 500), 50)
    assert [run.running[slide_id].left_s(50) for slide_id in "ab"] == [50, 50]
    assert run.left_s(50) == 50


def test_a_slide_taken_over_by_another_worker_goes_on_with_what_was_kept():
    run = RunProgress(n_slides=1, began_s=0)
    run.take(news("a", 0), 0)
    run.take(news("a", 500), 50)
    run.take(news("a", 500, kept_px=500), 100)
    run.take(news("a", 600, kept_px=500), 120)
    assert run.running["a"].left_s(120) == 80
    assert run.left_s(120) == 120 / 600 * 400


def test_late_news_of_a_slide_that_is_through_count_for_nothing():
    run = RunProgress(n_slides=2, began_s=0)
    run.take(news("a", 500), 0)
    run.finish("a")
    run.take(news("a", 900), 1)
    assert run.running == {}
    assert run.finished == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "time left not known yet"),
        (7.4, "about 7 s left"),
        (100, "about 2 min left"),
        (6000, "about 1 h 40 min left"),
        (259_200, "about 3.0 days left"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
