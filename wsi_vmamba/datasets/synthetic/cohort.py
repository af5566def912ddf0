"""A whole synthetic cohort on disk: slides, annotations and the manifest that names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsi_vmamba.datasets.synthetic.slides import SyntheticSlide, generate_slide
from wsi_vmamba.datasets.synthetic.spec import MPP, CohortSpec
from wsi_vmamba.durable import csv_text, write_atomic
from wsi_vmamba.errors import DatasetError

#: Columns of the manifest; ``path`` and ``annotation`` are relative to the manifest's folder.
COLUMNS = (
    "slide_id",
    "path",
    "annotation",
    "mpp",
    "label",
    "patient_id",
    "split",
    "centre",
    "lesion_size",
)
MANIFEST_NAME = "manifest.csv"
SETTINGS_NAME = "cohort.json"


def generate_cohort(
    spec: CohortSpec,
    out_dir: Path | str,
    *,
    workers: int = 2,
    progress: Callable[[SyntheticSlide], None] | None = None,
) -> Path:
    """Paint every slide of a cohort and write its manifest; returns the path of ``manifest.csv``.

    Slides already there are kept, so an interrupted run goes on where it stopped. The workers are threads:
    most of painting and encoding runs outside the interpreter lock. ``progress`` is called with each slide as
    it is finished, in order.

    Raises:
        DatasetError: the folder holds a cohort of other settings.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, asdict(spec))
    rows = []
    with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="synthetic") as pool:
        for slide in pool.map(lambda index: generate_slide(spec, index, folder), range(spec.slides)):
            rows.append(_row(slide))
            if progress is not None:
                progress(slide)
    manifest = folder / MANIFEST_NAME
    write_atomic(manifest, csv_text(COLUMNS, rows))
    return manifest


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Record the settings of a cohort in its folder, or refuse a folder that was made with others.

    Raises:
        DatasetError: naming what differs.
    """
    wanted = json.loads(json.dumps(settings))
    path = folder / SETTINGS_NAME
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*wanted, *found} if found.get(key) != wanted.get(key))
        if differing:
            raise DatasetError(
                f"{folder} holds a synthetic cohort with other settings ({', '.join(differing)}); "
                f"choose another folder or remove it"
            )
        return
    write_atomic(path, (json.dumps(wanted, indent=2) + "\n"))


def _row(slide: SyntheticSlide) -> tuple[str, ...]:
    return (
        slide.slide_id,
        slide.path.name,
        slide.annotation_path.name,
        str(MPP),
        str(slide.label),
        slide.patient_id,
        slide.split,
        slide.centre,
        slide.lesion_size,
    )
