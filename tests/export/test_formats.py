"""Each format read back by the tool it is for, or by that tool's documented layout, and compared with the store."""

from __future__ import annotations

import json
import uuid
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely
import torch

from wsi_vmamba.errors import IncompatibleStoreError, UsageError
from wsi_vmamba.export import EXPORTERS, export_patches, read_patches, write_files
from wsi_vmamba.store import open_features

NAMES = ("case 1", "case-2")


def export(features: Path, form: str, out: Path) -> list[Path]:
    written = []
    for path in sorted(features.glob("*.zarr")):
        written += write_files(export_patches(form, read_patches(path)), out, overwrite=False)
    return written


def grid_of(file) -> np.ndarray:
    return np.rint(file.coords_l0 / file.meta.patch_l0).astype(int)


def test_torchmil_reads_the_trident_folder(features: Path, tmp_path: Path):
    # torchmil's own docstrings and imports warn; none of that is ours.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = pytest.importorskip("torchmil.datasets", reason="torchmil is not installed")
        export(features, "trident", tmp_path)
        (base,) = tmp_path.iterdir()
        assert base.name == "20x_64px_0px_overlap"
        (tmp_path / "labels.csv").write_text("wsi,label\ncase 1.svs,1\ncase-2.svs,0\n")
        patch_l0 = open_features(features / "case-2.zarr").meta.patch_l0
        dataset = datasets.TridentWSIDataset(
            f"{base}/", str(tmp_path / "labels.csv"), "vmamba_pico", wsi_names=list(NAMES),
            bag_keys=["X", "Y", "coords"], patch_size=patch_l0, wsi_name_col="wsi", wsi_label_col="label",
        )  # fmt: skip
        bags = {name: dataset[index] for index, name in enumerate(NAMES)}
    for name, label in zip(NAMES, (1, 0), strict=True):
        file = open_features(features / f"{name}.zarr")
        np.testing.assert_array_equal(bags[name]["X"].numpy(), file.features.astype(np.float32))
        # Divided by the patch and cut off, as torchmil does, corners must give the patch's place on the grid.
        np.testing.assert_array_equal(bags[name]["coords"].numpy(), grid_of(file))
        assert int(bags[name]["Y"]) == label


def test_the_trident_attributes_describe_one_geometry(features: Path, tmp_path: Path):
    export(features, "trident", tmp_path)
    file = open_features(features / "case 1.zarr")
    base = tmp_path / "20x_64px_0px_overlap"
    for path in (base / "patches" / "case 1_patches.h5", base / "features_vmamba_pico" / "case 1.h5"):
        with h5py.File(path) as h5:
            coords, attrs = h5["coords"][:], dict(h5["coords"].attrs)
            assert json.loads(h5.attrs["wsi_vmamba"])["weights_hash"] == "ab" * 32
        assert attrs["patch_size"] == 64
        assert attrs["overlap"] == 0
        assert attrs["name"] == "case 1"
        assert (attrs["level0_width"], attrs["level0_height"]) == (5000, 3100)
        assert attrs["target_magnification"] == 20
        assert attrs["patch_size_level0"] == file.meta.patch_l0
        # TRIDENT derives the size of a patch at level 0 from the two magnifications.
        size_l0 = attrs["patch_size"] * attrs["level0_magnification"] / attrs["target_magnification"]
        assert size_l0 == pytest.approx(file.meta.patch_l0, rel=1e-12)
        assert attrs["level0_magnification"] == pytest.approx(10 / 0.2431)
        assert coords.dtype == np.int64
        assert ((coords - file.coords_l0 >= 0) & (coords - file.coords_l0 <= 1)).all()


def test_whole_magnifications_are_whole_numbers(make_features, tmp_path: Path):
    path = make_features(tmp_path, mpp=0.25)
    patches = read_patches(path)
    assert (patches.level0_magnification, type(patches.level0_magnification)) == (40, int)
    with h5py.File(
        write_files(export_patches("trident", patches), tmp_path / "out", overwrite=False)[0]
    ) as h5:
        assert h5["coords"].attrs["patch_size_level0"] == 128
        np.testing.assert_array_equal(h5["coords"][:], patches.coords_l0)


def test_clam_finds_its_tensor_and_its_coordinates(features: Path, tmp_path: Path):
    export(features, "clam", tmp_path)
    for name in NAMES:
        file = open_features(features / f"{name}.zarr")
        tensor = torch.load(tmp_path / "pt_files" / f"{name}.pt", weights_only=True)
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), file.features.astype(np.float32))
        with h5py.File(tmp_path / "h5_files" / f"{name}.h5") as h5:
            np.testing.assert_array_equal(h5["features"][:], tensor.numpy())
            np.testing.assert_array_equal(h5["coords"][:], file.coords_l0)
            assert h5["coords"].attrs["patch_size"] == 132  # 64 px of 0.5 um are 131.6 px of 0.2431 um
            assert h5["coords"].attrs["patch_level"] == 0


def test_stamp_coordinates_are_micrometres_on_its_grid(features: Path, tmp_path: Path):
    export(features, "stamp", tmp_path)
    file = open_features(features / "case-2.zarr")
    with h5py.File(tmp_path / "case-2.h5") as h5:
        assert h5.attrs["unit"] == "um"
        assert h5.attrs["tile_size_um"] == 32.0
        assert h5.attrs["tile_size_px"] == 64
        assert h5.attrs["extractor"] == "wsi-vmamba-vmamba_pico"
        assert h5.attrs["feat_type"] == "tile"
        assert "stamp_version" not in h5.attrs
        np.testing.assert_array_equal(h5["feats"][:], file.features)
        coords = h5["coords"][:]
    # STAMP's heatmaps floor these to places on the grid, and multiply them to pixels of the slide.
    np.testing.assert_array_equal(np.floor(coords / 32.0), grid_of(file))
    np.testing.assert_allclose(coords / 0.2431, file.coords_l0, atol=0.51)


def test_anndata_reads_its_file(features: Path, tmp_path: Path):
    anndata = pytest.importorskip("anndata")
    path = features / "case-2.zarr"
    file = open_features(path)
    attention = np.linspace(0, 2, file.n_patches)
    patches = read_patches(
        path, measurements={"attention": attention}, slide_measurements={"probability": 0.75}
    )
    (written,) = write_files(export_patches("anndata", patches), tmp_path, overwrite=False)
    table = anndata.read_h5ad(written)
    np.testing.assert_array_equal(table.X, file.features.astype(np.float32))
    np.testing.assert_array_equal(table.obs[["x_l0", "y_l0"]].to_numpy(), file.coords_l0)
    np.testing.assert_array_equal(table.obs["attention"].to_numpy(), attention)
    assert set(table.obs["slide_id"]) == {"case-2"}
    centres = file.coords_l0 + file.meta.patch_l0 / 2
    np.testing.assert_allclose(table.obsm["spatial"], centres, atol=0.51)
    scale = table.uns["spatial"]["case-2"]["scalefactors"]
    assert scale["spot_diameter_fullres"] == file.meta.patch_l0
    assert table.uns["wsi_vmamba"]["probability"] == 0.75
    assert table.uns["wsi_vmamba"]["target_mpp"] == 0.5
    assert table.obs_names.is_unique
    assert table.obs_names[0] == "case-2_{}_{}".format(*grid_of(file)[0])


def test_geojson_tiles_are_the_patches(features: Path, tmp_path: Path):
    path = features / "case 1.zarr"
    file = open_features(path)
    attention = np.linspace(0, 2, file.n_patches)
    patches = read_patches(
        path, measurements={"attention": attention}, slide_measurements={"probability": 0.75}
    )
    (written,) = write_files(export_patches("geojson", patches), tmp_path, overwrite=False)
    collection = json.loads(written.read_text())
    assert collection["type"] == "FeatureCollection"
    *tiles, slide = collection["features"]
    assert len(tiles) == file.n_patches
    for tile, corner, value in zip(tiles, file.coords_l0, attention, strict=True):
        (ring,) = tile["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        polygon = shapely.geometry.shape(tile["geometry"])
        assert polygon.is_valid
        left, top, right, bottom = polygon.bounds
        np.testing.assert_allclose((left, top), corner, atol=0.51)
        assert right - left == pytest.approx(min(file.meta.patch_l0, 5000 - left), abs=2e-3)
        assert bottom - top == pytest.approx(min(file.meta.patch_l0, 3100 - top), abs=2e-3)
        assert isinstance(tile["properties"]["measurements"], dict)
        assert tile["properties"]["measurements"]["attention"] == value
        assert tile["properties"]["objectType"] == "tile"
        assert str(uuid.UUID(tile["id"])) == tile["id"]
    assert len({tile["id"] for tile in collection["features"]}) == len(collection["features"])
    # Neighbours share their edges: the union is the outline, without slivers between the patches.
    area = sum(shapely.geometry.shape(tile["geometry"]).area for tile in tiles)
    outline = shapely.geometry.shape(slide["geometry"])
    assert outline.is_valid
    assert outline.area == pytest.approx(area, rel=1e-9)
    assert slide["properties"]["measurements"] == {"probability": 0.75}
    assert slide["properties"]["objectType"] == "annotation"


def test_geojson_ids_stay_when_scores_change_and_differ_between_slides(make_features, tmp_path: Path):
    first, second = make_features(tmp_path, "a"), make_features(tmp_path, "b")

    def ids(path: Path, **measured) -> list[str]:
        (file,) = export_patches("geojson", read_patches(path, **measured))
        (written,) = write_files([file], tmp_path / "out", overwrite=True)
        return [tile["id"] for tile in json.loads(written.read_text())["features"]]

    n_patches = open_features(first).n_patches
    assert ids(first) == ids(first, measurements={"attention": np.ones(n_patches)})
    assert not set(ids(first)) & set(ids(second))


@pytest.mark.parametrize("form", EXPORTERS)
def test_equal_features_give_equal_bytes(features: Path, tmp_path: Path, form: str):
    found = []
    for out in (tmp_path / "a", tmp_path / "b"):
        export(features, form, out)
        found.append({p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()})
    assert found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("form", EXPORTERS)
def test_what_is_there_stays_and_only_what_is_missing_is_written(features: Path, tmp_path: Path, form: str):
    written = export(features, form, tmp_path)
    assert export(features, form, tmp_path) == []
    written[-1].unlink()
    assert export(features, form, tmp_path) == [written[-1]]


@pytest.mark.parametrize("form", EXPORTERS)
def test_an_export_of_other_features_is_neither_kept_nor_replaced_silently(
    make_features, tmp_path: Path, form: str
):
    files = export_patches(form, read_patches(make_features(tmp_path / "old")))
    written = write_files(files, tmp_path / "out", overwrite=False)
    before = [path.read_bytes() for path in written]
    newer = make_features(tmp_path / "new", seed=1, mpp=0.25)
    files = export_patches(form, read_patches(newer))
    with pytest.raises(IncompatibleStoreError, match="is not what would be written now"):
        write_files(files, tmp_path / "out", overwrite=False)
    assert [path.read_bytes() for path in written] == before
    write_files(files, tmp_path / "out", overwrite=True)
    assert all(path.read_bytes() != old for path, old in zip(written, before, strict=True))
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]


def test_a_measurement_that_does_not_fit_is_refused(features: Path):
    path = features / "case 1.zarr"
    with pytest.raises(UsageError, match="finite numbers, one a patch"):
        read_patches(path, measurements={"attention": np.ones(3)})
    n_patches = open_features(path).n_patches
    with pytest.raises(UsageError, match="'attention'"):
        read_patches(path, measurements={"attention": np.full(n_patches, np.nan)})


def test_a_missing_library_is_named_with_its_extra(features: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match=r"h5py.*wsi-vmamba\[export\]"):
        export_patches("stamp", read_patches(features / "case 1.zarr"))
