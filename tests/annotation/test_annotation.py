"""ASAP XML and GeoJSON against known areas, points and pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_vmamba.annotation import GROUPS, Annotation, Outline, Role, read_annotation, write_asap
from wsi_vmamba.errors import AnnotationError

SLIDES = ("Tumor_081", "Tumor_083", "Tumor_091", "Tumor_098")
SQUARE = [(10, 20), (50, 20), (50, 60), (10, 60)]


def _write_xml(path, *annotations, head=""):
    """Annotations are (name, type, group, [(order, x, y), ...])."""
    body = "".join(
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{o}" X="{x}" Y="{y}"/>' for o, x, y in vertices)
        + "</Coordinates></Annotation>"
        for name, kind, group, vertices in annotations
    )
    text = f"{head}<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>"
    path.write_text(text, encoding="utf-8")
    return path


def _numbered(vertices):
    return [(order, x, y) for order, (x, y) in enumerate(vertices)]


@pytest.fixture(scope="module")
def asap(real_data):
    folder = real_data / "camelyon16" / "asap"
    if not folder.is_dir():
        pytest.skip(f"no ASAP files in {folder}")
    return folder, json.loads((folder / "expected.json").read_text())["slides"]


#: What the reference calls the two roles.
ROLES = {"tumor": Role.INCLUDED, "exclusion": Role.EXCLUDED}


@pytest.mark.parametrize("slide", SLIDES)
def test_real_files_have_the_expected_areas(asap, slide):
    folder, expected = asap
    want = expected[slide]
    annotation = read_annotation(folder / want["file"])
    assert len(annotation.included) == want["n_tumor_polygons"]
    assert len(annotation.excluded) == want["n_exclusion_polygons"]
    assert annotation.area_l0() == pytest.approx(want["tumor_minus_exclusion_area_px2"], rel=1e-6)
    assert shapely.union_all(annotation.included).area == pytest.approx(
        want["tumor_union_area_px2"], rel=1e-6
    )
    for outline, polygon in zip(annotation.outlines, want["polygons"], strict=True):
        assert (outline.name, outline.group, outline.role) == (
            polygon["name"],
            polygon["group"],
            ROLES[polygon["role"]],
        )
        assert outline.geometry.is_valid
        assert outline.geometry.area == pytest.approx(polygon["area_px2_make_valid"], rel=1e-6)
        assert outline.geometry.bounds == pytest.approx(polygon["bounds"])
    assert len(annotation.notes) == sum(not polygon["is_valid"] for polygon in want["polygons"])


@pytest.mark.parametrize("slide", SLIDES)
def test_real_files_rasterize_to_the_expected_points(asap, slide):
    folder, expected = asap
    annotation = read_annotation(folder / expected[slide]["file"])
    # The points keep 8 px from any outline, and the centre of an 8-px pixel is less than that away.
    downsample = 8
    mask = annotation.rasterize(width_px=12_500, height_px=10_000, downsample=downsample)
    seen = 0
    for x, y, is_tumor in expected[slide]["points"]:
        if x < 100_000 and y < 80_000:
            assert mask[y // downsample, x // downsample] == is_tumor, (x, y)
            seen += 1
    assert seen == len(expected[slide]["points"])
    assert mask.sum() * downsample**2 == pytest.approx(annotation.area_l0(), rel=2e-3)


def test_vertices_are_sorted_by_order_as_numbers(tmp_path):
    ring = [(np.cos(t) * 100 + 200, np.sin(t) * 100 + 200) for t in np.linspace(0, 6, 12)]
    shuffled = [_numbered(ring)[i] for i in (10, 3, 1, 11, 0, 2, 9, 4, 6, 5, 8, 7)]
    path = _write_xml(tmp_path / "a.xml", ("a", "Polygon", "Tumor", shuffled))
    assert read_annotation(path).area_l0() == pytest.approx(shapely.Polygon(ring).area)


def test_a_self_crossing_outline_is_repaired_and_reported(tmp_path):
    bow_tie = [(0, 0), (10, 10), (10, 0), (0, 10)]
    path = _write_xml(tmp_path / "a.xml", ("bow", "Polygon", "_0", _numbered(bow_tie)))
    annotation = read_annotation(path)
    assert annotation.area_l0() == pytest.approx(50)
    assert len(annotation.notes) == 1
    assert "bow: repaired (Self-intersection" in annotation.notes[0]


def test_exclusions_are_cut_out_and_what_has_no_area_is_noted(tmp_path):
    path = _write_xml(
        tmp_path / "a.xml",
        ("t", "Polygon", "tumor", _numbered(SQUARE)),
        ("x", "Polygon", "Exclusion", _numbered([(30, 0), (90, 0), (90, 90), (30, 90)])),
        ("dot", "Dot", "Tumor", [(0, 1, 1)]),
        ("click", "Polygon", "Tumor", [(0, 1, 1), (1, 5, 5)]),
        ("other", "Polygon", "Stroma", _numbered(SQUARE)),
    )
    annotation = read_annotation(path)
    assert annotation.area_l0() == pytest.approx(20 * 40)
    assert [note.split(":")[0] for note in annotation.notes] == ["dot", "click", "other"]


def test_only_unknown_groups_are_refused_unless_told(tmp_path):
    path = _write_xml(tmp_path / "a.xml", ("t", "Polygon", "Carcinoma", _numbered(SQUARE)))
    with pytest.raises(AnnotationError, match=r"Carcinoma.*known are .*tumor"):
        read_annotation(path)
    told = read_annotation(path, groups={**GROUPS, "carcinoma": Role.INCLUDED})
    assert told.area_l0() == pytest.approx(1600)


def test_an_empty_annotation_is_no_error(tmp_path):
    annotation = read_annotation(_write_xml(tmp_path / "a.xml"))
    assert annotation.area_l0() == 0
    assert not annotation.rasterize(width_px=5, height_px=4, downsample=1).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><ASAP_Annotations>&z;</ASAP_Annotations>',
            "entities",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><ASAP_Annotations/>', "entities"),
        ("<ASAP_Annotations><Annotations>", "not well-formed"),
        ("<Annotations/>", "root ASAP_Annotations"),
        ("", "not well-formed"),
    ],
)
def test_hostile_and_broken_xml_is_refused(tmp_path, text, message):
    path = tmp_path / "a.xml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=message):
        read_annotation(path)


@pytest.mark.parametrize("vertex", [(0, "nan", 1), (0, "inf", 1), (0, "left", 1), ("first", 1, 1)])
def test_coordinates_must_be_numbers(tmp_path, vertex):
    path = _write_xml(tmp_path / "a.xml", ("t", "Polygon", "Tumor", [vertex, (1, 5, 5), (2, 5, 9)]))
    with pytest.raises(AnnotationError, match="number"):
        read_annotation(path)


def test_a_missing_file_is_named(tmp_path):
    for name in ("gone.xml", "gone.geojson"):
        with pytest.raises(AnnotationError, match=name):
            read_annotation(tmp_path / name)


def _feature(geometry_type, coordinates, group="Tumor"):
    return {
        "type": "Feature",
        "properties": {"classification": {"name": group}},
        "geometry": {"type": geometry_type, "coordinates": coordinates},
    }


def test_geojson_polygons_holes_and_exclusions(tmp_path):
    hole = [[20, 30], [30, 30], [30, 40], [20, 40], [20, 30]]
    shell = [*SQUARE, SQUARE[0]]
    far = [[[100, 100], [110, 100], [110, 110], [100, 100]]]
    features = [
        _feature("Polygon", [shell, hole]),
        _feature("MultiPolygon", [far, [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]]),
        _feature("Polygon", [[[10, 20], [15, 20], [15, 60], [10, 60], [10, 20]]], group="Exclusion"),
        _feature("Point", [1, 1]),
    ]
    for content in ({"type": "FeatureCollection", "features": features}, features):
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps(content), encoding="utf-8")
        annotation = read_annotation(path)
        assert annotation.area_l0() == pytest.approx(1600 - 100 + 50 + 16 - 200)
        assert len(annotation.notes) == 1
    mask = annotation.rasterize(width_px=120, height_px=120, downsample=1)
    assert mask.sum() == pytest.approx(annotation.area_l0(), abs=5)
    assert not mask[35, 25]
    assert mask[25, 25]


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"type": "Feature"}', '{"features": 3, "type": "FeatureCollection"}']
)
def test_broken_geojson_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"a\.json"):
        read_annotation(path)


def test_rasterize_takes_the_pixels_whose_centre_is_inside(tmp_path):
    path = tmp_path / "a.xml"
    write_asap(path, [SQUARE])
    mask = read_annotation(path).rasterize(width_px=8, height_px=9, downsample=8)
    # Centres at 4, 12, 20, ...: x in 10..50 holds columns 1-5, y in 20..60 holds rows 2-6 (20 is in, 60 out).
    want = np.zeros((9, 8), dtype=bool)
    want[2:7, 1:6] = True
    np.testing.assert_array_equal(mask, want)


corner = st.integers(min_value=-4_000, max_value=12_000).map(lambda v: v / 100 + 0.001)
triangle = st.lists(st.tuples(corner, corner), min_size=3, max_size=3, unique=True).map(shapely.Polygon)


@settings(deadline=None)
@given(triangles=st.lists(triangle, min_size=1, max_size=4), downsample=st.sampled_from([1.0, 2.5, 7.0]))
def test_rasterize_agrees_with_shapely_at_every_pixel_centre(triangles, downsample):
    annotation = Annotation(
        outlines=tuple(
            Outline(name=str(i), group="Tumor", role=Role.INCLUDED, geometry=geometry)
            for i, geometry in enumerate(triangles)
            if geometry.is_valid
        )
    )
    mask = annotation.rasterize(width_px=21, height_px=17, downsample=downsample)
    y, x = np.mgrid[:17, :21]
    x, y = (x + 0.5) * downsample, (y + 0.5) * downsample
    region = annotation.region()
    clear = (
        shapely.distance(region.boundary, shapely.points(x, y)) > 1e-9 if not region.is_empty else mask == 0
    )
    np.testing.assert_array_equal(mask[clear], shapely.contains_xy(region, x, y)[clear])


def test_written_outlines_come_back_to_the_bit(tmp_path):
    ring = np.array([(0.1, 1 / 3), (1e5 + 0.7, 2.0), (5e4, 7e4), (3.0, 9.5)])
    path = tmp_path / "sub" / "a.xml"
    write_asap(path, [ring, shapely.Polygon(SQUARE)], "Exclusion")
    annotation = read_annotation(path)
    assert annotation.included == ()
    np.testing.assert_array_equal(shapely.get_coordinates(annotation.excluded[0])[:-1], ring)
    assert annotation.excluded[1].equals(shapely.Polygon(SQUARE))
    assert [entry.name for entry in path.parent.iterdir()] == ["a.xml"]


@pytest.mark.parametrize(
    "polygon",
    [
        [(0, 0), (1, 1)],
        [(0, 0), (1, 0), (0, float("nan"))],
        shapely.box(0, 0, 9, 9) - shapely.box(1, 1, 2, 2),
    ],
)
def test_what_asap_cannot_hold_is_not_written(tmp_path, polygon):
    with pytest.raises(AnnotationError, match="polygon 0"):
        write_asap(tmp_path / "a.xml", [polygon])
    assert not list(tmp_path.iterdir())
