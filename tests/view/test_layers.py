"""Layers by value: a known patch at known level-0 pixels, whatever its side and wherever the slide begins."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_vmamba.config import ViewConfig
from wsi_vmamba.view.patches import PatchColumn, load_table
from wsi_vmamba.view.rasters import scalar_raster
from wsi_vmamba.view.row import SlideRow
from wsi_vmamba.view.targets import open_target


def pixels_of(answer):
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def values_in(about, picture):
    steps = picture[..., 0].astype(int) * 256 + picture[..., 1]
    low, high = about["encoding"]["low"], about["encoding"]["high"]
    return np.where(picture[..., 3] == 255, low + steps / 65535 * (high - low), np.nan)


@pytest.mark.parametrize("patch_l0", [64.0, 256 / 0.23 * 0.5, 97.3])
def test_each_patch_is_the_pixel_that_its_corner_falls_into(view, tmp_path, write_features, patch_l0):
    """Heatmaps of peers shift to the lower right: here the last patch is as exact as the first."""
    generator = np.random.default_rng(1)
    places = np.unique(generator.integers(3, 400, (500, 2)), axis=0)
    features = generator.normal(size=(len(places), 4))
    path = write_features(
        tmp_path / "f", "s1", places, features, patch_l0=patch_l0, size_l0=(250_000, 250_000)
    )
    table = load_table(SlideRow(name="s1", place=None, features=path))
    viewer = view(open_target(ViewConfig(target=str(tmp_path / "f"))))
    one = f"/slides/{viewer.id_of('s1')}"
    about = viewer.get(f"{one}/layers/feature:2").json
    picture = pixels_of(viewer.get(about["png"]))
    assert picture.shape == (about["rows"], about["columns"], 4)
    values, box = values_in(about, picture), about["rectangle_l0"]
    from wsi_vmamba.store import open_features

    file = open_features(path)
    scale = box["width"] / about["columns"], box["height"] / about["rows"]
    assert scale == pytest.approx((patch_l0, patch_l0))
    centres = file.coords_l0 + patch_l0 / 2
    columns = np.floor((centres[:, 0] - box["x"]) / scale[0]).astype(int)
    rows = np.floor((centres[:, 1] - box["y"]) / scale[1]).astype(int)
    step = (about["encoding"]["high"] - about["encoding"]["low"]) / 65535
    np.testing.assert_allclose(values[rows, columns], file.features[:, 2], atol=step)
    assert np.isfinite(values).sum() == len(places)
    # The exact corner, not the stored one, which is rounded.
    at = viewer.get(f"{one}/patches/at?x_l0={centres[-1, 0]}&y_l0={centres[-1, 1]}").json
    assert at["index"] == len(places) - 1
    assert abs(at["x_l0"] - file.coords_l0[-1, 0]) <= 0.5
    assert table.index_at(x_l0=-1, y_l0=-1) is None


def mirax(folder):
    """The MIRAX slide that the tests of the readers make; it begins in the middle of its canvas."""
    path = Path(__file__).resolve().parents[1] / "slide" / "vendor_jpegs.py"
    import sys

    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("vendor_jpegs_for_view", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module.write_mirax(folder)


def test_layers_of_a_slide_with_bounds_lie_in_the_frame_of_its_tiles(view, tmp_path, write_features):
    slide = mirax(tmp_path)
    write_features(
        tmp_path / "f", "mirax", [(1, 2), (5, 3)], np.eye(2, 3), slide_path=slide.path, reader="openslide"
    )
    viewer = view(open_target(ViewConfig(target=str(tmp_path / "f"))))
    one = f"/slides/{viewer.id_of('mirax')}"
    page = viewer.get(one).json
    bounds = page["bounds_l0"]
    assert bounds["x"] + bounds["width"] <= page["size"]["width"]
    about = viewer.get(f"{one}/layers/feature:0").json
    assert about["rectangle_l0"] == {"x": 64.0, "y": 128.0, "width": 320.0, "height": 128.0}
    # The pixels of the patch, by the address that the API gives, are those of level 0 at its corner.
    top = viewer.get(f"{one}/patches?by=feature:0&top=1").json["patches"][0]
    assert (top["x_l0"], top["y_l0"]) == (64, 128)
    got = np.asarray(Image.open(io.BytesIO(viewer.get(top["picture"]).body)).convert("RGB")).astype(int)
    np.testing.assert_allclose(got, slide.truth[0][128:192, 64:128], atol=40)
    assert np.abs(got - slide.truth[0][128:192, 64:128]).mean() < 8


def test_values_that_are_equal_or_missing_are_shown_as_such(tmp_path, write_features):
    path = write_features(tmp_path, "s1", [(0, 0), (1, 0), (2, 0)], np.zeros((3, 3)))
    table = load_table(SlideRow(name="s1", place=None, features=path))
    column = PatchColumn(
        id="x",
        title="x",
        quantity="x",
        group="scores",
        values=np.array([2.0, np.nan, 2.0]),
        low=0.0,
        high=1.0,
    )
    raster = scalar_raster(table, column)
    values = values_in(raster.about, np.asarray(Image.open(io.BytesIO(raster.png))))
    np.testing.assert_array_equal(values, [[2.0, np.nan, 2.0]])


def test_components_are_colours_and_regions_rectangles(view, tmp_path, write_features):
    places = [(x, y) for y in range(4) for x in range(5)]
    write_features(tmp_path, "s1", places, np.random.default_rng(0).normal(size=(20, 6)))
    viewer = view(open_target(ViewConfig(target=str(tmp_path))))
    one = f"/slides/{viewer.id_of('s1')}"
    listed = viewer.get(f"{one}/layers").json
    assert [each["id"] for each in listed["layers"]] == ["components", "regions"]
    assert listed["columns"]["count"] == 6
    about = viewer.get(f"{one}/layers/components").json
    assert about["kind"] == "rgb"
    assert (pixels_of(viewer.get(about["png"]))[..., 3] == 255).all()
    ring = viewer.get(f"{one}/layers/regions").json["features"][0]["geometry"]["coordinates"][0]
    assert {tuple(point) for point in ring} == {(0, 0), (320, 0), (320, 256), (0, 256)}


def test_truth_and_tissue_are_outlines_in_level_0(view, tmp_path, write_features):
    ring = [[10, 20], [110, 20], [110, 220], [10, 220], [10, 20]]
    write_features(tmp_path, "s1", [(0, 0), (1, 0)], np.eye(2, 3))
    (tmp_path / "tissue").mkdir()
    (tmp_path / "tissue" / "s1.geojson").write_text(
        '{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Polygon","coordinates":['
        f'{ring}]}},"properties":{{"classification":{{"name":"Tissue"}}}}}}]}}'
    )
    viewer = view(open_target(ViewConfig(target=str(tmp_path))))
    found = viewer.get(f"/slides/{viewer.id_of('s1')}/layers/tissue").json["features"][0]
    assert {tuple(point) for point in found["geometry"]["coordinates"][0]} == {tuple(point) for point in ring}
    assert found["properties"]["classification"]["name"] == "Tissue"


@pytest.mark.parametrize(
    "name", ["nope", "feature:", "feature:6", "feature:-1", "feature:x", "probability", "truth", "..%2fx"]
)
def test_a_layer_that_is_none_is_not_found(view, tmp_path, write_features, name):
    write_features(tmp_path, "s1", [(0, 0), (1, 0)], np.eye(2, 6))
    viewer = view(open_target(ViewConfig(target=str(tmp_path))))
    assert viewer.get(f"/slides/{viewer.id_of('s1')}/layers/{name}").status == 404


def test_neighbours_are_those_that_look_alike_over_all_slides(view, tmp_path, write_features):
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(3, 16)) * 5
    for name, order in (("s1", [0, 1, 2]), ("s2", [2, 0, 1]), ("s3", [1, 2, 0])):
        write_features(
            tmp_path, name, [(0, 0), (1, 0), (2, 0)], kinds[order] + generator.normal(size=(3, 16)) * 0.01
        )
    write_features(tmp_path, "other", [(0, 0)], kinds[:1], weights="cd")
    viewer = view(open_target(ViewConfig(target=str(tmp_path))))
    url = f"/slides/{viewer.id_of('s1')}/patches/1/neighbours?count=2"
    first = viewer.get(url)
    assert first.status in {200, 202}
    viewer.context.neighbours.wait()
    found = viewer.get(url).json
    assert {(each["slide_name"], each["index"]) for each in found["patches"]} == {("s2", 2), ("s3", 0)}
    assert found["left_out"] == ["other"]  # its features are of other weights
    assert all(0 <= each["distance"] < 0.01 for each in found["patches"])
    assert viewer.get(f"/slides/{viewer.id_of('s1')}/patches/9/neighbours").status == 400


def saved_probe(*, weights="ab"):
    """Calls a patch by the largest of its first three features."""
    from wsi_vmamba.probing.linear import LinearProbe
    from wsi_vmamba.probing.saved import ProbeFacts, SavedProbe

    names = ("stroma", "tumour", "fat")
    linear = LinearProbe(
        mean=np.zeros(4),
        scale=np.ones(4),
        weight=np.eye(3, 4),
        bias=np.zeros(3),
        penalty_c=1.0,
        chosen_by="fixed",
    )
    facts = ProbeFacts(
        classes=names, encoder="null", weights_hash=weights * 32, precision="fp32", mpp=2.0, tile_px=(64, 64), tiles=9,
        groups=3, auc=None, penalty_c=1.0,
    )  # fmt: skip
    return SavedProbe(linear=linear, facts=facts)


def test_what_a_probe_calls_each_patch_is_a_map_with_a_legend(view, tmp_path, write_features):
    places = np.array([(2, 1), (3, 1), (5, 1), (2, 4)])
    features = np.eye(4, dtype=np.float32)[[1, 0, 2, 1]]
    write_features(tmp_path / "f", "s1", places, features)
    saved_probe().save(tmp_path / "probe.safetensors")
    from wsi_vmamba.probing.saved import load_probe

    source = open_target(ViewConfig(target=str(tmp_path / "f")))
    viewer = view(source, probe=load_probe(tmp_path / "probe.safetensors"))
    one = f"/slides/{viewer.id_of('s1')}"
    (listed,) = [each for each in viewer.get(f"{one}/layers").json["layers"] if each["kind"] == "classes"]
    about = viewer.get(listed["url"]).json
    picture = pixels_of(viewer.get(about["png"]))
    assert picture.shape == (4, 4, 4)
    called = np.where(picture[..., 3] == 255, picture[..., 0].astype(int) * 256 + picture[..., 1], -1)
    expected = np.full((4, 4), -1)
    expected[0, 0], expected[0, 1], expected[0, 3], expected[3, 0] = 1, 0, 2, 1
    np.testing.assert_array_equal(called, expected)
    assert [each["name"] for each in about["classes"]] == ["stroma", "tumour", "fat"]
    assert len({each["colour"] for each in about["classes"]}) == 3
    assert about["rectangle_l0"] == {"x": 128, "y": 64, "width": 256, "height": 256}
    assert about["notes"] == ["the probe's tiles had 2 um/px, these patches 0.5"]


def test_a_probe_for_features_of_another_encoder_is_refused_and_without_one_there_are_no_classes(
    view, tmp_path, write_features
):
    write_features(tmp_path / "f", "s1", np.array([(0, 0), (1, 0), (2, 0)]), np.eye(3, 4))
    source = open_target(ViewConfig(target=str(tmp_path / "f")))
    viewer = view(source, probe=saved_probe(weights="cd"))
    answer = viewer.get(f"/slides/{viewer.id_of('s1')}/layers/classes")
    assert answer.status == 400
    assert "extract the slide with that encoder" in answer.json["error"]["message"]
    viewer = view(source)
    one = f"/slides/{viewer.id_of('s1')}"
    assert viewer.get(f"{one}/layers/classes").status == 404
    assert "classes" not in {each["id"] for each in viewer.get(f"{one}/layers").json["layers"]}
