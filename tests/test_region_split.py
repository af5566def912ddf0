"""Boxes hold every patch once, leave background out, and divide tissue only where they must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsi_vmamba.region_split import _spared, cut_patches

TOUCHING = np.ones((3, 3))
masks = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def drawn(*rows):
    return np.array([[mark == "#" for mark in row] for row in rows])


def area(patches):
    return int(np.prod(patches.max(axis=0) - patches.min(axis=0) + 1))


def trimmed(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@settings(deadline=None)
@given(masks, st.integers(1, 12), st.integers(1, 20))
def test_every_patch_is_in_one_box_row_by_row_and_boxes_do_not_meet(mask, longest, worth):
    boxes = cut_patches(mask, longest=longest, worth=worth)
    times = np.zeros(mask.shape, dtype=int)
    covered = np.zeros(mask.shape, dtype=int)
    for patches in boxes:
        assert patches.dtype == np.int64
        columns, rows = patches.T
        assert (np.diff(rows * 100 + columns) > 0).all()
        times[rows, columns] += 1
        assert max(np.ptp(rows), np.ptp(columns)) < longest
        covered[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] += 1
    np.testing.assert_array_equal(times, mask)
    assert covered.max(initial=0) <= 1


@settings(deadline=None)
@given(masks, st.integers(1, 20))
def test_tissue_that_fits_a_box_is_never_divided(mask, worth):
    pieces, _ = ndimage.label(mask, structure=TOUCHING)
    for piece in range(1, pieces.max() + 1):
        holders = [
            patches
            for patches in cut_patches(mask, longest=12, worth=worth)
            if (pieces[patches[:, 1], patches[:, 0]] == piece).any()
        ]
        assert len(holders) == 1


@settings(deadline=None)
@given(masks.filter(np.any), st.integers(1, 20))
def test_each_cut_leaves_out_what_it_is_worth(mask, worth):
    boxes = cut_patches(mask, longest=12, worth=worth)
    assert sum(map(area, boxes)) <= trimmed(mask).size - worth * (len(boxes) - 1)


@settings(deadline=None)
@given(masks.filter(np.any))
def test_what_a_cut_spares_is_counted_by_hand(mask):
    mask = trimmed(mask)
    found = _spared(mask)
    assert found[0] == 0
    for at in range(1, len(mask)):
        touching = (ndimage.binary_dilation(mask[at], structure=np.ones(3)) & mask[at - 1]).any()
        spared = mask.size - trimmed(mask[:at]).size - trimmed(mask[at:]).size
        assert found[at] == (0 if touching else spared)


def test_two_pieces_side_by_side_are_two_boxes_where_that_is_worth_it():
    mask = drawn(
        "###.....",
        "###.....",
        "........",
        "......##",
    )
    apart = cut_patches(mask, longest=8, worth=24)
    assert [patches.tolist() for patches in apart] == [
        [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]],
        [[6, 3], [7, 3]],
    ]
    assert len(cut_patches(mask, longest=8, worth=25)) == 1


@pytest.mark.parametrize(
    ("mask", "boxes"),
    [
        (drawn("##..", "..##", "...."), 1),  # touching at a corner
        (drawn("##..", "....", "..##"), 2),
        (drawn("#.#.", ".#.#", "#..."), 1),
    ],
)
def test_touching_at_a_corner_is_touching(mask, boxes):
    assert len(cut_patches(mask, longest=8, worth=1)) == boxes


def test_a_gap_is_cut_before_tissue_is():
    """Six columns, a gap, six columns: equal parts of at most eight would be 7 and 6, through the first piece."""
    mask = np.ones((8, 13), dtype=bool)
    mask[:, 6] = False
    assert [area(patches) for patches in cut_patches(mask, longest=8, worth=8)] == [48, 48]
    assert [area(patches) for patches in cut_patches(mask, longest=8, worth=9)] == [48, 48]
    assert [area(patches) for patches in cut_patches(np.ones((8, 13), dtype=bool), longest=8, worth=8)] == [
        56,
        48,
    ]


def test_nothing_to_divide():
    assert cut_patches(np.zeros((4, 4), dtype=bool), longest=2, worth=1) == []
