"""ASAP's groups within groups: an outline counts as what its group is part of, and nothing is dropped unsaid."""

from __future__ import annotations

import pytest

from wsi_vmamba.annotation import Role, read_annotation
from wsi_vmamba.errors import AnnotationError


def square(left, top, side):
    return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]


def write(path, annotations, groups):
    """Annotations are (name, type, group, corners), groups (name, parent)."""
    body = "".join(
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        + "</Coordinates></Annotation>"
        for name, kind, group, corners in annotations
    )
    listed = "".join(f'<Group Name="{name}" PartOfGroup="{parent}"/>' for name, parent in groups)
    path.write_text(
        f"<ASAP_Annotations><Annotations>{body}</Annotations>"
        f"<AnnotationGroups>{listed}</AnnotationGroups></ASAP_Annotations>"
    )
    return path


def test_subgroups_follow_the_group_they_are_part_of(tmp_path):
    path = write(
        tmp_path / "a.xml",
        [
            ("a", "Polygon", "deep", square(0, 0, 100)),
            ("b", "Polygon", "hole", square(10, 10, 20)),
            ("c", "Polygon", "Tumor", square(200, 0, 10)),
        ],
        [("Tumor", "None"), ("Macro", "Tumor"), ("deep", "Macro"), ("Exclusion", "None"), ("hole", "Exclusion")],
    )  # fmt: skip
    annotation = read_annotation(path)
    assert [outline.role for outline in annotation.outlines] == [Role.INCLUDED, Role.EXCLUDED, Role.INCLUDED]
    assert [outline.group for outline in annotation.outlines] == ["deep", "hole", "Tumor"]
    assert annotation.area_l0() == 100**2 - 20**2 + 10**2
    assert annotation.notes == ()


def test_a_subgroup_that_means_something_itself_does_not_follow(tmp_path):
    path = write(
        tmp_path / "a.xml",
        [("a", "Polygon", "Tumor", square(0, 0, 100)), ("b", "Polygon", "Exclusion", square(0, 0, 50))],
        [("Tumor", "None"), ("Exclusion", "Tumor")],
    )
    assert read_annotation(path).area_l0() == 100**2 - 50**2


def test_subgroups_follow_where_all_other_groups_mean_something_too(tmp_path):
    path = write(
        tmp_path / "a.xml",
        [("a", "Polygon", "hole inner", square(0, 0, 50)), ("b", "Polygon", "Tissue", square(0, 0, 100))],
        [("hole inner", "Exclusion"), ("Exclusion", "None")],
    )
    annotation = read_annotation(path, groups={"exclusion": Role.EXCLUDED}, others=Role.INCLUDED)
    assert annotation.area_l0() == 100**2 - 50**2


def test_groups_in_a_circle_end(tmp_path):
    path = write(
        tmp_path / "a.xml",
        [("a", "Polygon", "x", square(0, 0, 100)), ("t", "Polygon", "Tumor", square(0, 0, 10))],
        [("x", "y"), ("y", "x"), ("Tumor", "Tumor")],
    )
    annotation = read_annotation(path)
    assert annotation.area_l0() == 100
    assert annotation.left_out_region().area == 100**2


def test_a_group_listed_in_two_places_is_refused_by_name(tmp_path):
    path = write(
        tmp_path / "a.xml",
        [("a", "Polygon", "x", square(0, 0, 100))],
        [("x", "Tumor"), ("x", "Exclusion")],
    )
    with pytest.raises(AnnotationError, match="'x' is listed as part of 'Tumor' and of 'Exclusion'"):
        read_annotation(path)


def test_an_area_that_is_left_out_is_kept_and_said(tmp_path):
    path = write(
        tmp_path / "a.xml",
        [("a", "Polygon", "Tumor", square(0, 0, 10)), ("b", "Polygon", "Necrosis", square(50, 0, 20))],
        [],
    )
    annotation = read_annotation(path)
    assert annotation.area_l0() == 100
    assert annotation.left_out_region().bounds == (50, 0, 70, 20)
    assert len(annotation.notes) == 1
    assert "b: group 'Necrosis' is neither tumour nor exclusion; left out" in annotation.notes[0]


def test_a_spline_is_read_and_said(tmp_path):
    path = write(tmp_path / "a.xml", [("a", "Spline", "Tumor", square(0, 0, 10))], [])
    annotation = read_annotation(path)
    assert annotation.area_l0() == 100
    assert annotation.notes == ("a: a Spline is read as straight lines between its points",)


@pytest.mark.parametrize(
    ("root", "writer"),
    [("Annotations", "Aperio ImageScope"), ("annotations", "NDP.view"), ("object-stream", "3DHISTECH")],
)
def test_the_outlines_of_other_programs_are_refused_with_a_way_out(tmp_path, root, writer):
    (tmp_path / "a.xml").write_text(f'<{root} MicronsPerPixel="0.5"/>')
    with pytest.raises(AnnotationError, match=f"{writer}.*export them as GeoJSON"):
        read_annotation(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('Order="0" X="1,5" Y="2"', "written with a point; one has X='1,5'"),
        ('Order="0" X="1"', "one has no Y"),
        ('X="1" Y="1"', "one has no Order"),
    ],
)
def test_bad_coordinates_are_refused_in_words(tmp_path, attributes, message):
    (tmp_path / "a.xml").write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="n" Type="Polygon" PartOfGroup="Tumor"><Coordinates>'
        f"<Coordinate {attributes}/></Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    with pytest.raises(AnnotationError, match=message):
        read_annotation(tmp_path / "a.xml")
