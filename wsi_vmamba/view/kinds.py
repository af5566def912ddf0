"""What a folder is, by what lies in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wsi_vmamba.training.folders import CONFIG, RECORD

FEATURE_SUFFIX = ".zarr"
#: Written first by `predict`.
PREDICTION_RECORD = "predict.run.json"


def is_feature_file(path: Path) -> bool:
    """Whether a folder is one feature file, by its parts."""
    return path.suffix == FEATURE_SUFFIX and (path / "features" / "zarr.json").is_file()


def feature_files(folder: Path) -> Iterator[Path]:
    """The feature files of a folder, by name."""
    return (path for path in sorted(folder.glob(f"*{FEATURE_SUFFIX}")) if is_feature_file(path))


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a finished training."""
    return (folder / RECORD).is_file() and (folder / CONFIG).is_file()
