from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba import __version__, ops
from wsi_vmamba.config import DoctorConfig, ExtractConfig
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_slide
from wsi_vmamba.errors import MissingMppError
from wsi_vmamba.pipelines import doctor, extract, info
from wsi_vmamba.rescale import compiled
from wsi_vmamba.store import open_features


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = CohortSpec(slides=1, seed=4, width_px=(1500, 1500), height_px=(1100, 1100))
    return generate_slide(spec, 0, tmp_path_factory.mktemp("slide")).path


def test_info_plans_what_extract_does(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert info.run(ExtractConfig(slides=str(slide), patch_px=64)) is True
    printed = capsys.readouterr().out
    assert "1,500 x 1,100 px" in printed
    assert re.search(r"mpp +0.5 um/px", printed)
    assert re.search(r"reader +tiff", printed)
    planned = int(re.search(r"(\d+) patches of 64 px", printed).group(1))
    extract.run(ExtractConfig(slides=str(slide), out=str(tmp_path), patch_px=64, backbone="null"))
    assert len(open_features(tmp_path / f"{slide.stem}.zarr").coords_l0) == planned


def test_info_says_how_samples_were_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tifffile.imwrite(
        tmp_path / "a.tif", np.full((512, 512, 3), 90, np.uint8), photometric="minisblack", planarconfig="contig",
        tile=(256, 256),
    )  # fmt: skip
    info.run(ExtractConfig(slides=str(tmp_path / "a.tif"), mpp_override=0.5, segmenter="all"))
    assert re.search(r"samples +tagged grey, read as red, green and blue", capsys.readouterr().out)


def test_info_refuses_to_guess_the_resolution(real_data: Path):
    with pytest.raises(MissingMppError, match="--mpp-override"):
        info.run(ExtractConfig(slides=str(real_data / "slides" / "lymph-node-metastasis.tif")))


def test_doctor_names_version_kernel_and_reason(capsys: pytest.CaptureFixture[str]):
    sound = doctor.run(DoctorConfig())
    printed = capsys.readouterr().out
    assert sound is (ops.cpu.available and compiled.available)
    assert re.search(
        rf"resampling kernel +{'compiled, ' + compiled.isa if compiled.available else 'not'}", printed
    )
    assert re.search(rf"wsi-vmamba +{re.escape(__version__)}", printed)
    assert re.search(r"active on cpu +(cpp|reference): \S", printed)
    assert all(extra in printed for extra in doctor.EXTRAS)
