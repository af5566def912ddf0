"""Recipe: feature files to the layout of another tool. A file that fails is named and the others go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsi_vmamba import console
from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import ExportConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import StoreError, UsageError
from wsi_vmamba.export import export_patches, read_patches, write_files
from wsi_vmamba.provenance import write_run_record
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.store import remove_stale_partials

#: Attention sums to one over a slide; as multiples of its mean, slides of different sizes compare.
ATTENTION = "attention / mean"
PROBABILITY = "probability"


def run(config: ExportConfig) -> bool:
    """Export every feature file; return whether all are there afterwards."""
    out = Path(config.out or f"export/{config.format}")
    paths = find_feature_files(Path(config.features))
    require_writable(out, option="--out")
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        remove_stale_partials(folder)
    model = _load_model(config.run)
    failures: list[tuple[str, str]] = []
    written = kept = 0
    with console.progress("export", len(paths)) as task:
        for path in paths:
            try:
                new, there = _export(path, out, config, model)
                written, kept = written + new, kept + there
            except StoreError as error:
                failures.append((path.stem, str(error)))
            task.step(path.stem)
    write_run_record(
        out, command="export", config=config, facts={"slides": len(paths), "failed": len(failures)}
    )
    done = len(paths) - len(failures)
    console.say(f"{done} of {len(paths)} slides as {config.format} in {out}; {written} files written")
    if kept:
        console.say(f"{kept} files were there already, the same to the byte")
    if failures:
        console.print_table("Slides not exported", ("slide", "cause"), failures)
    return not failures


def find_feature_files(features: Path) -> list[Path]:
    """List the feature files of a folder, or the one that ``features`` is.

    Raises:
        UsageError: there is none.
    """
    if (features / "zarr.json").is_file():
        return [features]
    found = sorted(
        path for path in features.glob("*.zarr") if path.is_dir() and not path.name.startswith(".")
    )
    if not found:
        raise UsageError(
            f"no feature files in {features.absolute()}; make them with `wsi-vmamba extract`, or give their folder"
        )
    return found


def _export(path: Path, out: Path, config: ExportConfig, model: Any) -> tuple[int, int]:
    """Export one slide; return how many files were written and how many were there already."""
    per_patch, per_slide = ({}, {}) if model is None else _measure(path, model)
    patches = read_patches(path, measurements=per_patch, slide_measurements=per_slide)
    files = export_patches(config.format, patches)
    written = write_files(files, out, overwrite=config.overwrite)
    return len(written), len(files) - len(written)


def _load_model(run_folder: str | None) -> Any:
    """The best model of a run, or None; torch is loaded only where a run is given."""
    if run_folder is None:
        return None
    from wsi_vmamba.training import load_run

    return load_run(Path(run_folder)).model


def _measure(path: Path, model: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """What the model says of each patch and of the slide."""
    from wsi_vmamba.training import predict

    prediction = predict(model, load_bag(SlideRecord(slide_id=path.stem), path.parent))
    per_patch = {}
    if prediction.attention is not None:
        attention = prediction.attention.astype(np.float64)
        per_patch[ATTENTION] = attention / attention.mean()
    return per_patch, {PROBABILITY: prediction.probability}
