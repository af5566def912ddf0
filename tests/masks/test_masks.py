"""Masks from every kind of file, and the outline that gives the mask again bit for bit."""

from __future__ import annotations

import json
import uuid

import cv2
import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from wsi_vmamba.annotation import write_asap
from wsi_vmamba.errors import MaskError, UsageError
from wsi_vmamba.masks import check_masks, draw_preview, find_mask, read_mask, tissue_geojson, tissue_polygons
from wsi_vmamba.regions import RegionSpec, plan_regions
from wsi_vmamba.slide.memory import ArraySlide
from wsi_vmamba.tissue import TissueMask, segment_tissue

WIDTH, HEIGHT, MPP = 1500, 1003, 0.5  # the grid of masks has steps of 16, and a ragged last column and row


@pytest.fixture(scope="module")
def slide():
    """A node with a large hole, another that the slide's corner cuts off, on glass."""
    pixels = np.full((HEIGHT, WIDTH, 3), 244, np.uint8)
    cv2.ellipse(pixels, (600, 500), (420, 380), 0, 0, 360, (128, 92, 160), -1)
    cv2.circle(pixels, (580, 490), 300, (244, 244, 244), -1)
    cv2.circle(pixels, (1480, 980), 300, (128, 92, 160), -1)
    return ArraySlide(pixels, MPP)


@pytest.fixture(scope="module")
def tissue(slide):
    return segment_tissue(slide, mpp=MPP)


def plan_of(slide, tissue, patch_px=64):
    spec = RegionSpec(target_mpp=MPP, patch_px=patch_px, region_px=512)
    return plan_regions(
        width_l0=WIDTH, height_l0=HEIGHT, mpp=MPP, levels=slide.levels, spec=spec, tissue=tissue
    )


def polygon_feature(rings, group=None):
    properties = {"objectType": "annotation"}
    if group:
        properties["classification"] = {"name": group}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": properties,
    }


def square(left, top, side):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]


def write_json(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@settings(max_examples=150, deadline=None)
@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
    downsample=st.sampled_from([1.0, 16.0, 7.3, 4.000273]),
)
def test_drawing_the_outline_gives_the_mask_again(mask, downsample):
    polygons = tissue_polygons(TissueMask(mask=mask, downsample=downsample, mpp=downsample * 0.25))
    assert all(polygon.is_valid for polygon in polygons)
    height, width = mask.shape
    x, y = (np.meshgrid(np.arange(width), np.arange(height))[i] * downsample + downsample / 2 for i in (0, 1))
    drawn = np.zeros(mask.shape, np.bool_)
    for polygon in polygons:
        drawn |= shapely.contains_xy(polygon, x, y)
    np.testing.assert_array_equal(drawn, mask)
    assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * downsample**2)


def test_our_own_polygons_fed_back_keep_the_same_patches(slide, tissue, tmp_path):
    (tmp_path / "s.geojson").write_text(tissue_geojson(tissue, slide_id="s"))
    again = read_mask(tmp_path / "s.geojson", slide, mpp=MPP)
    np.testing.assert_array_equal(again.mask, tissue.mask)
    assert (again.downsample, again.mpp) == (tissue.downsample, tissue.mpp)
    assert plan_of(slide, again).to_dict() == plan_of(slide, tissue).to_dict()


def test_the_written_geojson_is_what_qupath_reads(tissue):
    collection = json.loads(tissue_geojson(tissue, slide_id="s"))
    assert collection["type"] == "FeatureCollection"
    node, corner = collection["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in (node, corner)]
    assert [len(shape.interiors) for shape in shapes] == [1, 0]  # the hole is a hole
    assert not shapes[0].contains(shapely.Point(580, 490))
    for feature in (node, corner):
        for ring in feature["geometry"]["coordinates"]:
            assert list(ring[0]) == list(ring[-1])
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == "Tissue"
    area = sum(feature["properties"]["measurements"]["area um2"] for feature in (node, corner))
    assert area == pytest.approx(tissue.area_um2)
    assert json.loads(tissue_geojson(tissue, slide_id="t"))["features"][0]["id"] != node["id"]


def test_every_class_is_tissue_but_those_that_say_otherwise(slide, tmp_path):
    path = write_json(
        tmp_path / "s.geojson",
        polygon_feature([square(160, 160, 320)]),
        polygon_feature([square(640, 160, 320)], "Tumor"),
        polygon_feature([square(1120, 160, 320), square(1200, 240, 160)], "Region*"),
        polygon_feature([square(224, 224, 64)], "Ignore*"),
        polygon_feature([square(704, 224, 64)], "Artifact"),
    )
    found = read_mask(path, slide, mpp=MPP).mask
    expected = np.zeros_like(found)
    for left in (10, 40, 70):
        expected[10:30, left : left + 20] = True
    expected[14:18, 14:18] = expected[14:18, 44:48] = False
    expected[15:25, 75:85] = False
    np.testing.assert_array_equal(found, expected)


def test_asap_xml(slide, tmp_path):
    write_asap(tmp_path / "s.xml", [np.array(square(160, 320, 480))], group="tissue")
    found = read_mask(tmp_path / "s.xml", slide, mpp=MPP).mask
    expected = np.zeros_like(found)
    expected[20:50, 10:40] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_pictures_of_every_mode(slide, tmp_path, mode):
    mask = np.zeros((100, 150), np.bool_)
    mask[20:60, 30:90] = True
    values = {
        "1": mask,
        "L": mask.astype(np.uint8),  # a label of 1 is tissue as much as 255 is
        "P": mask.astype(np.uint8),
        "RGB": np.stack([mask * 0, mask * 255, mask * 0], -1).astype(np.uint8),
        "RGBA": np.stack([mask * 200, mask * 0, mask * 0, np.full(mask.shape, 255)], -1).astype(np.uint8),
        "LA": np.stack([mask * 255, np.full(mask.shape, 255)], -1).astype(np.uint8),
        "I;16": mask.astype(np.uint16) * 256,
    }[mode]
    picture = Image.fromarray(values)
    if mode == "P":
        picture.putpalette([0, 0, 0, 0, 160, 80])
    assert picture.mode == mode
    picture.save(tmp_path / "s.png")
    found = read_mask(tmp_path / "s.png", slide, mpp=MPP)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.downsample == pytest.approx(10.0, rel=0.01)
    assert found.mpp == pytest.approx(5.0, rel=0.01)


def test_of_a_mask_pyramid_the_level_near_8_um_is_read(slide, tmp_path):
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[160:480, 320:960] = 1
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(whole, tile=(128, 128), subifds=2, compression="zlib")
        for step in (4, 32):
            writer.write(whole[::step, ::step], tile=(128, 128), subfiletype=1, compression="zlib")
    found = read_mask(path, slide, mpp=MPP)
    np.testing.assert_array_equal(found.mask, whole[::4, ::4] > 0)
    assert found.downsample == pytest.approx(4.0, rel=0.005)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.with_suffix(".geojson").write_text("{"), "not JSON"),
        (
            lambda p: p.with_suffix(".geojson").write_text('{"type":"FeatureCollection","features":[]}'),
            "no area",
        ),
        (
            lambda p: write_json(p.with_suffix(".geojson"), polygon_feature([square(10, 10, 90)], "Ignore*")),
            "no area that is tissue",
        ),
        (
            lambda p: write_json(p.with_suffix(".geojson"), polygon_feature([square(5000, 10, 90)])),
            "outside the slide of 1500 x 1003",
        ),
        (
            lambda p: p.with_suffix(".xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><ASAP_Annotations/>'),
            "entities",
        ),
        (
            lambda p: p.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n rest"),
            "cannot be read as a picture",
        ),
        (lambda p: p.with_suffix(".tif").write_bytes(b"II*\0\x08\0\0\0"), "cannot be read as a picture"),
        (lambda p: Image.new("L", (100, 150)).save(p.with_suffix(".png")), "must show the whole slide"),
        (lambda p: p.with_suffix(".svg").write_text("<svg/>"), "expected .geojson"),
    ],
)
def test_what_is_no_mask_of_this_slide_is_refused_by_name(slide, tmp_path, make, message):
    make(tmp_path / "s")
    (path,) = tmp_path.iterdir()
    with pytest.raises(MaskError, match=message) as caught:
        read_mask(path, slide, mpp=MPP)
    assert str(path) in str(caught.value)


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_read(slide, tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        writer.write(
            iter([b"x"]), shape=(40_000, 60_000), dtype=np.uint8, tile=(40_000, 60_000), compression="zlib"
        )
    with pytest.raises(MaskError, match="too many"):
        read_mask(tmp_path / "s.tif", slide, mpp=MPP)


def test_the_mask_of_a_slide_is_found_by_its_name(tmp_path):
    (tmp_path / "a.geojson").touch()
    (tmp_path / "a.jpg").touch()  # a preview is no mask
    (tmp_path / "b.png").touch()
    (tmp_path / "b.xml").touch()
    assert find_mask(tmp_path, "a") == tmp_path / "a.geojson"
    assert find_mask(tmp_path / "b.png", "whatever") == tmp_path / "b.png"
    with pytest.raises(MaskError, match=r"2 masks \(b.xml, b.png\)"):
        find_mask(tmp_path, "b")
    with pytest.raises(MaskError, match="no mask in"):
        find_mask(tmp_path, "c")
    check_masks(tmp_path, n_slides=9)
    check_masks(tmp_path / "b.png", n_slides=1)
    with pytest.raises(UsageError, match="one mask for 2 slides"):
        check_masks(tmp_path / "b.png", n_slides=2)
    with pytest.raises(UsageError, match="no mask at"):
        check_masks(tmp_path / "none", n_slides=1)


@pytest.mark.parametrize("with_picture", [True, False])
def test_the_preview_shows_slide_tissue_and_regions_in_place(slide, tissue, with_picture):
    if not with_picture:
        tissue = TissueMask(mask=tissue.mask, downsample=tissue.downsample, mpp=tissue.mpp)
    plan = plan_of(slide, tissue)
    jpeg = cv2.imdecode(np.frombuffer(draw_preview(slide, tissue, plan), np.uint8), cv2.IMREAD_COLOR)
    picture = cv2.cvtColor(jpeg, cv2.COLOR_BGR2RGB).astype(int)
    height, width = picture.shape[:2]
    scale = width / WIDTH
    assert height == pytest.approx(HEIGHT * scale, rel=0.02)

    def near(x_l0, y_l0, colour):
        x, y = round(x_l0 * scale), round(y_l0 * scale)
        reach = 2 + round(tissue.downsample * scale)  # the outline runs along pixels of the mask
        window = picture[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].reshape(-1, 3)
        return np.abs(window - colour).sum(axis=1).min() < 90

    region = plan.regions[0]
    assert near(region.x_px, region.y_px + region.height_px / 2, (30, 90, 220))
    assert near(region.x_px + region.width_px / 2, region.y_px, (30, 90, 220))
    assert near(580, 490 - 302, (0, 160, 80))  # the rim of the hole
    assert near(230, 500, (128, 92, 160))
    assert near(580, 490, (244, 244, 244))
