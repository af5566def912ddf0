"""Data sets in COCO's format: masks by value, and what is wrong with one named."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from wsi_vmamba.datasets.synthetic.nucleus_pictures import NUCLEI, paint_nuclei
from wsi_vmamba.detection.average_precision import PrecisionCounter
from wsi_vmamba.detection.coco import read_coco
from wsi_vmamba.detection.examples import example_of
from wsi_vmamba.detection.objects import paste
from wsi_vmamba.detection.painted import objects_of, write_painted
from wsi_vmamba.detection.run_lengths import mask_of_runs
from wsi_vmamba.errors import DatasetError, MissingDataError, UsageError

#: A mask of 6 x 5 px and what COCO's own tools make of it.
MASK = np.array(
    [[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1]],
    dtype=np.bool_,
)


def write(folder, annotations, **changes):
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 6, "height": 5}],
        "categories": [{"id": 3, "name": "cell"}, {"id": 9, "name": "other"}],
        "annotations": annotations,
        **changes,
    }
    (folder / "set.json").write_text(json.dumps(content))
    cv2.imwrite(str(folder / "a.png"), np.full((5, 6, 3), (3, 2, 1), dtype=np.uint8))
    return folder / "set.json", folder


def annotation(**changes):
    square = [[1, 1, 3, 1, 3, 4, 1, 4]]
    return {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 1, 2, 3], "segmentation": square, **changes}


def drawn(data):
    picture = data.pictures[0]
    return [paste(cut, width_px=6, height_px=5) for cut in data.objects(picture).cuts]


def test_polygons_are_drawn_by_the_centres_of_pixels(tmp_path):
    two = [[1, 1, 3, 1, 3, 4, 1, 4], [4, 0, 9, 0, 9, 1.6, 4, 1.6]]
    data = read_coco(*write(tmp_path, [annotation(), annotation(id=2, segmentation=two, category_id=3)]))
    expected = np.zeros((5, 6), dtype=np.bool_)
    expected[1:4, 1:3] = True
    np.testing.assert_array_equal(drawn(data)[0], expected)
    # Beyond the picture nothing is drawn; row 1 has its centre at 1.5, above 1.6.
    expected[:2, 4:] = True
    np.testing.assert_array_equal(drawn(data)[1], expected)
    objects = data.objects(data.pictures[0])
    assert objects.labels.tolist() == [1, 0]
    assert objects.boxes.tolist() == [[1, 1, 3, 4]] * 2
    assert data.classes == ("cell", "other")
    assert data.pictures[0].pixels()[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("counts", [[6, 2, 3, 3, 3, 2, 9, 2], "62310O60"])
def test_run_lengths_plain_and_compressed(counts, tmp_path):
    runs = {"size": [5, 6], "counts": counts}
    data = read_coco(*write(tmp_path, [annotation(segmentation=runs, iscrowd=1)]))
    np.testing.assert_array_equal(drawn(data)[0], MASK)
    assert data.objects(data.pictures[0]).crowd.tolist() == [True]


def test_run_lengths_that_are_none():
    with pytest.raises(ValueError, match="must add up to 6 x 5 = 30 pixels, got 29"):
        mask_of_runs([29], width_px=6, height_px=5)
    with pytest.raises(ValueError, match="hold the character '~'"):
        mask_of_runs("6~", width_px=6, height_px=5)
    with pytest.raises(ValueError, match="end in the middle of a number"):
        mask_of_runs("P", width_px=6, height_px=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 8}, "image_id 8 of .* is not in the file"),
        ({"category_id": 1}, "category_id 1 of .* is not in the file"),
        ({"category_id": True}, "every annotation needs .*; category_id is True"),
        ({"bbox": [1, 1, -1, 3]}, "bbox must be .* with a width and height of 0 or more"),
        ({"bbox": [1, 1, 2]}, "bbox must be"),
    ],
)
def test_what_is_wrong_with_an_annotation_is_named(changes, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        read_coco(*write(tmp_path, [annotation(**changes)]))


@pytest.mark.parametrize("y_px", [388.33, 388.0])
def test_a_box_without_height_is_known_but_not_learned_from(y_px, tmp_path):
    """COCO's instances_train2017.json has such a box; its tools count it among the known."""
    x0, x1 = 296.65, 297.68
    flat = {"bbox": [x0, y_px, 1.03, 0.0], "segmentation": [[x0, y_px, x0, y_px, x1, y_px, x1, y_px]]}
    images = [{"id": 7, "file_name": "a.png", "width": 500, "height": 400}]
    square = annotation(id=2, bbox=[10, 20, 30, 40], segmentation=[[10, 20, 40, 20, 40, 60, 10, 60]])
    data = read_coco(*write(tmp_path, [annotation(**flat), square], images=images))
    known = data.objects(data.pictures[0])
    np.testing.assert_allclose(known.boxes[0], [x0, y_px, x1, y_px])
    _, target = example_of(np.zeros((400, 500, 3), dtype=np.uint8), known, quarters=0, mirrored=False)
    assert target["boxes"].tolist() == [[10, 20, 40, 60]]
    for of in ("boxes", "masks"):
        counter = PrecisionCounter(of=of)
        counter.add(known, known)
        found = counter.at(0.5)
        assert found.known == {1: 2}
        # Equal scores, the flat one first: rank 1 wrong, rank 2 right, half of the known found.
        assert found.by_class[1] == pytest.approx(51 / 101 / 2)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, "segmentation must be polygons or run lengths, got null .* cannot learn from boxes alone"),
        ([[1, 1, 2, 2]], "at least three points"),
        ([[1, 1, 2, 2, 3]], "cannot reshape"),
        ({"size": [6, 5], "counts": [30]}, r"size of run lengths must be \[height, width\] = \[5, 6\]"),
        ({"size": [5, 6]}, "counts"),
    ],
)
def test_what_is_wrong_with_an_outline_is_named(outline, message, tmp_path):
    data = read_coco(*write(tmp_path, [annotation(segmentation=outline)]))
    with pytest.raises(DatasetError, match=message):
        data.objects(data.pictures[0])


def test_what_is_wrong_with_a_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="no file"):
        read_coco(tmp_path / "none.json", tmp_path)
    (tmp_path / "set.json").write_text("[1, 2")
    with pytest.raises(DatasetError, match="not JSON"):
        read_coco(tmp_path / "set.json", tmp_path)
    (tmp_path / "set.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="the lists images, categories, annotations"):
        read_coco(tmp_path / "set.json", tmp_path)
    twice = [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]
    with pytest.raises(
        DatasetError, match="the category id 3 is there twice; give each category an id of its own"
    ):
        read_coco(*write(tmp_path, [], categories=twice))
    elsewhere = [{"id": 7, "file_name": "b.png", "width": 6, "height": 5}]
    with pytest.raises(
        MissingDataError,
        match=r"names 1 pictures, 1 of them are not there, such as .*b\.png; put them into .*train_pictures",
    ):
        read_coco(*write(tmp_path, [], images=elsewhere))
    small = [{"id": 7, "file_name": "a.png", "width": 5, "height": 5}]
    with pytest.raises(
        DatasetError, match=r"a\.png has 6 x 5 px, .* says 5 x 5; give the picture that was annotated"
    ):
        read_coco(*write(tmp_path, [], images=small)).pictures[0].pixels()


def test_painted_nuclei_come_back_pixel_by_pixel(tmp_path):
    write_painted(tmp_path, training=1, validation=1, side_px=96, seed=4)
    data = read_coco(tmp_path / "train.json", tmp_path / "train")
    painted = paint_nuclei(8, 0, side_px=96)
    assert data.classes == NUCLEI
    np.testing.assert_array_equal(data.pictures[0].pixels(), painted.image)
    found, known = data.objects(data.pictures[0]), objects_of(painted)
    assert len(found) == len(painted.kinds) > 8
    np.testing.assert_array_equal(found.labels, known.labels)
    np.testing.assert_array_equal(found.boxes, known.boxes)
    for place, (one, other) in enumerate(zip(found.cuts, known.cuts, strict=True)):
        np.testing.assert_array_equal(one.mask, other.mask)
        # Every pixel belongs to one nucleus.
        np.testing.assert_array_equal(paste(one, width_px=96, height_px=96), painted.owner == place + 1)
    # Nuclei are darker than what is between them, in red above all.
    red = painted.image[..., 0].astype(float)
    assert red[painted.owner > 0].mean() < red[painted.owner == 0].mean() - 30
    other = read_coco(tmp_path / "validation.json", tmp_path / "validation").pictures[0].pixels()
    assert not np.array_equal(other, painted.image)
    with pytest.raises(UsageError, match="a side of at least 64 px"):
        paint_nuclei(0, 0, side_px=32)
