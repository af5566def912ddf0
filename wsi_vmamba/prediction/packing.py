"""A run to one file that predicts on a machine that has nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from wsi_vmamba.config import PackConfig
from wsi_vmamba.config.fields import SHIPPED_WEIGHTS
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import IncompatibleStoreError, TrainingError, UsageError
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import resolve_weights
from wsi_vmamba.model.weights import weights_hash
from wsi_vmamba.prediction.model import TrainedModel, load_model
from wsi_vmamba.prediction.packed import SUFFIX, write_packed
from wsi_vmamba.training.folders import RECORD
from wsi_vmamba.training.reference import Origin, Reference


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A file that was made.

    Attributes:
        path: of the file.
        model: what is in it.
        n_bytes: its size.
        with_encoder: whether the backbone's weights are in it.
    """

    path: Path
    model: TrainedModel
    n_bytes: int
    with_encoder: bool


def pack(config: PackConfig) -> Packed:
    """Pack a run.

    Raises:
        TrainingError: there is no finished run, or nothing is known of its training slides.
        UsageError: the file is there already, or the backbone's weights are not to be found.
        IncompatibleStoreError: the weights are not those that the training slides were extracted with.
        StoreError: the file cannot be written.
    """
    run = Path(config.run)
    out = Path(config.out) if config.out else Path(f"{run.absolute().name}{SUFFIX}")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; --out is the file to make, such as model{SUFFIX}")
    if out.exists() and not config.overwrite:
        raise UsageError(f"{out} is there already; choose another --out, or replace it with --overwrite")
    require_writable(out.absolute().parent, option="--out")
    if run.is_file():
        raise UsageError(f"{run} is a file; give the folder of a run")
    model = load_model(run, trained_on=None if config.trained_on is None else Path(config.trained_on))
    if model.reference is None:
        raise TrainingError(
            f"{run} cannot be packed: {model.missing}; give --trained-on DIR, the features that it was trained on"
        )
    encoder = _encoder(config, model.reference.origin)
    model = replace(model, reference=_without_paths(model.reference))
    write_packed(out, model, encoder=encoder, training=_training(run))
    return Packed(path=out, model=model, n_bytes=out.stat().st_size, with_encoder=encoder is not None)


def _encoder(config: PackConfig, origin: Origin) -> Mapping[str, Tensor] | None:
    """The backbone's weights, unless they are shipped with the package or to be left out."""
    if config.without_encoder:
        return None
    weights = config.weights or origin.weights or SHIPPED_WEIGHTS
    try:
        found = resolve_weights(origin.model, weights)
    except UsageError as error:
        raise UsageError(
            f"the weights of {origin.model} belong into the file, and are not to be found ({error}); give --weights "
            "FILE, or leave them out with --without-encoder: predict then needs its --weights"
        ) from error
    backbone = build_backbone(origin.model, weights=found.source, seed=origin.seed)
    got = weights_hash(backbone)
    if got != origin.weights_hash:
        raise IncompatibleStoreError(
            f"the training slides were extracted with weights of SHA-256 {origin.weights_hash[:12]}…, but --weights "
            f"{weights} has {got[:12]}…; give --weights FILE, the one that they were extracted with"
        )
    state: dict[str, Tensor] = backbone.state_dict()
    if not state or (weights == SHIPPED_WEIGHTS and not config.with_encoder):
        return None
    return state


def _without_paths(reference: Reference) -> Reference:
    """Where a file of weights lay here means nothing elsewhere."""
    if reference.origin.weights in {None, SHIPPED_WEIGHTS, "random"}:
        return reference
    return replace(reference, origin=replace(reference.origin, weights=None))


def _training(run: Path) -> Mapping[str, Any]:
    """What the run's record says, for people; names of machines and folders stay here."""
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError(f"expected a JSON object, got {type(record).__name__}")
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{run / RECORD} is damaged ({error}); train again, or restore the file"
        ) from error
    names = ("written", "versions", "resolved", "slides", "best", "validation_auc", "config_sha256")
    return {name: record[name] for name in names if name in record}
