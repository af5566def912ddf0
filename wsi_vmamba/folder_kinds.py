"""What a folder is, by what lies in it: a run, predictions, a probe, features, slides. Asked here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from wsi_vmamba.errors import SlideError
from wsi_vmamba.slide import find_slides
from wsi_vmamba.training.folders import CONFIG, RECORD

#: Written first by `predict`.
PREDICTION_RECORD = "predict.run.json"
#: Written by `probe --out`.
PROBE_FILES = ("results.json", "predictions.csv")
#: Written by `extract` beside the features, also where no slide got any.
OUTCOMES = "extract.csv"
FEATURE_SUFFIX = ".zarr"
RUN, PREDICTIONS, PROBE, FEATURES, SLIDES = "run", "predictions", "probe", "features", "slides"


def is_feature_file(path: Path) -> bool:
    """Whether a folder is a feature file, whole or damaged, and not a slide that is a zarr too."""
    arrays = ("features", "coords_l0")
    return path.suffix == FEATURE_SUFFIX and any((path / name / "zarr.json").is_file() for name in arrays)


def feature_files(folder: Path) -> Iterator[Path]:
    """The feature files of a folder, by name; hidden ones are being made."""
    found = sorted(folder.glob(f"*{FEATURE_SUFFIX}"))
    return (path for path in found if not path.name.startswith(".") and is_feature_file(path))


def _is_run(folder: Path) -> bool:
    return (folder / RECORD).is_file() and (folder / CONFIG).is_file()


def _holds_predictions(folder: Path) -> bool:
    return (folder / PREDICTION_RECORD).is_file()


def _is_probe(folder: Path) -> bool:
    return all((folder / name).is_file() for name in PROBE_FILES)


def _holds_features(folder: Path) -> bool:
    return (
        (folder / OUTCOMES).is_file() or is_feature_file(folder) or any(True for _ in feature_files(folder))
    )


#: What this package makes of slides; the first that fits is taken. Predictions come before features, since they may
#: hold some.
RESULTS: Mapping[str, Callable[[Path], bool]] = {
    RUN: _is_run,
    PREDICTIONS: _holds_predictions,
    PROBE: _is_probe,
    FEATURES: _holds_features,
}


def result_in(folder: Path) -> str | None:
    """Which result a folder is, a name of `RESULTS`; a feature file is features; None where it is none of them."""
    return next((name for name, is_one in RESULTS.items() if is_one(folder)), None)


def kind_of(folder: Path) -> str | None:
    """The same, and "slides" of a folder that is no result and holds a slide at any depth, which takes a search."""
    found = result_in(folder)
    if found is not None:
        return found
    try:
        return SLIDES if find_slides(folder, problems=[]) else None
    except SlideError:
        return None
