"""A run trained on small slides with painted lesions, and the same picture in the format of every reader."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import wsi_vmamba as wv
from wsi_vmamba.cli import app

SLIDES, TRAINED = 12, 10


@pytest.fixture(scope="session")
def painted() -> ModuleType:
    """`painted.py`: pictures with a lesion, and what writes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return importlib.import_module("painted")


@pytest.fixture
def invoke() -> Callable[..., Any]:
    """Run a command line in this process."""

    def call(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    return call


@pytest.fixture(scope="session")
def make_slide(painted: ModuleType) -> Callable[..., Path]:
    """Write a TIFF with a lesion or without."""

    def make(
        path: Path, *, seed: int = 99, lesion: tuple[int, ...] | None = None, mpp: float | None = 0.5
    ) -> Path:
        return painted.write_tiff(path, painted.tissue(seed=seed, lesion=lesion), mpp=mpp)

    return make


@pytest.fixture(scope="session")
def lesion_writers(painted: ModuleType) -> dict[str, Callable[[Path, np.ndarray], Path]]:
    """What writes a picture for a reader, by the name of the reader."""
    return {
        "tiff": lambda folder, picture: painted.write_tiff(folder / "new.tif", picture),
        "zarr": lambda folder, picture: painted.write_zarr(folder / "new.zarr", picture),
        "deepzoom": lambda folder, picture: painted.write_deepzoom(folder / "new.dzi", picture),
    }


@pytest.fixture(scope="session")
def leica_with_bounds() -> Callable[[Path, np.ndarray], Path]:
    """Write a Leica slide whose scanned areas lie off the origin of its canvas, both with a picture cut to fit."""
    folder = Path(__file__).parents[1] / "slide"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        vendor_tiffs = importlib.import_module("vendor_tiffs")

    def write(into: Path, picture: np.ndarray) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vendor_tiffs, "tissue", lambda w, h: np.ascontiguousarray(picture[:h, :w]))
            into.mkdir(parents=True, exist_ok=True)
            return vendor_tiffs.write_leica(into).path

    return write


@pytest.fixture(scope="session")
def cohort(painted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve slides, every second with a lesion and its outline; features of the backbone without weights."""
    folder = tmp_path_factory.mktemp("predict-cohort")
    rows = []
    for index in range(SLIDES):
        generator = np.random.default_rng(index)
        left, top = generator.integers(0, 400), generator.integers(0, 300)
        lesion = (left, top, left + 160, top + 140) if index % 2 else None
        path = painted.write_tiff(
            folder / "slides" / f"s{index:02d}.tif", painted.tissue(seed=index, lesion=lesion)
        )
        if lesion is not None:
            painted.write_outline(folder / "outlines" / f"s{index:02d}.geojson", lesion)
        rows.append([path.stem, str(path), index % 2, "train" if index < TRAINED else "test"])
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "path", "label", "split"])
        writer.writerows(rows)
    outcomes = wv.extract(
        folder / "slides", out=folder / "features", backbone="null", segmenter="all", patch_px=painted.PATCH_PX,
        region_px=320, min_tissue=0.2, target_mpp=painted.MPP,
    )  # fmt: skip
    assert outcomes.ok
    return folder


@pytest.fixture(scope="session")
def train_run(cohort: Path) -> Callable[..., wv.Run]:
    def train(runs: Path, **changes: object) -> wv.Run:
        values = {
            "dataset": "csv", "manifest": cohort / "cohort.csv", "features": cohort / "features", "runs": runs,
            "name": "run", "epochs": 10, "learning_rate": 5e-3, "hidden_dim": 16, "dropout": 0.0, "progress": False,
            "aggregator": "abmil",
        }  # fmt: skip
        return wv.train(**{**values, **changes})

    return train


@pytest.fixture(scope="session")
def run(train_run: Callable[..., wv.Run], cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> wv.Run:
    """Attention and a probability of each patch."""
    runs = tmp_path_factory.mktemp("predict-run")
    return train_run(runs, supervision="both", annotations=cohort / "outlines")


@pytest.fixture(scope="session")
def folds(train_run: Callable[..., wv.Run], tmp_path_factory: pytest.TempPathFactory) -> wv.Run:
    return train_run(tmp_path_factory.mktemp("predict-folds"), name="folds", folds=3, epochs=3)
