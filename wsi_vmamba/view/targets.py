"""From what the user names to what is shown."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.config import ViewConfig
from wsi_vmamba.config.fields import FEATURES, RUNS
from wsi_vmamba.errors import TrainingError, UsageError
from wsi_vmamba.folder_kinds import PREDICTIONS, PROBE, RUN, result_in
from wsi_vmamba.training.folders import newest_run
from wsi_vmamba.view.run_model import RunModel
from wsi_vmamba.view.sources import Source, folder_source, slide_source


def open_target(config: ViewConfig) -> Source:
    """What the user named, or what lies here: the newest run, else the features, else the slides.

    Raises:
        UsageError: there is nothing of that name.
        StoreError: it is a prediction whose record is damaged.
    """
    path = Path(config.target) if config.target is not None else _here()
    slides = Path(config.slides) if config.slides else None
    if slides is not None and not slides.is_dir():
        raise UsageError(f"--slides {slides}: no such folder")
    if not path.exists():
        raise UsageError(
            f"no such file or folder: {path}; give a run, features, a slide or a folder of slides"
        )
    if not path.is_dir():
        return slide_source(path)
    kind = result_in(path)
    if kind is None or kind == PROBE:
        return folder_source(path, follow_links=config.follow_links)
    # Loads zarr, which a picture alone need not wait for.
    from wsi_vmamba.view import result_sources

    if kind == PREDICTIONS:
        return result_sources.prediction_source(path, slides=slides)
    if kind == RUN:
        return result_sources.run_source(path, slides=slides, model=RunModel)
    return result_sources.features_source(path, slides=slides)


def _here() -> Path:
    """What is looked at where nothing is named."""
    try:
        return newest_run(Path(RUNS))
    except TrainingError:
        return Path(FEATURES) if Path(FEATURES).is_dir() else Path()
