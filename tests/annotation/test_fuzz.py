"""Whatever a file holds, reading it ends in an annotation or in words: no other error, no word of Python."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_vmamba.annotation import Role, read_annotation
from wsi_vmamba.errors import AnnotationError

#: Names of exceptions, reprs of types and addresses: nothing that a pathologist should read.
PYTHON = re.compile(r"\w+Error\b|object has no|NoneType|not subscriptable|<class|0x[0-9a-f]{6}|inhomogeneous")

numbers = st.one_of(st.integers(-(10**40), 10**40), st.floats(), st.integers(-50, 50))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
words = st.sampled_from(
    ["type", "features", "geometry", "geometries", "coordinates", "properties", "name", "names", "classification",
     "Feature", "FeatureCollection", "Polygon", "MultiPolygon", "GeometryCollection", "Point", "LineString", "Tumor"]
)  # fmt: skip
points = st.lists(numbers, min_size=1, max_size=3)
rings = st.lists(points, max_size=6)
anything = st.recursive(
    st.one_of(scalars, words, rings),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(words, st.text(max_size=4)), inner, max_size=5)
    ),
    max_leaves=12,
)
geometries = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["Polygon", "MultiPolygon", "Point", "Line"]), "coordinates": anything}
    )
    | st.fixed_dictionaries({"type": st.just("Polygon"), "coordinates": st.lists(rings, max_size=3)}),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("GeometryCollection"), "geometries": st.lists(inner | anything, max_size=3)}
    ),
    max_leaves=4,
)
features = st.fixed_dictionaries(
    {"type": st.just("Feature"), "geometry": geometries | anything},
    optional={
        "properties": anything | st.fixed_dictionaries({"classification": anything | words, "name": anything})
    },
)
documents = st.one_of(
    anything,
    geometries,
    features,
    st.lists(features | anything, max_size=3),
    st.fixed_dictionaries(
        {
            "type": st.just("FeatureCollection"),
            "features": st.lists(features | anything, max_size=3) | anything,
        }
    ),
)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(path, content: bytes, others=None):
    path.write_bytes(content)
    try:
        annotation = read_annotation(path, others=others)
    except AnnotationError as error:
        said = str(error)
    else:
        assert annotation.region().is_valid
        assert annotation.left_out_region().is_valid
        said = "\n".join(annotation.notes)
    said.encode("utf-8")  # can be printed
    assert not PYTHON.search(said.replace(str(path), "")), said


@many
@given(document=documents, others=st.sampled_from([None, Role.INCLUDED]))
def test_any_json(tmp_path, document, others):
    read_or_refuse(tmp_path / "a.geojson", json.dumps(document).encode(), others)


@many
@given(content=st.binary(max_size=60))
def test_any_bytes(tmp_path, content):
    read_or_refuse(tmp_path / "a.geojson", content)
    read_or_refuse(tmp_path / "a.xml", content)


letters = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='<>&"'), max_size=8
)
values = st.one_of(
    st.sampled_from(["Tumor", "Exclusion", "Polygon", "Spline", "Dot", "None", "0", "1.5", "1e400", "nan", "1,5"]),
    letters,
    st.floats(-100, 100).map(repr),
)  # fmt: skip
tags = st.sampled_from(
    ["Annotation", "Coordinates", "Coordinate", "Annotations", "AnnotationGroups", "Group", "x"]
)
keys = st.sampled_from(["Name", "Type", "PartOfGroup", "Order", "X", "Y"])


def element(tag, attributes, inner):
    shown = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{tag}{shown}>{''.join(inner)}</{tag}>"


any_xml = st.recursive(
    st.builds(element, tags, st.dictionaries(keys, values), st.just([])),
    lambda inner: st.builds(element, tags, st.dictionaries(keys, values), st.lists(inner, max_size=4)),
    max_leaves=10,
)
corners = st.builds(
    element, st.just("Coordinate"), st.fixed_dictionaries({"Order": values, "X": values, "Y": values}), st.just([])
)  # fmt: skip
outlines = st.builds(
    lambda attributes, found: element("Annotation", attributes, [element("Coordinates", {}, found)]),
    st.dictionaries(keys, values),
    st.lists(corners, max_size=5),
)


@many
@given(
    outlines=st.lists(outlines | any_xml, max_size=3),
    groups=st.lists(
        st.builds(element, st.just("Group"), st.dictionaries(keys, values), st.just([])), max_size=3
    ),
    extra=st.lists(any_xml, max_size=2),
)
def test_any_asap_xml(tmp_path, outlines, groups, extra):
    inside = [element("Annotations", {}, outlines), element("AnnotationGroups", {}, groups), *extra]
    read_or_refuse(tmp_path / "a.xml", element("ASAP_Annotations", {}, inside).encode())


@pytest.mark.parametrize("name", ["a.xml", "a.geojson"])
def test_a_folder_in_place_of_a_file(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(AnnotationError, match=f"{name}: cannot read the annotation"):
        read_annotation(tmp_path / name)
