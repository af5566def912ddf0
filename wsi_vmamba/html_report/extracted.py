"""What is known of the extraction of a slide, from `extract.csv`, its feature file and its preview."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import StoreError
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.extraction.outcomes import Outcome
from wsi_vmamba.html_report.extraction_table import read_outcomes
from wsi_vmamba.html_report.markup import without_folders
from wsi_vmamba.store import FeatureFile, open_features

_SUFFIX = ".zarr"


@dataclass(frozen=True, kw_only=True, eq=False)
class Extracted:
    """One slide.

    Attributes:
        slide_id: its name.
        outcome: of its last extraction; empty where no table says it.
        detail: cause or note of that.
        remedy: what to do about it.
        seconds: how long it took; 0 where that is not known.
        patches: how many features there are.
        left_out: patches without features because of damage.
        tiles: damaged tiles.
        regions: of its plan.
        covered: share of the slide that its patches cover; None where that is not known.
        mpp: micrometres per level-0 pixel; None without features.
        mpp_source: where that comes from.
        settings: what its features were made with, in words; empty without features.
        mean: of its features, (D,); None without.
        problem: why its feature file cannot be read; empty where it can.
        preview: picture of its tissue; None where there is none.
    """

    slide_id: str
    outcome: str = ""
    detail: str = ""
    remedy: str = ""
    seconds: float = 0.0
    patches: int = 0
    left_out: int = 0
    tiles: int = 0
    regions: int = 0
    covered: float | None = None
    mpp: float | None = None
    mpp_source: str = ""
    settings: str = ""
    mean: NDArray[np.float64] | None = None
    problem: str = ""
    preview: Path | None = None


def read_extraction(folder: Path, *, progress: ShowProgress) -> list[Extracted]:
    """All slides of a folder of features, and those that never got there, by name.

    Raises:
        StoreError: the table of outcomes is damaged.
    """
    outcomes = {one.slide_id: one for one in read_outcomes(folder)}
    stored = {path.name.removesuffix(_SUFFIX): path for path in folder.glob(f"*{_SUFFIX}") if path.is_dir()}
    names = sorted(set(outcomes) | set(stored))
    found = []
    with progress("read", len(names)) as task:
        for name in names:
            found.append(_read(name, stored.get(name), outcomes.get(name), folder))
            task.step(name)
    return found


def _read(name: str, path: Path | None, outcome: Outcome | None, folder: Path) -> Extracted:
    picture = folder / "tissue" / f"{name}.jpg"
    values: dict[str, Any] = {"slide_id": name, "preview": picture if picture.is_file() else None}
    if outcome is not None:
        values |= {
            "outcome": outcome.outcome, "detail": without_folders(outcome.detail), "remedy": outcome.remedy,
            "seconds": outcome.seconds, "regions": outcome.regions,
        }  # fmt: skip
    if path is None:
        return Extracted(**values)
    try:
        file = open_features(path)
        return Extracted(**{**values, **_facts(file)})
    except StoreError as error:
        return Extracted(**values, problem=without_folders(str(error)))


def _facts(file: FeatureFile) -> dict[str, Any]:
    meta = file.meta
    width, height = meta.plan.get("width_l0"), meta.plan.get("height_l0")
    area = file.n_patches * meta.patch_l0**2
    mean = file.features.astype(np.float32).mean(axis=0, dtype=np.float64)
    return {
        "patches": file.n_patches,
        "left_out": meta.n_left_out,
        "tiles": len(meta.left_out.get("tiles", [])),
        "regions": len(meta.plan.get("regions", [])),
        "covered": area / (width * height) if width and height else None,
        "mpp": meta.mpp,
        "mpp_source": meta.mpp_source,
        "settings": f"{meta.model} {meta.weights_hash[:12]}, {meta.target_mpp:g} um per pixel, {meta.patch_px} px",
        # One that is no number would make the distance of every other slide none.
        "mean": mean if np.isfinite(mean).all() else None,
        "problem": "" if np.isfinite(mean).all() else "some of its features are not finite",
    }
