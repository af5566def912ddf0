"""Pairs of slides of the same patches: that they are the same, and that the arrangement is what the label says."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from wsi_vmamba.config import ExtractConfig, SynthConfig
from wsi_vmamba.datasets import DATASETS
from wsi_vmamba.datasets.synthetic import ARRANGEMENTS, ArrangementSpec, generate_arranged
from wsi_vmamba.datasets.synthetic.arranged_slides import BLOCK_PX, compose, paint_blocks
from wsi_vmamba.datasets.synthetic.arrangement import TUMOUR_BLOCKS, lay_out
from wsi_vmamba.errors import DatasetError, UsageError
from wsi_vmamba.ops import cpu
from wsi_vmamba.pipelines import extract, synth
from wsi_vmamba.slide import open_slide
from wsi_vmamba.store import open_features

SPEC = ArrangementSpec(pairs=4, blocks=8, seed=5)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    assert synth.run(SynthConfig(cohort="near-far", slides=8, seed=5, out=str(folder), blocks=8))
    return folder


def read_blocks(path: Path) -> list[bytes]:
    """Every block of a slide, in any order."""
    with open_slide(path) as slide:
        side = slide.levels[0].width_px
        assert (side, slide.levels[0].height_px, slide.mpp) == (
            8 * BLOCK_PX,
            8 * BLOCK_PX,
            pytest.approx(1.0),
        )
        rgb = slide.read_region(x_l0=0, y_l0=0, level=0, width_px=side, height_px=side)
    cut = [slice(at, at + BLOCK_PX) for at in range(0, side, BLOCK_PX)]
    return [rgb[rows, columns].tobytes() for rows, columns in product(cut, cut)]


def test_both_slides_of_a_pair_hold_the_same_blocks_to_the_last_bit(cohort: Path):
    one, other = (read_blocks(cohort / f"pair_002_{side}.tif") for side in "ab")
    assert one != other
    assert sorted(one) == sorted(other)
    assert len(set(one)) == 64
    assert set(one).isdisjoint(read_blocks(cohort / "pair_003_a.tif"))


def gaps(marked: np.ndarray) -> tuple[int, int]:
    """Of two lesions of 2 x 2 blocks: rows and columns between them."""
    found, count = ndimage.label(marked)
    assert count == 2
    (rows_a, columns_a), (rows_b, columns_b) = ndimage.find_objects(found)
    assert {s.stop - s.start for s in (rows_a, columns_a, rows_b, columns_b)} == {2}
    return rows_b.start - rows_a.stop, columns_b.start - columns_a.stop


@pytest.mark.parametrize("blocks", [8, 11, 16])
def test_lesions_are_one_block_apart_or_half_the_slide(blocks: int):
    spec = ArrangementSpec(pairs=30, blocks=blocks)
    turned = set()
    for pair in range(30):
        near, far = (lay_out(spec, pair, label) < TUMOUR_BLOCKS for label in (1, 0))
        assert sorted(gaps(near)) == [-2, 1]  # the same two rows, and one column between
        beside, between = sorted(gaps(far))
        assert (beside, between >= blocks // 2) == (-2, True)
        turned.add(gaps(far)[0] > 0)
    assert turned == {True, False}


@pytest.mark.parametrize("blocks", [8, 13])
def test_a_ring_has_a_hole_and_a_line_is_straight(blocks: int):
    spec = ArrangementSpec(arrangement="ring-line", pairs=10, blocks=blocks)
    for pair in range(10):
        ring, line = (lay_out(spec, pair, label) < TUMOUR_BLOCKS for label in (1, 0))
        assert ndimage.binary_fill_holes(ring).sum() == ring.sum() + 1 == 9
        assert sorted((line.any(axis=0).sum(), line.any(axis=1).sum())) == [1, 8]
        assert ndimage.label(line)[1] == 1


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_layout_uses_each_block_once_and_is_a_function_of_the_seed(arrangement: str):
    spec = ArrangementSpec(arrangement=arrangement, blocks=9)
    grid = lay_out(spec, 3, 1)
    assert sorted(grid.ravel()) == list(range(81))
    np.testing.assert_array_equal(grid, lay_out(spec, 3, 1))
    assert (grid != lay_out(spec, 4, 1)).any()


def test_blocks_lie_where_the_layout_says():
    blocks = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, BLOCK_PX, BLOCK_PX, 3), np.uint8)
    rgb = compose(blocks, np.array([[2, 0], [3, 1]]))
    assert rgb[::BLOCK_PX, ::BLOCK_PX, 0].tolist() == [[2, 0], [3, 1]]
    assert (rgb[BLOCK_PX:, :BLOCK_PX] == 3).all()


def test_tumour_has_the_colour_of_the_others_and_another_texture():
    blocks = paint_blocks(SPEC, 0).astype(np.float64)
    means = blocks.mean(axis=(1, 2))
    spread = means[TUMOUR_BLOCKS:].std(axis=0)
    assert (
        np.abs(means[:TUMOUR_BLOCKS].mean(axis=0) - means[TUMOUR_BLOCKS:].mean(axis=0)) < 2.5 * spread
    ).all()
    assert len(np.unique(blocks, axis=0)) == 64


def test_the_manifest_says_label_patient_and_split(cohort: Path):
    with (cohort / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["1", "0"] * 4
    assert [row["patient_id"] for row in rows[:3]] == ["patient_000", "patient_000", "patient_001"]
    assert [row["split"] for row in rows] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    records = DATASETS.resolve("csv")(manifest=cohort / "manifest.csv")
    assert [record.path.is_file() for record in records] == [True] * 8


def test_a_cohort_goes_on_and_is_not_mixed_with_another(cohort: Path):
    before = {path.name: path.read_bytes() for path in cohort.glob("*.tif")}
    (cohort / "pair_001_b.tif").unlink()
    seen: list[str] = []
    generate_arranged(SPEC, cohort, progress=seen.append)
    assert {path.name: path.read_bytes() for path in cohort.glob("*.tif")} == before
    assert len(seen) == 8
    with pytest.raises(DatasetError, match="other settings \\(difficulty\\)"):
        generate_arranged(ArrangementSpec(pairs=4, blocks=8, seed=5, difficulty=0.9), cohort)


@pytest.mark.skipif(not cpu.available, reason=f"the C++ kernels are missing: {cpu.why}")
@pytest.mark.slow
def test_only_an_encoder_that_reads_more_than_a_block_tells_a_pair_apart(cohort: Path, tmp_path: Path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for side in "ab":
        (slides / f"{side}.tif").symlink_to(cohort / f"pair_000_{side}.tif")
    for region_px, alike in ((128, True), ("whole", False)):
        out = tmp_path / str(region_px)
        config = ExtractConfig(
            slides=str(slides), out=str(out), target_mpp=1.0, patch_px=128, region_px=region_px, segmenter="all",
            device="cpu", precision="fp32",
        )  # fmt: skip
        assert extract.run(config)
        a, b = (np.asarray(open_features(out / f"{side}.zarr").features) for side in "ab")
        assert len(a) == 64
        assert np.array_equal(np.unique(a, axis=0), np.unique(b, axis=0)) == alike


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrangement": "spiral"}, "choose from near-far, ring-line"),
        ({"pairs": 3}, "at least 4 pairs"),
        ({"blocks": 7}, "at least 8 blocks"),
        ({"difficulty": 1.5}, "difficulty lies in 0 to 1"),
    ],
)
def test_settings_that_make_no_cohort_are_refused(changes: dict[str, object], words: str):
    with pytest.raises(UsageError, match=words):
        ArrangementSpec(**changes)


def test_pairs_are_even_and_nodes_need_not_be(tmp_path: Path):
    with pytest.raises(ValueError, match="slides must be even, got 9"):
        SynthConfig(cohort="ring-line", slides=9)
    assert SynthConfig(cohort="nodes", slides=9).slides == 9
