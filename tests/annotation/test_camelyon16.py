"""The real lesion outlines of all 110 annotated training slides: areas, repairs, exclusions and masks."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely

from wsi_vmamba.annotation import Role, read_annotation

#: Slides with few, many, crossing and excluded outlines, for the default run.
SOME = ("tumor_001", "tumor_051", "tumor_083", "tumor_091", "tumor_098")


@pytest.fixture(scope="module")
def outlines(real_data):
    path = real_data / "camelyon16" / "tumor_polygons.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no outlines at {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        slides = [json.loads(line) for line in lines]
    return {slide["slide_id"]: slide for slide in slides}


def _write(slide, tmp_path):
    """The two lists of a slide as QuPath would export them."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*shape["vertices"], shape["vertices"][0]]]},
            "properties": {"name": f"{role} {index}", "classification": {"name": role}},
        }
        for role, key in (("Tumor", "positive"), ("Exclusion", "negative"))
        for index, shape in enumerate(slide[key])
    ]
    path = tmp_path / f"{slide['slide_id']}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def _shoelace(vertices):
    x, y = np.asarray(vertices, dtype=np.float64).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _check(slide, tmp_path):
    annotation = read_annotation(_write(slide, tmp_path))
    by_name = {outline.name: outline for outline in annotation.outlines}
    noted = " ".join(annotation.notes)
    for role, key in (("Tumor", "positive"), ("Exclusion", "negative")):
        for index, shape in enumerate(slide[key]):
            name, vertices = f"{role} {index}", shape["vertices"]
            crosses = len(vertices) < 3 or not shapely.Polygon(vertices).is_valid
            # What was repaired or left out is said, and nothing else is.
            assert (f"{name}:" in noted) is crosses, name
            if not crosses:
                assert by_name[name].geometry.area == pytest.approx(_shoelace(vertices), rel=1e-9)
    assert all(outline.geometry.is_valid for outline in annotation.outlines)
    assert len([o for o in annotation.outlines if o.role is Role.EXCLUDED]) == len(annotation.excluded)
    region = annotation.region()
    for downsample in (32.0, 64.0):
        right, bottom = region.bounds[2:]
        size = {"width_px": int(right // downsample) + 2, "height_px": int(bottom // downsample) + 2}
        mask = annotation.rasterize(**size, downsample=downsample)
        # Each pixel the outline runs through is wrong by at most its own area, on average by far less.
        bound = 0.5 * downsample * region.length
        assert abs(mask.sum() * downsample**2 - annotation.area_l0()) <= bound


@pytest.mark.parametrize("slide_id", SOME)
def test_outlines_of_a_slide(outlines, tmp_path, slide_id):
    _check(outlines[slide_id], tmp_path)


def test_the_outlines_are_all_there(outlines):
    assert len(outlines) == 110
    assert sum(len(slide["positive"]) + len(slide["negative"]) for slide in outlines.values()) == 2588


@pytest.mark.slow
def test_outlines_of_every_slide(outlines, tmp_path):
    for slide in outlines.values():
        _check(slide, tmp_path)
