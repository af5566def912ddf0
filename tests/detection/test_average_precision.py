"""Average precision against values worked out by hand, and against COCO's own counting of crowds."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_vmamba.detection.average_precision import (
    COCO_OVERLAPS,
    PrecisionCounter,
    average_precision,
    match,
)
from wsi_vmamba.detection.objects import Cut, make_objects
from wsi_vmamba.detection.overlap import box_overlaps, mask_overlaps


def rectangle(left, top, right, bottom):
    return Cut(x_px=left, y_px=top, mask=np.ones((bottom - top, right - left), dtype=np.bool_))


def rectangles(boxes, labels=None, scores=None, crowd=None):
    labels = [0] * len(boxes) if labels is None else labels
    return make_objects(boxes, labels, [rectangle(*box) for box in boxes], scores=scores, crowd=crowd)


def test_overlaps_of_boxes_and_masks():
    found = rectangles([(0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30)])
    known = rectangles([(0, 0, 10, 10), (0, 0, 20, 10)], crowd=[False, True])
    # Of a crowd the overlap is over the area of the found one.
    expected = [[1, 1], [50 / 150, 1], [0, 0]]
    np.testing.assert_allclose(box_overlaps(found.boxes, known.boxes, crowd=known.crowd), expected)
    np.testing.assert_allclose(mask_overlaps(found, known), expected)
    half = make_objects([(0, 0, 10, 10)], [0], [Cut(x_px=0, y_px=0, mask=np.tri(10, dtype=np.bool_))])
    np.testing.assert_allclose(mask_overlaps(half, known.take(np.array([0]))), [[55 / 100]])
    assert mask_overlaps(found.take(np.zeros(3, dtype=np.bool_)), known).shape == (0, 2)


def test_each_known_object_is_found_once():
    overlaps = np.array([[0.6, 0.9], [0.55, 0.8], [0.9, 0.9]])
    # The first takes the better one, the second what is left, the third comes too late.
    assert match(overlaps, crowd=np.zeros(2, dtype=np.bool_), least=0.5).tolist() == [1, 1, 0]
    assert match(overlaps, crowd=np.array([False, True]), least=0.5).tolist() == [1, -1, -1]
    assert match(overlaps, crowd=np.zeros(2, dtype=np.bool_), least=0.95).tolist() == [0, 0, 0]
    assert match(np.empty((2, 0)), crowd=np.empty(0, dtype=np.bool_), least=0.5).tolist() == [0, 0]


def test_average_precision_worked_out_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    # Hits at ranks 1 and 3 of two known: precision 1 up to recall 0.5 (51 of 101 recalls), 2/3 beyond (50 of 101).
    found = average_precision(scores, np.array([1, 0, 1, 0], dtype=np.int8), n_known=2)
    assert found == pytest.approx((51 + 50 * 2 / 3) / 101)
    # What is part of a crowd is as if it was not there.
    assert average_precision(scores, np.array([1, -1, 1, 0], dtype=np.int8), n_known=2) == 1.0
    # Only a quarter found: recalls 0 to 0.25.
    assert average_precision(scores[:1], np.array([1], dtype=np.int8), n_known=4) == pytest.approx(26 / 101)
    assert average_precision(scores[:0], np.empty(0, dtype=np.int8), n_known=4) == 0.0


def test_pictures_and_classes_are_counted_together():
    counter = PrecisionCounter(COCO_OVERLAPS, of="masks")
    known = rectangles([(0, 0, 10, 10), (20, 0, 30, 10)], labels=[0, 1])
    counter.add(rectangles([(0, 0, 10, 10), (0, 0, 10, 10)], labels=[0, 1], scores=[0.9, 0.8]), known)
    counter.add(
        rectangles([(0, 0, 10, 8)], labels=[1], scores=[0.7]), rectangles([(0, 0, 10, 10)], labels=[1])
    )
    found = counter.at(0.5)
    assert found.known == {0: 1, 1: 2}
    assert found.by_class[0] == 1.0
    # Rank 1 wrong, rank 2 right: precision 1/2 up to recall 1/2.
    assert found.by_class[1] == pytest.approx(51 / 101 / 2)
    assert found.mean == pytest.approx((1 + 51 / 202) / 2)
    # The overlap of the second picture is 0.8: it counts at 0.5 to 0.8, seven of ten.
    assert counter.mean() == pytest.approx((1 + 0.7 * 51 / 202) / 2)


def test_a_class_that_no_picture_has_is_left_out():
    counter = PrecisionCounter()
    counter.add(rectangles([(0, 0, 4, 4)], labels=[3], scores=[0.5]), rectangles([]))
    assert counter.at(0.5).by_class == {}
    assert np.isnan(counter.at(0.5).mean)
