"""Small slides that are quick to make and to read, and the extract command on them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.config import ExtractConfig

WriteSlide = Callable[..., Path]


@pytest.fixture(scope="session")
def write_tiny_slide() -> WriteSlide:
    """Write a pink, noisy slide of 640 x 512 px at 0.5 um in JPEG tiles of 64 px, with one level of a quarter."""

    def write(path: Path, seed: int = 0, *, width: int = 640, height: int = 512, **options: object) -> Path:
        generator = np.random.default_rng(seed)
        rgb = np.clip(generator.normal((200, 120, 170), 25, (height, width, 3)), 0, 255).astype(np.uint8)
        options = {"compression": "jpeg", "tile": (64, 64), "photometric": "rgb", **options}
        path.parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(path) as tif:
            for factor in (1, 4):
                per_cm = 20_000 / factor
                tif.write(
                    rgb[::factor, ::factor],
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(factor > 1),
                    metadata=None,
                    **options,
                )
        return path

    return write


@pytest.fixture
def tiny_slides(tmp_path: Path, write_tiny_slide: WriteSlide) -> Path:
    """A folder of three slides; those of a test may be damaged."""
    for index in range(3):
        write_tiny_slide(tmp_path / "slides" / f"s{index}.tif", index)
    return tmp_path / "slides"


@pytest.fixture(scope="session")
def extract_config() -> Callable[..., ExtractConfig]:
    """Settings that cut a tiny slide into 4 regions of 80 cells."""

    def make(slides: Path, out: Path, **changes: object) -> ExtractConfig:
        values = {"slides": str(slides), "out": str(out), "backbone": "null", "segmenter": "all"}
        return ExtractConfig.model_validate({**values, "cell_px": 64, "region_px": 320, **changes})

    return make


@pytest.fixture(scope="session")
def read_outcomes() -> Callable[[Path], dict[str, dict[str, str]]]:
    """Rows of the table of an output folder, by slide."""

    def read(out: Path) -> dict[str, dict[str, str]]:
        with (out / "extract.csv").open() as file:
            return {row["slide_id"]: row for row in csv.DictReader(file)}

    return read


@pytest.fixture(scope="session")
def store_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Every byte of the feature files in a folder, hidden leftovers included; the run's own records left out."""

    def read(out: Path) -> dict[str, bytes]:
        records = {"extract.csv", "extract.yaml", "extract.run.json"}
        return {
            str(file.relative_to(out)): file.read_bytes()
            for file in sorted(out.rglob("*"))
            if file.is_file() and file.name not in records
        }

    return read
