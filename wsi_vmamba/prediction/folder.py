"""The folder of predictions: its files, what it is of, and which slides it has already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_vmamba.config import PredictConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import StoreError, UsageError
from wsi_vmamba.folder_kinds import PREDICTION_RECORD
from wsi_vmamba.prediction.predictor import Predictor
from wsi_vmamba.prediction.slide_prediction import SlidePrediction, read_header, read_prediction
from wsi_vmamba.provenance import digest, write_run_record
from wsi_vmamba.store import FeatureMeta, remove_stale_partials

RECORD = PREDICTION_RECORD
TABLE = "predictions.csv"
SETTINGS = "predict.yaml"
PATCHES, HEATMAPS, FEATURES = "patches", "heatmaps", "features"


def patches_path(out: Path, slide_id: str) -> Path:
    """Where the values of a slide's patches lie."""
    return out / PATCHES / f"{slide_id}.safetensors"


def holds_predictions(folder: Path) -> bool:
    """Whether a folder is one that `predict` made."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> Mapping[str, Any]:
    """What made the predictions in a folder.

    Raises:
        StoreError: its record is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder / RECORD} is damaged ({error}); choose another --out, or --overwrite"
        ) from error


def open_folder(config: PredictConfig, predictor: Predictor, *, features: Path) -> Path:
    """Make the folder ready for predictions of a model, and record what they are.

    Raises:
        UsageError: it holds something else, or predictions of another model, and is not to be overwritten.
        StoreError: it cannot be written.
    """
    out = Path(config.out)
    require_writable(out, option="--out")
    if not config.overwrite:
        _refuse_others(out, predictor)
    for folder in (out, out / PATCHES, out / HEATMAPS):
        remove_stale_partials(folder)
    facts = {
        "model": predictor.identity,
        "model_path": str(predictor.model.path.absolute()),
        "n_models": len(predictor.model.members),
        "threshold": predictor.threshold,
        "threshold_source": predictor.threshold_source,
        "classes": list(predictor.model.classes),
        "features": str(features.absolute()),
    }
    write_run_record(out, command="predict", config=config, facts=facts)
    return out


def _refuse_others(out: Path, predictor: Predictor) -> None:
    if not out.is_dir():
        return
    if not holds_predictions(out):
        # Another run that is beginning, or was killed then, has written its settings and not yet its record.
        inside = sorted(
            entry.name for entry in out.iterdir() if not entry.name.startswith(".") and entry.name != SETTINGS
        )
        if inside:
            raise UsageError(
                f"{out.absolute()} is there and holds no predictions but {inside[0]} and {len(inside) - 1} more; "
                "choose another --out, or --overwrite to have predictions written among them"
            )
        return
    other = read_record(out)
    if other.get("model") != predictor.identity:
        raise UsageError(
            f"{out.absolute()} holds predictions of another model ({other.get('model_path')}); choose another --out, "
            "or replace them with --overwrite"
        )


def kept(out: Path, meta: FeatureMeta, predictor: Predictor) -> SlidePrediction | None:
    """The prediction of these features by this model and threshold, if the folder has it whole."""
    path = patches_path(out, meta.slide_id)
    if not path.is_file():
        return None
    try:
        header = read_header(path)
        wanted = facts_of(meta, predictor)
        if any(header.get(name) != value for name, value in wanted.items()):
            return None
        return read_prediction(path)
    except StoreError:  # a damaged file is made anew
        return None


def facts_of(meta: FeatureMeta, predictor: Predictor) -> dict[str, Any]:
    """What makes a prediction the same: the model, its threshold and the features."""
    return {
        "model": predictor.identity,
        "threshold": predictor.threshold,
        "features_settings": digest(meta.to_dict()),
        "feature_limit": getattr(predictor.comparison, "limit", None),
        "stain_limit": getattr(predictor.comparison, "stain_limit", None),
    }
