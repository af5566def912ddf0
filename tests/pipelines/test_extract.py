"""The extract command on generated slides, judged by what is on the disk afterwards."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.config import ExtractConfig, OtsuSettings
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_slide
from wsi_vmamba.errors import BadTileError, UsageError
from wsi_vmamba.extraction import tissue_files
from wsi_vmamba.extraction.encoders import describe_encoder, load_encoder
from wsi_vmamba.extraction.sources import find_sources
from wsi_vmamba.inference import memory
from wsi_vmamba.pipelines import extract
from wsi_vmamba.store import open_features

SPEC = CohortSpec(slides=2, seed=3, width_px=(1024, 1024), height_px=(768, 768))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for index in range(2):
        generate_slide(SPEC, index, folder)
    return folder


def config(slides: Path, out: Path, **changes: object) -> ExtractConfig:
    values = {"slides": str(slides), "out": str(out), "backbone": "null", "patch_px": 64, **changes}
    return ExtractConfig.model_validate(values)


def outcomes(out: Path) -> dict[str, str]:
    with (out / "extract.csv").open() as file:
        return {row["slide_id"]: row["outcome"] for row in csv.DictReader(file)}


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_every_slide_ends_as_features_and_a_second_run_skips_them(slides: Path, tmp_path: Path):
    assert extract.run(config(slides, tmp_path)) is True
    first = file_bytes(tmp_path / "slide_000.zarr")
    assert set(outcomes(tmp_path).values()) == {"done"}
    assert extract.run(config(slides, tmp_path)) is True
    assert set(outcomes(tmp_path).values()) == {"already done"}
    assert file_bytes(tmp_path / "slide_000.zarr") == first


def test_a_system_without_proc_and_affinity_gives_the_same_features(
    slides: Path, tmp_path: Path, monkeypatch, two_threads
):
    """As macOS is; what psutil asks the system for is its own matter."""
    read_text = Path.read_text

    def refuse(path: Path, *arguments: str, **named: str) -> str:
        if path.is_relative_to("/proc") or path.is_relative_to("/sys"):
            raise FileNotFoundError(path)
        return read_text(path, *arguments, **named)

    assert extract.run(config(slides, tmp_path / "here", backbone="vmamba_pico")) is True
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert extract.run(config(slides, tmp_path / "there", backbone="vmamba_pico")) is True
    assert memory.peak_resident_bytes() > memory.resident_bytes() / 2 > 1 << 20
    monkeypatch.undo()
    here, there = (file_bytes(tmp_path / name / "slide_000.zarr") for name in ("here", "there"))
    assert here == there


def test_two_runs_into_two_folders_give_equal_bytes(slides: Path, tmp_path: Path):
    for name in ("a", "b"):
        assert extract.run(config(slides, tmp_path / name)) is True
    assert file_bytes(tmp_path / "a" / "slide_000.zarr") == file_bytes(tmp_path / "b" / "slide_000.zarr")


def test_the_features_of_a_patch_do_not_depend_on_the_regions_for_a_local_encoder(
    slides: Path, tmp_path: Path
):
    for region_px in (64, 320, 10_000):
        assert extract.run(config(slides, tmp_path / str(region_px), region_px=region_px)) is True
    found = []
    for region_px in (64, 320, 10_000):
        file = open_features(tmp_path / str(region_px) / "slide_000.zarr")
        order = np.lexsort(file.coords_l0.T)
        found.append((file.coords_l0[order], file.features[order]))
    for coords, features in found[1:]:
        np.testing.assert_array_equal(coords, found[0][0])
        np.testing.assert_array_equal(features, found[0][1])


def test_other_settings_refuse_to_mix(slides: Path, tmp_path: Path):
    assert extract.run(config(slides, tmp_path)) is True
    before = file_bytes(tmp_path / "slide_000.zarr")
    assert extract.run(config(slides, tmp_path, patch_px=128)) is False
    assert set(outcomes(tmp_path).values()) == {"failed"}
    assert file_bytes(tmp_path / "slide_000.zarr") == before
    assert extract.run(config(slides, tmp_path, patch_px=128, overwrite=True)) is True


def test_features_made_with_other_numbers_of_the_segmenter_are_never_mixed(slides: Path, tmp_path: Path):
    assert extract.run(config(slides, tmp_path)) is True
    assert open_features(tmp_path / "slide_000.zarr").meta.segmenter_settings == OtsuSettings().model_dump()
    other = OtsuSettings(close_um=41.0)
    assert extract.run(config(slides, tmp_path, segmenter_settings=other)) is False
    with (tmp_path / "extract.csv").open() as file:
        details = [row["detail"] for row in csv.DictReader(file)]
    assert all("segmenter_settings.close_um: stored 40.0, asked 41.0" in detail for detail in details)
    assert extract.run(config(slides, tmp_path, segmenter_settings=other, overwrite=True)) is True
    assert open_features(tmp_path / "slide_000.zarr").meta.segmenter_settings["close_um"] == 41.0
    assert extract.run(config(slides, tmp_path / "all", segmenter="all")) is True
    assert open_features(tmp_path / "all" / "slide_000.zarr").meta.segmenter_settings == {}


def test_a_truncated_slide_is_named_and_the_others_go_on(slides: Path, tmp_path: Path):
    folder = tmp_path / "slides"
    shutil.copytree(slides, folder)
    broken = folder / "slide_001.tif"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    assert extract.run(config(folder, tmp_path / "out")) is False
    assert outcomes(tmp_path / "out") == {"slide_000": "done", "slide_001": "failed"}
    assert not (tmp_path / "out" / "slide_001.zarr").exists()


def test_the_run_record_says_what_made_the_features(slides: Path, tmp_path: Path):
    extract.run(config(slides, tmp_path))
    record = json.loads((tmp_path / "extract.run.json").read_text())
    assert record["backbone"] == "null"
    assert record["config"]["patch_px"] == 64
    assert {"torch", "wsi-vmamba", "tifffile"} <= set(record["versions"])
    assert "scan_kernel" not in record  # this encoder has no scan


def test_the_kernel_is_recorded_of_encoders_that_scan():
    for name, weights, scans in (("vmamba_pico", "random", True), ("null", "auto", False)):
        settings = ExtractConfig(slides="slides", backbone=name, weights=weights, device="cpu")
        facts = describe_encoder(settings, load_encoder(settings))
        assert ("scan_kernel" in facts, "scan_kernel_why" in facts) == (scans, scans)
        if scans:
            assert facts["scan_kernel"] in {"cpp", "reference"}


def test_a_manifest_gives_names_and_mpp(slides: Path, tmp_path: Path):
    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"slide_id,path,mpp\nfirst,{slides / 'slide_000.tif'},0.4\n")
    assert extract.run(config(manifest, tmp_path / "out", segmenter="all")) is True
    meta = open_features(tmp_path / "out" / "first.zarr").meta
    assert (meta.slide_id, meta.mpp, meta.mpp_source) == ("first", 0.4, "override")


def test_two_slides_of_one_name_are_refused(slides: Path, tmp_path: Path):
    for centre in ("a", "b"):
        (tmp_path / centre).mkdir()
        shutil.copy(slides / "slide_000.tif", tmp_path / centre)
    with pytest.raises(UsageError, match="2 slides are named 'slide_000'"):
        find_sources(str(tmp_path))


def test_weights_are_never_guessed(slides: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no weights are shipped with vmamba_tiny_s1l8"):
        extract.run(config(slides, tmp_path, backbone="vmamba_tiny_s1l8"))
    with pytest.raises(UsageError, match="no weights file at"):
        extract.run(config(slides, tmp_path, backbone="vmamba_pico", weights="none.pth"))


@pytest.mark.slow
def test_all_real_slides_end_as_features_or_a_named_outcome(real_data: Path, tmp_path: Path):
    small = [file for file in sorted((real_data / "slides").iterdir()) if file.stat().st_size < 20_000_000]
    rows = "\n".join(f"{file.stem},{file.absolute()},0.5" for file in small)
    manifest = tmp_path / "real.csv"
    manifest.write_text(f"slide_id,path,mpp\n{rows}\n")
    extract.run(config(manifest, tmp_path / "out", patch_px=256))
    found = outcomes(tmp_path / "out")
    assert len(found) == len(small)
    for name, outcome in found.items():
        assert (outcome == "done") == (tmp_path / "out" / f"{name}.zarr").is_dir()


def test_the_tissue_files_fed_back_keep_the_same_patches(slides: Path, tmp_path: Path):
    assert extract.run(config(slides, tmp_path / "a")) is True
    tissue = tmp_path / "a" / "tissue"
    assert sorted(p.name for p in tissue.iterdir()) == [
        f"slide_00{i}.{ending}" for i in range(2) for ending in ("geojson", "jpg")
    ]
    before = file_bytes(tissue)
    assert extract.run(config(slides, tmp_path / "b", mask=str(tissue))) is True
    for name in ("slide_000", "slide_001"):
        found, again = (open_features(tmp_path / run / f"{name}.zarr") for run in "ab")
        assert found.meta.plan == again.meta.plan
        digest = hashlib.sha256((tissue / f"{name}.geojson").read_bytes()).hexdigest()[:16]
        assert (found.meta.segmenter, again.meta.segmenter) == ("otsu", f"mask {digest}")
        np.testing.assert_array_equal(found.coords_l0, again.coords_l0)
        np.testing.assert_array_equal(found.features, again.features)
    assert file_bytes(tissue) == before
    # The mask that was given is not written again beside the features.
    assert [p.suffix for p in (tmp_path / "b" / "tissue").iterdir()] == [".jpg", ".jpg"]


def test_an_edited_mask_changes_the_patches_and_is_never_written_over(slides: Path, tmp_path: Path):
    assert extract.run(config(slides, tmp_path)) is True
    edited = tmp_path / "tissue" / "slide_000.geojson"
    ring = [[128, 128], [384, 128], [384, 320], [128, 320], [128, 128]]
    edited.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}).join(
        ['{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": ', "}]}"]
    ))  # fmt: skip
    text = edited.read_text()
    masks = str(tmp_path / "tissue")
    # Without --overwrite the other patches are a refused mix, not a silent replacement.
    assert extract.run(config(slides, tmp_path, mask=masks)) is False
    assert extract.run(config(slides, tmp_path, mask=masks, overwrite=True)) is True
    assert edited.read_text() == text
    file = open_features(tmp_path / "slide_000.zarr")
    corners = {(128 + 64 * x, 128 + 64 * y) for x in range(4) for y in range(3)}
    assert set(map(tuple, file.coords_l0.tolist())) == corners
    # Nor are features of an older state of the mask taken for those of the newer.
    edited.write_text(text.replace("384", "448"))
    assert extract.run(config(slides, tmp_path, mask=masks)) is False
    assert outcomes(tmp_path) == {"slide_000": "failed", "slide_001": "already done"}


def test_what_a_mask_leaves_out_is_said_and_kept_beside_the_features(slides: Path, tmp_path: Path, capsys):
    square = [[[0, 0], [512, 0], [512, 512], [0, 512], [0, 0]]]
    parts = [
        {"type": "Polygon", "coordinates": square},
        {"type": "LineString", "coordinates": [[0, 0], [9, 9]]},
    ]
    feature = {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": parts}}
    (tmp_path / "m").mkdir()
    for name in ("slide_000", "slide_001"):
        (tmp_path / "m" / f"{name}.geojson").write_text(json.dumps(feature))
    assert extract.run(config(slides, tmp_path / "o", mask=str(tmp_path / "m"))) is True
    said = "feature 0: a LineString has no area and is left out"
    assert f"slide_000: note: {said}" in capsys.readouterr().out
    with (tmp_path / "o" / "extract.csv").open() as file:
        assert [row["detail"] for row in csv.DictReader(file)] == [said] * 2
    stored = open_features(tmp_path / "o" / "slide_000.zarr")
    assert stored.n_patches == (512 // 64) ** 2


def test_a_slide_without_its_mask_is_named_and_the_others_go_on(slides: Path, tmp_path: Path):
    assert extract.run(config(slides, tmp_path / "a")) is True
    masks = tmp_path / "masks"
    masks.mkdir()
    shutil.copy(tmp_path / "a" / "tissue" / "slide_001.geojson", masks)
    assert extract.run(config(slides, tmp_path / "b", mask=str(masks))) is False
    assert outcomes(tmp_path / "b") == {"slide_000": "failed", "slide_001": "done"}
    with pytest.raises(UsageError, match="one mask for 2 slides"):
        extract.run(config(slides, tmp_path / "c", mask=str(masks / "slide_001.geojson")))


def test_a_slide_without_tissue_still_gets_its_preview(tmp_path: Path):
    from PIL import Image

    (tmp_path / "slides").mkdir()
    blank = np.full((512, 640, 3), 243, np.uint8)
    tifffile.imwrite(tmp_path / "slides" / "blank.tif", blank, tile=(256, 256), photometric="rgb")
    assert extract.run(config(tmp_path / "slides", tmp_path / "out", mpp_override=0.5)) is False
    assert outcomes(tmp_path / "out") == {"blank": "no tissue"}
    with Image.open(tmp_path / "out" / "tissue" / "blank.jpg") as preview:
        assert np.abs(np.asarray(preview).astype(int) - 243).max() < 8


def test_a_preview_that_cannot_be_drawn_does_not_fail_the_slide(
    slides: Path, tmp_path: Path, monkeypatch, capsys
):
    def refuse(*_: object) -> bytes:
        raise BadTileError("slide_000.tif", "level 3, tile (col, row) (0, 0): rotten")

    monkeypatch.setattr(tissue_files, "draw_preview", refuse)
    assert extract.run(config(slides, tmp_path)) is True
    assert "slide_000: no preview (level 3, tile (col, row) (0, 0): rotten)" in capsys.readouterr().err
    assert sorted(p.suffix for p in (tmp_path / "tissue").iterdir()) == [".geojson", ".geojson"]
