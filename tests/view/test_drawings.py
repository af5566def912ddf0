"""What is drawn: kept whole, never over what somebody else drew, and read by the commands that it is for."""

from __future__ import annotations

import json

import pytest
import shapely

from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.masks import read_mask
from wsi_vmamba.slide import open_slide

RING = [[20, 30], [120, 30], [120, 130], [20, 130], [20, 30]]


def area(coordinates=None, *, kind="Polygon", **properties):
    properties = properties or {"classification": {"name": "Tumor", "color": [255, 0, 0]}}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates or [RING]},
        "properties": properties,
    }


def body(*features):
    return json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()


@pytest.fixture
def drawing(view, tmp_path, picture, write_slide):
    write_slide(tmp_path / "a.tif", picture(300, 200))
    viewer = view(tmp_path)
    return viewer, f"/slides/{viewer.id_of('a')}/drawings"


def test_a_drawing_is_read_by_annotations_and_masks(drawing, tmp_path):
    viewer, url = drawing
    empty = viewer.get(url)
    assert empty.json["features"] == []
    saved = viewer.put(url, body(area()), if_match=empty.headers["etag"])
    assert (saved.status, saved.json["features"], saved.json["file"]) == (200, 1, "a.geojson")
    again = viewer.get(url)
    assert again.headers["etag"] == saved.headers["etag"]
    assert again.json["features"][0]["geometry"]["coordinates"] == [RING]
    path = tmp_path / "drawings" / "a.geojson"
    assert shapely.equals(read_annotation(path).region(), shapely.box(20, 30, 120, 130))
    with open_slide(tmp_path / "a.tif") as slide:
        mask = read_mask(path, slide, mpp=0.5)
    assert mask.mask[mask.mask.shape[0] // 3, int(70 / 300 * mask.mask.shape[1])]


def test_nobody_draws_over_what_another_has_saved(drawing):
    viewer, url = drawing
    first = viewer.get(url).headers["etag"]
    assert viewer.put(url, body(area()), if_match=first).status == 200
    late = viewer.put(url, body(), if_match=first)
    assert (late.status, late.error) == (412, "changed")
    assert len(viewer.get(url).json["features"]) == 1
    assert viewer.put(url, body()).status == 428


def test_an_open_ring_is_closed_and_what_is_not_known_is_left_out(drawing):
    viewer, url = drawing
    sent = area(
        [RING[:-1]], name="left", isLocked=True, onclick="x", classification={"name": "Tumor", "x": 1}
    )
    viewer.put(url, body(sent), if_match=viewer.get(url).headers["etag"])
    (kept,) = viewer.get(url).json["features"]
    assert kept["geometry"]["coordinates"] == [RING]
    assert kept["properties"] == {
        "objectType": "annotation", "name": "left", "isLocked": True, "classification": {"name": "Tumor"}
    }  # fmt: skip


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'{"type":"FeatureCollection"}', body({"type": "Point"}), body(area(kind="Circle")),
    body(area([[[0, 0], [1, 1]]])), body(area([[[0, 0], [1, "1"], [2, 2]]])), body(area([[[0, 0], [1, True], [2, 2]]])),
    b'{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Point","coordinates":[NaN,1]},"properties":{}}]}',
    b'{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Point","coordinates":[1e999,1]},"properties":{}}]}',
    body(area(classification={"name": "x" * 101})), body(area(classification={"name": "a\nb"})),
    body(area(classification={"name": "T", "color": [1, 2, 300]})), body(area(classification="Tumor")),
    body(area([[[0, 0], [1e12, 0], [0, 1]]])), b"[" * 100_000, body(area([])) , body(area([[]])),
])  # fmt: skip
def test_what_is_no_drawing_is_refused_in_words_and_nothing_is_kept(drawing, tmp_path, content):
    viewer, url = drawing
    answer = viewer.put(url, content, if_match=viewer.get(url).headers["etag"])
    if content == body(area([])):  # an empty list stands for the default of this helper
        assert answer.status == 200
        return
    assert (answer.status, answer.error) == (422, "invalid_geojson")
    assert not (tmp_path / "drawings").exists()


def test_more_than_is_allowed_is_not_taken_in(drawing):
    viewer, url = drawing
    tag = viewer.get(url).headers["etag"]
    assert viewer.put(url, b" " * (9 << 20), if_match=tag).error == "too_large"
    assert viewer.put(url, b"{}", if_match=tag, content_type="text/plain").status == 415


def test_a_name_that_is_no_file_name_is_not_written(view, tmp_path, picture, write_slide):
    write_slide(tmp_path / "a.tif", picture(200, 200))
    from wsi_vmamba.errors import StoreError
    from wsi_vmamba.view.drawings import Drawings
    from wsi_vmamba.view.row import SlideRow

    for name in ("../x", "a/b", ".hidden", "a\0b", "..", "a\nb"):
        with pytest.raises(StoreError, match="name"):
            Drawings(tmp_path).path_of(SlideRow(name=name, place=None))


def test_a_folder_that_cannot_be_written_is_said_before_anybody_draws(view, tmp_path, picture, write_slide):
    write_slide(tmp_path / "a.tif", picture(200, 200))
    (tmp_path / "file").write_text("")
    session = view(tmp_path, drawings=tmp_path / "file" / "x").get("/session").json
    assert not session["can_draw"]
    assert "--drawings" in session["draw_refusal"]
