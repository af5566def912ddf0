"""Overlapping windows, merging, and GeoJSON: no detector is needed to know the right answer."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import shapely

from wsi_vmamba.annotation.geojson import read_geojson
from wsi_vmamba.annotation.model import Role
from wsi_vmamba.detection.geojson import geojson_text
from wsi_vmamba.detection.objects import Cut, join, make_objects
from wsi_vmamba.detection.windows import Window, cover, merge, whole_objects
from wsi_vmamba.errors import UsageError


def found(boxes, scores, labels=None):
    cuts = [
        Cut(x_px=int(a), y_px=int(b), mask=np.ones((int(d - b), int(c - a)), dtype=np.bool_))
        for a, b, c, d in boxes
    ]
    return make_objects(boxes, [0] * len(boxes) if labels is None else labels, cuts, scores=scores)


@pytest.mark.parametrize(
    ("width", "height", "window", "overlap"),
    [(100, 60, 40, 10), (101, 40, 40, 0), (30, 90, 64, 63), (40, 40, 40, 8)],
)
def test_windows_cover_a_picture_with_the_overlap(width, height, window, overlap):
    seen = np.zeros((height, width), dtype=int)
    windows = cover(width_px=width, height_px=height, window_px=window, overlap_px=overlap)
    for one in windows:
        assert 0 <= one.x_px <= width - one.width_px
        assert 0 <= one.y_px <= height - one.height_px
        seen[one.y_px : one.y_px + one.height_px, one.x_px : one.x_px + one.width_px] += 1
    assert seen.min() >= 1
    # Whatever is no longer than the overlap lies whole in a window.
    starts = sorted({one.x_px for one in windows})
    assert all(after - before <= window - overlap for before, after in itertools.pairwise(starts))
    assert len(set(windows)) == len(windows)


def test_an_overlap_as_large_as_the_window_is_refused():
    with pytest.raises(UsageError, match="less than the window, got 64 and 64 px"):
        cover(width_px=100, height_px=100, window_px=64, overlap_px=64)


def test_what_an_inner_edge_cuts_is_left_out():
    window = Window(y_px=0, x_px=50, width_px=50, height_px=60)
    inside = found(
        [(10, 10, 20, 20), (0, 10, 9, 20), (30, 0, 40, 10), (30, 50, 40, 60), (41, 10, 50, 20)], [0.9] * 5
    )
    kept = whole_objects(inside, window, width_px=200, height_px=60)
    # Top and bottom are edges of the picture, left and right are not.
    assert kept.boxes.tolist() == [[60, 10, 70, 20], [80, 0, 90, 10], [80, 50, 90, 60]]
    assert [cut.box for cut in kept.cuts] == [(60, 10, 70, 20), (80, 0, 90, 10), (80, 50, 90, 60)]


def test_objects_on_seams_are_found_once_wherever_they_lie():
    """A perfect detector, but for jitter, on windows of a field of squares: merging gives each square once."""
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(np.arange(3, 290, 17), np.arange(5, 190, 19)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 9], axis=1).astype(float)
    parts = []
    for window in cover(width_px=300, height_px=200, window_px=64, overlap_px=16):
        left, top = window.x_px, window.y_px
        cut = np.clip(boxes - [left, top, left, top], 0, [window.width_px, window.height_px] * 2)
        seen = cut[(cut[:, 2] - cut[:, 0] > 1) & (cut[:, 3] - cut[:, 1] > 1)]
        objects = found(seen, rng.uniform(0.5, 1, len(seen)))
        parts.append(whole_objects(objects, window, width_px=300, height_px=200))
    assert sum(map(len, parts)) > len(boxes)
    merged = merge(parts)
    assert sorted(merged.boxes.tolist()) == sorted(boxes.tolist())
    assert (np.diff(merged.scores) <= 0).all()


def test_merging_keeps_the_higher_score_and_other_classes():
    one, other = (
        found([(0, 0, 10, 10)], [0.6]),
        found([(1, 0, 11, 10), (0, 0, 10, 10)], [0.9, 0.7], labels=[0, 1]),
    )
    merged = merge([one, other])
    assert merged.boxes.tolist() == [[1, 0, 11, 10], [0, 0, 10, 10]]
    assert merged.labels.tolist() == [0, 1]
    assert len(merge([])) == len(join([])) == 0


def test_geojson_has_outlines_in_level_0_pixels(tmp_path):
    mask = np.ones((2, 3), dtype=np.bool_)
    mask[0, 0] = False
    some = make_objects(
        [(4, 6, 7, 8), (20, 20, 24, 22)],
        [1, 0],
        [Cut(x_px=4, y_px=6, mask=mask), Cut(x_px=0, y_px=0, mask=np.zeros((0, 0), dtype=np.bool_))],
        scores=[0.91234, 0.5],
    )
    text = geojson_text(some, classes=("a", "b"), slide_id="s", l0_per_px=2.0, mpp_l0=0.25)
    first, second = json.loads(text)["features"]
    assert first["properties"]["classification"]["name"] == "b"
    assert first["properties"]["objectType"] == "detection"
    # Five pixels of 2 x 2 level-0 pixels at 0.25 um.
    assert first["properties"]["measurements"] == {"score": 0.9123, "area um2": 1.25}
    expected = shapely.union_all([shapely.box(10, 12, 14, 14), shapely.box(8, 14, 14, 16)])
    assert shapely.equals(shapely.from_geojson(json.dumps(first["geometry"])), expected)
    # A mask without pixels has the outline of its box.
    assert shapely.equals(shapely.from_geojson(json.dumps(second["geometry"])), shapely.box(40, 40, 48, 44))
    (tmp_path / "s.geojson").write_text(text)
    read = read_geojson(tmp_path / "s.geojson", groups={"a": Role.INCLUDED, "b": Role.INCLUDED})
    assert sum(shapely.area(outline.geometry) for outline in read.outlines) == 20 + 32
    assert text == geojson_text(some, classes=("a", "b"), slide_id="s", l0_per_px=2.0, mpp_l0=0.25)
