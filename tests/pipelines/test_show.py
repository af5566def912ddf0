"""The show command: what a feature file holds, and a picture in which each patch lies where it is on the slide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from wsi_vmamba.cli import app
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_slide
from wsi_vmamba.pipelines import extract
from wsi_vmamba.report.components import principal_colours
from wsi_vmamba.report.heatmap import read_picture
from wsi_vmamba.slide import open_slide
from wsi_vmamba.store import open_features

SPEC = CohortSpec(slides=2, seed=3, width_px=(1024, 1024), height_px=(768, 768))


@pytest.fixture
def features(tmp_path: Path) -> Path:
    slide = generate_slide(SPEC, 0, tmp_path / "slides")
    config = {
        "slides": str(tmp_path / "slides"),
        "out": str(tmp_path / "features"),
        "backbone": "null",
        "patch_px": 64,
    }
    assert extract.run(ExtractConfig.model_validate(config)) is True
    return tmp_path / "features" / f"{slide.slide_id}.zarr"


def test_show_prints_the_facts_and_draws_beside_the_features(features: Path) -> None:
    result = CliRunner().invoke(app, ["show", str(features)])
    assert result.exit_code == 0, result.output
    assert "64 px at 0.5 um/px" in result.output
    picture = features.with_name(f"{features.stem}.components.png")
    facts = json.loads(picture.with_suffix(".json").read_text())
    assert facts["backbone"] == "null"
    assert 0.9 < sum(facts["explained_variance"]) <= 1.0 + 1e-9
    stored = open_features(features)
    colours, _ = principal_colours(stored.features)
    patches = {tuple(colour) for colour in np.rint(colours * 255).astype(int).tolist()}
    with open_slide(stored.meta.slide_path) as slide:
        own = read_picture(slide, mpp=stored.meta.mpp).pixels
    assert len(patches) > 50
    assert patches <= colours_of(np.asarray(Image.open(picture).convert("RGB")))
    # The slide beside them does not have these colours itself, so they were drawn.
    assert len(patches & colours_of(own)) < len(patches) / 4


def colours_of(pixels: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def test_a_slide_that_moved_is_found_with_an_option_and_missed_without(features: Path) -> None:
    lost = next((features.parent.parent / "slides").glob("*.tif"))
    moved = features.parent.parent / "moved.tif"
    lost.rename(moved)
    result = CliRunner().invoke(app, ["show", str(features)])
    assert result.exit_code != 0
    assert lost.name in str(result.exception)
    assert CliRunner().invoke(app, ["show", str(features), "--slide", str(moved)]).exit_code == 0
