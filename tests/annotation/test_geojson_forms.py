"""The forms in which programs write GeoJSON: read where they are legal, refused in words where they are not."""

from __future__ import annotations

import json

import pytest

from wsi_vmamba.annotation import Role, read_annotation
from wsi_vmamba.errors import AnnotationError


def polygon(left, top, side):
    corners = [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]
    return {"type": "Polygon", "coordinates": [corners]}


def feature(geometry, classification="Tumor", **properties):
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"classification": classification, **properties},
    }


def write(path, content, encoding="utf-8"):
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return path


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.geojson"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_unicode_encoding_is_read_with_and_without_a_mark(path, encoding):
    write(path, collection(feature(polygon(0, 0, 30), name="Übersicht")), encoding)
    annotation = read_annotation(path)
    assert annotation.area_l0() == 900
    assert annotation.outlines[0].name == "Übersicht"


def test_latin_1_is_refused_with_a_remedy(path):
    write(path, collection(feature(polygon(0, 0, 30), name="Übersicht")), "latin-1")
    with pytest.raises(AnnotationError, match=r"byte \d+ is not UTF-8.*save it as UTF-8"):
        read_annotation(path)


def test_a_feature_without_geometry_is_legal_and_noted(path):
    annotation = read_annotation(write(path, collection(feature(None), feature(polygon(0, 0, 30)))))
    assert annotation.area_l0() == 900
    assert annotation.notes == ("feature 0: has no geometry and is left out",)


def test_a_geometry_collection_gives_its_polygons_at_any_depth(path):
    inner = {"type": "GeometryCollection", "geometries": [polygon(100, 0, 10)]}
    mixed = {
        "type": "GeometryCollection",
        "geometries": [polygon(0, 0, 30), {"type": "Point", "coordinates": [1, 2]}, inner],
    }
    annotation = read_annotation(write(path, collection(feature(mixed, name="both"))))
    assert annotation.area_l0() == 900 + 100
    assert annotation.outlines[0].geometry.bounds == (0, 0, 110, 30)
    assert annotation.notes == ("both: a Point has no area and is left out",)


def test_a_bare_geometry_is_an_area_of_no_class(path):
    write(path, polygon(0, 0, 30))
    assert read_annotation(path, others=Role.INCLUDED).area_l0() == 900
    with pytest.raises(AnnotationError, match=r"the file has None, known are .*tumor"):
        read_annotation(path)


@pytest.mark.parametrize(
    ("classification", "area"),
    [
        ("tumor", 900),
        (" Tumor\t", 900),
        ({"name": "Tumor", "colorRGB": -16777216}, 900),
        ({"names": ["Tumor"], "color": [200, 0, 0]}, 900),
        ({"names": ["Tumor", "Necrosis"]}, 900),
        ({"name": "Tumor: Positive"}, 900),
        ("Tumor: Exclusion", 0),
        ({"names": ["Tumor", "Exclusion"]}, 0),
    ],
)
def test_a_class_is_a_name_or_an_object_and_what_is_part_of_it_follows(path, classification, area):
    assert read_annotation(write(path, feature(polygon(0, 0, 30), classification))).area_l0() == area


@pytest.mark.parametrize("classification", [None, "", {}, {"names": []}, {"name": None}])
def test_no_class_is_not_known_and_said(path, classification):
    content = [feature(polygon(0, 0, 30)), feature(polygon(0, 50, 10), classification, name="n")]
    annotation = read_annotation(write(path, content))
    assert annotation.area_l0() == 900
    assert annotation.left_out_region().area == 100
    assert "n: group 'None' is neither" in annotation.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "expected the whole as an object"),
        ({}, "an object without a type"),
        ({"type": "Topology", "objects": {}}, "an object of type 'Topology'"),
        ({"type": "FeatureCollection"}, r"expected features as a list \[…\], got null"),
        ({"type": "Feature"}, "expected a Feature with a geometry"),
        (feature({"type": "Polygon"}), "expected coordinates as a list"),
        (feature({"type": "Circle"}), "expected one of the geometries .*type 'Circle'"),
        (feature({"coordinates": []}), "an object without a type"),
        (feature([1, 2]), "expected a geometry as an object .* got a list of 2"),
        (feature({"type": "Polygon", "coordinates": [[0, 1], [1, 1]]}), "pairs of numbers, got the number 0"),
        (feature({"type": "Polygon", "coordinates": [[[0], [1], [2]]]}), "pairs of numbers, got a list of 1"),
        (feature({"type": "Polygon", "coordinates": [[["1", "2"]] * 4]}), "pairs of numbers"),
        (feature({"type": "Polygon", "coordinates": [[[True, 2]] * 4]}), "pairs of numbers"),
        (feature({"type": "Polygon", "coordinates": [[[1e9, 2]] * 4]}), "level-0 pixels"),
        (feature({"type": "GeometryCollection"}), "expected geometries as a list"),
        (feature(polygon(0, 0, 9), 5), "expected the classification as a name"),
        (feature(polygon(0, 0, 9), {"names": [1]}), "expected the classification as a name"),
        ({**feature(None), "properties": "no"}, "expected properties as an object .* got the text 'no'"),
    ],
)  # fmt: skip
def test_what_is_no_geojson_is_refused_in_words(path, content, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotation(write(path, content))
    assert str(path) in str(caught.value)
    assert "Error" not in str(caught.value)


def test_a_number_too_long_for_python_is_refused_in_words(path):
    path.write_text(json.dumps(feature(polygon(0, 0, 77))).replace("77", "7" * 5000))
    with pytest.raises(AnnotationError, match="level-0 pixels"):
        read_annotation(path)


def test_text_that_is_no_json_is_placed(path):
    path.write_text('{"type": "Feature",\n oops}')
    with pytest.raises(AnnotationError, match=r"not JSON: .* in line 2, column 2; export it again"):
        read_annotation(path)


def test_deep_nesting_is_refused_or_read_but_never_a_crash(path):
    path.write_text("[" * 200_000)
    with pytest.raises(AnnotationError, match="not JSON"):
        read_annotation(path)
    deep = '{"type":"GeometryCollection","geometries":['
    path.write_text(deep * 300 + json.dumps(polygon(0, 0, 30)) + "]}" * 300)
    assert read_annotation(path, others=Role.INCLUDED).area_l0() == 900


def test_names_are_shown_on_one_line_without_control_characters(path):
    name = "a\x1b[31m\nb\ud800" + "x" * 500
    path.write_text(json.dumps(collection(feature(None, name=name))))
    (note,) = read_annotation(path).notes
    note.encode("utf-8")
    assert note.startswith("a\ufffd[31m\ufffdb\ufffdxxx")
    assert len(note) < 120
