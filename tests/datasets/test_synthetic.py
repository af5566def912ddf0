from __future__ import annotations

import csv
from dataclasses import replace

import cv2
import numpy as np
import openslide
import pytest
import shapely
import tifffile
from defusedxml import ElementTree
from sklearn.metrics import roc_auc_score

from wsi_vmamba.datasets import DATASETS
from wsi_vmamba.datasets.synthetic import (
    MPP,
    TISSUES,
    TUMOUR_INDEX,
    CohortSpec,
    generate_cohort,
    generate_slide,
    plan_cohort,
    sample_tiles,
)
from wsi_vmamba.datasets.synthetic.anatomy import draw_anatomy
from wsi_vmamba.datasets.synthetic.noise import periodic_noise
from wsi_vmamba.datasets.synthetic.scene import STEP_PX, paint
from wsi_vmamba.datasets.synthetic.slides import disguise_tumour
from wsi_vmamba.datasets.synthetic.spec import CENTRES, NO_LESION
from wsi_vmamba.datasets.synthetic.stain import as_bytes, make_stain
from wsi_vmamba.datasets.synthetic.textures import GLANDS, make_textures
from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.slide import open_slide, resolve_mpp

TINY = CohortSpec(slides=4, seed=3, width_px=(600, 760), height_px=(512, 600))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    seen = []
    manifest = generate_cohort(TINY, folder, workers=2, progress=seen.append)
    return folder, manifest, seen


@pytest.fixture(scope="module")
def look():
    """Stain, textures (the tumour is not disguised) and roughness of edges."""
    rng = np.random.default_rng(5)
    textures = make_textures(rng, side_px=512, difficulty=0.5)
    wander = periodic_noise(rng, side_px=512, grain_px=20)
    return make_stain(rng, CENTRES[0]), {name: as_bytes(tile) for name, tile in textures.items()}, wander


def test_equal_settings_give_equal_bytes(cohort, tmp_path):
    folder, manifest, _ = cohort
    again = generate_slide(TINY, 1, tmp_path)
    assert again.path.read_bytes() == (folder / again.path.name).read_bytes()
    assert again.annotation_path.read_bytes() == (folder / again.annotation_path.name).read_bytes()
    other = generate_slide(replace(TINY, seed=4), 1, tmp_path / "other")
    assert other.path.read_bytes() != again.path.read_bytes()
    assert manifest.read_bytes().count(b"\n") == TINY.slides + 1


def test_slide_opens_in_openslide_and_tifffile_at_half_a_micrometre(cohort):
    _, _, slides = cohort
    for slide, plan in zip(slides, plan_cohort(TINY), strict=True):
        with openslide.OpenSlide(str(slide.path)) as opened:
            assert opened.dimensions == (plan.width_px, plan.height_px)
            assert opened.level_count == 2
            assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(MPP, rel=1e-3)
            assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(MPP, rel=1e-3)
            seen = np.asarray(opened.read_region((200, 180), 0, (300, 280)).convert("RGB"))
        with tifffile.TiffFile(slide.path) as tiff:
            assert tiff.is_bigtiff
            page = tiff.pages[0]
            assert (page.tilewidth, page.tilelength, page.compression.name) == (256, 256, "JPEG")
            decoded = page.asarray()
        np.testing.assert_allclose(decoded[180:460, 200:500].astype(int), seen.astype(int), atol=3)


def test_the_package_opens_it_and_resolves_its_resolution(cohort):
    _, _, slides = cohort
    with open_slide(slides[0].path) as opened:
        resolved = resolve_mpp(opened)
        assert resolved.value == pytest.approx(MPP, rel=1e-3)
        pixels = opened.read_region(x_l0=100, y_l0=50, level=0, width_px=64, height_px=32)
    np.testing.assert_array_equal(pixels, tifffile.imread(slides[0].path, key=0)[50:82, 100:164])


def test_lower_level_shows_the_same_picture_smaller(cohort):
    _, _, slides = cohort
    with tifffile.TiffFile(slides[0].path) as tiff:
        full, half = (page.asarray() for page in tiff.pages)
    shrunk = cv2.resize(full, (half.shape[1], half.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - half.astype(int)).mean() < 4


def test_manifest_is_read_by_the_data_set(cohort):
    _, manifest, slides = cohort
    records = DATASETS.resolve("synthetic")(manifest=manifest)
    for record, slide in zip(records, slides, strict=True):
        assert record.path == slide.path
        assert record.annotation == slide.annotation_path
        assert (record.label, record.split, record.patient_id) == (slide.label, slide.split, slide.patient_id)
        assert record.mpp == MPP
        assert record.attributes == {"centre": slide.centre, "lesion_size": slide.lesion_size}


def test_finished_slides_are_kept_and_nothing_partial_is_left(cohort):
    folder, _, slides = cohort
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("slide_*")}
    kept = generate_slide(TINY, 0, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("slide_*")} == before
    assert [shapely.Polygon(lesion.polygon_l0).area for lesion in kept.lesions] == [
        shapely.Polygon(lesion.polygon_l0).area for lesion in slides[0].lesions
    ]
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_an_interrupted_slide_is_painted_again(tmp_path):
    slide = generate_slide(TINY, 0, tmp_path)
    content = slide.path.read_bytes()
    slide.path.unlink()
    assert generate_slide(TINY, 0, tmp_path).path.read_bytes() == content


def test_a_folder_of_another_cohort_is_refused(cohort):
    folder, _, _ = cohort
    with pytest.raises(DatasetError, match=r"other settings \(difficulty, seed\)"):
        generate_cohort(replace(TINY, seed=9, difficulty=0.1), folder)


def test_annotation_holds_the_lesions_and_only_tumour_slides_have_any(cohort):
    _, _, slides = cohort
    assert sorted(slide.label for slide in slides) == [0, 0, 1, 1]
    for slide in slides:
        root = ElementTree.parse(slide.annotation_path).getroot()
        polygons = [
            np.array(
                [(float(point.get("X")), float(point.get("Y"))) for point in annotation.iter("Coordinate")]
            )
            for annotation in root.iter("Annotation")
        ]
        assert (len(polygons) > 0) == (slide.label == 1) == (slide.lesion_size != NO_LESION)
        assert len(polygons) == len(slide.lesions)
        for polygon, lesion in zip(polygons, slide.lesions, strict=True):
            np.testing.assert_allclose(polygon, lesion.polygon_l0, atol=0.051)


@pytest.mark.parametrize("lesion_size", ["macro", "micro", "small"])
def test_polygons_lie_where_tumour_was_painted(look, lesion_size):
    lut, textures, wander = look
    scene, lesions = draw_anatomy(
        np.random.default_rng(11), width_px=1200, height_px=1000, lesion_size=lesion_size
    )
    healthy = replace(scene, layers=tuple(layer for layer in scene.layers if layer.tissue != "tumour"))
    with_tumour, without = (paint(drawn, textures, lut, wander=wander) for drawn in (scene, healthy))
    changed = (np.abs(with_tumour.astype(int) - without.astype(int)).max(axis=2) > 8).astype(np.uint8)
    outlined = np.zeros_like(changed)
    cv2.fillPoly(outlined, [np.round(lesion.polygon_l0).astype(np.int32) for lesion in lesions], 1)
    # Edges wander by a cell or so around the polygon, and some pixels have the same colour in both.
    around = cv2.dilate(outlined, np.ones((31, 31), np.uint8))
    assert changed[around == 0].sum() < 0.003 * changed.sum()
    assert changed[outlined == 1].mean() > 0.8
    assert outlined.sum() > 5_000


def test_polygon_follows_the_zero_line_of_the_field(look):
    scene, lesions = draw_anatomy(
        np.random.default_rng(2), width_px=1200, height_px=1000, lesion_size="macro"
    )
    field = next(layer.field for layer in scene.layers if layer.tissue == "tumour")
    x, y = np.round(np.concatenate([lesion.polygon_l0 for lesion in lesions]) / STEP_PX - 0.5).astype(int).T
    assert np.abs(field[y, x]).max() < 3 * STEP_PX
    area_px = sum(shapely.Polygon(lesion.polygon_l0).area for lesion in lesions)
    assert area_px == pytest.approx((field > 0).sum() * STEP_PX**2, rel=0.03)


@pytest.mark.slow
def test_tumour_has_the_mean_colour_of_what_it_replaces():
    for seed in range(3):
        lut = make_stain(np.random.default_rng(seed), CENTRES[seed % 2])
        textures = dict(make_textures(np.random.default_rng(seed), side_px=512, difficulty=0.5))
        for replaced in ({"cortex": 0.7, "germinal": 0.3}, {"cortex": 0.4, "paracortex": 0.5, "sinus": 0.1}):
            tiles = dict(textures)
            # A generator whose normal draws are zero: no jitter.
            disguise_tumour(_NoJitter(), tiles, lut, replaced=replaced)
            wanted = sum(share * lut.mean_rgb(as_bytes(textures[name])) for name, share in replaced.items())
            for name in ("tumour", GLANDS):
                np.testing.assert_allclose(lut.mean_rgb(as_bytes(tiles[name])), wanted, atol=3)


class _NoJitter:
    def normal(self, mean, deviation):
        return mean


def test_scene_knows_what_the_tumour_replaced():
    scene, _ = draw_anatomy(np.random.default_rng(2), width_px=1200, height_px=1000, lesion_size="macro")
    replaced = scene.under_tumour()
    assert sum(replaced.values()) == pytest.approx(1)
    assert set(replaced) <= set(TISSUES) - {"tumour"}
    healthy, _ = draw_anatomy(np.random.default_rng(2), width_px=1200, height_px=1000, lesion_size=NO_LESION)
    assert healthy.under_tumour() == {}


@pytest.mark.slow
def test_mean_colour_does_not_tell_the_labels_apart(tmp_path):
    spec = CohortSpec(slides=16, seed=1, width_px=(512, 512), height_px=(512, 512))
    labels, colours = [], []
    for index in range(spec.slides):
        slide = generate_slide(spec, index, tmp_path)
        pixels = tifffile.imread(slide.path, key=0).reshape(-1, 3)
        labels.append(slide.label)
        colours.append(pixels[pixels.mean(axis=1) < 215].mean(axis=0))
    for channel in np.array(colours).T:
        assert 0.2 < roc_auc_score(labels, channel) < 0.8


def test_nuclei_of_tumour_are_larger():
    textures = make_textures(np.random.default_rng(0), side_px=512, difficulty=0.5)

    def grain_px(name: str) -> float:
        stain = textures[name][..., 0] - textures[name][..., 0].mean()
        power = np.abs(np.fft.rfft2(stain)) ** 2
        frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None, :])
        return float(1 / ((power * frequency).sum() / power.sum()))

    assert grain_px("tumour") > 1.2 * grain_px("cortex")
    assert grain_px(GLANDS) > 1.2 * grain_px("mantle")


def test_textures_and_noise_tile_without_a_seam():
    textures = make_textures(np.random.default_rng(1), side_px=512, difficulty=0.5)
    tiles = {
        **textures,
        "noise": periodic_noise(np.random.default_rng(1), side_px=512, grain_px=20)[..., None],
    }
    for name, tile in tiles.items():
        for axis in (0, 1):
            inside = np.abs(np.diff(tile, axis=axis)).mean()
            seam = np.abs(np.take(tile, 0, axis=axis) - np.take(tile, -1, axis=axis)).mean()
            assert seam < 1.6 * inside + 0.5, name


def test_blocks_join_without_a_seam(look):
    lut, textures, wander = look
    scene, _ = draw_anatomy(np.random.default_rng(4), width_px=1100, height_px=600, lesion_size="macro")
    rgb = paint(scene, textures, lut, wander=wander).astype(int)
    steps = np.abs(np.diff(rgb, axis=1)).mean(axis=(0, 2))
    assert steps[511] < 2 * np.median(steps[400:620])


def test_centres_are_stained_apart():
    means = []
    for centre in CENTRES:
        lut = make_stain(np.random.default_rng(0), centre, jitter=0)
        means.append(lut.mean_rgb(np.full((4, 4, 2), 90, dtype=np.uint8)))
    assert np.abs(means[0] - means[1]).max() > 8


def test_plan_crosses_label_with_centre_and_stratifies_the_split():
    plans = plan_cohort(CohortSpec())
    assert len(plans) == 24
    for label in (0, 1):
        for centre in CENTRES:
            stratum = [plan for plan in plans if (plan.label, plan.centre) == (label, centre)]
            assert len(stratum) == 6
            assert sum(plan.split == "test" for plan in stratum) == 3
    for split in ("train", "test"):
        sizes = [plan.lesion_size for plan in plans if plan.split == split]
        assert {size: sizes.count(size) for size in set(sizes)} == {
            "none": 6,
            "macro": 2,
            "micro": 3,
            "small": 1,
        }
    assert len({plan.patient_id for plan in plans}) == 24
    for batch in {plan.stain_batch for plan in plans}:
        members = [plan for plan in plans if plan.stain_batch == batch]
        assert sorted(plan.label for plan in members) == [0, 1]
        assert len({(plan.centre, plan.split) for plan in members}) == 1
    assert all(4000 <= plan.width_px <= 8000 and 3000 <= plan.height_px <= 6000 for plan in plans)


@pytest.mark.slow
def test_tiles_carry_the_labels_of_their_pixels():
    batch = sample_tiles(0, 12, 256)
    assert batch.images.shape == (12, 256, 256, 3)
    assert batch.tissue.shape == (12, 32, 32)
    share = (batch.tissue == TUMOUR_INDEX).mean(axis=(1, 2))
    np.testing.assert_array_equal(batch.tumour, share >= 0.25)
    assert 4 <= batch.tumour.sum() <= 8
    brightness = np.array(batch.images.reshape(12, 32, 8, 32, 8, 3).mean(axis=(2, 4, 5)))
    assert brightness[batch.tissue == TISSUES.index("fat")].mean() > 210
    assert brightness[batch.tissue == TISSUES.index("mantle")].mean() < 150
    again = sample_tiles(0, 3, 256)
    np.testing.assert_array_equal(again.images[0], batch.images[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slides": 0}, "at least one slide"),
        ({"width_px": (600, 500)}, "width_px"),
        ({"height_px": (100, 500)}, "height_px"),
        ({"difficulty": 1.5}, "difficulty"),
        ({"tumour_fraction": -0.1}, "tumour_fraction"),
        ({"level_factor": 3}, "2 or 4"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        CohortSpec(**settings)


def test_impossible_tiles_are_refused():
    with pytest.raises(UsageError, match="multiple of 8"):
        sample_tiles(0, 1, 100)


def test_manifest_columns(cohort):
    _, manifest, _ = cohort
    with manifest.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == [
        "slide_id",
        "path",
        "annotation",
        "mpp",
        "label",
        "patient_id",
        "split",
        "centre",
        "lesion_size",
    ]
    assert {row["split"] for row in rows} == {"train", "test"}
