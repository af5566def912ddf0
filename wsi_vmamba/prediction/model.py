"""A trained model with everything that predicting needs, whether it comes from a run's folder or from a packed file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsi_vmamba.bags import Bag, BagLoader, FeatureSource
from wsi_vmamba.config import TrainConfig
from wsi_vmamba.errors import TrainingError, UsageError, WsiVmambaError
from wsi_vmamba.evaluation.fold_scores import folders_of_folds
from wsi_vmamba.evaluation.run_scores import train_config_of
from wsi_vmamba.tabular.folder import holds_tabular_run
from wsi_vmamba.training import Prediction, load_run, predict
from wsi_vmamba.training.folders import RECORD
from wsi_vmamba.training.model import SlideClassifier, average
from wsi_vmamba.training.reference import Reference, read_reference
from wsi_vmamba.training.reference_slides import reference_of
from wsi_vmamba.training.resolve import load_records
from wsi_vmamba.training.run import Run

#: What label 0 and label 1 are called.
CLASSES = ("negative", "positive")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """One classifier, or those of a cross-validation, and what is known of their training.

    Attributes:
        path: the run's folder, or the packed file.
        members: the classifiers, in evaluation mode on the CPU.
        reference: of the training slides; None where it is not known.
        missing: why not, in words.
        encoder: the backbone's weights, where they came with the model.
        classes: names of label 0 and 1, or of all classes.
    """

    path: Path
    members: tuple[SlideClassifier, ...]
    reference: Reference | None
    missing: str = ""
    encoder: Mapping[str, Tensor] | None = None
    classes: tuple[str, ...] = CLASSES

    @property
    def source(self) -> FeatureSource | None:
        """The kind of features that the model is for."""
        return self.members[0].spec.source

    @property
    def several(self) -> bool:
        """Whether there are more than two classes, of which the most probable is decided for."""
        return len(self.classes) > len(CLASSES)

    @property
    def identity(self) -> str:
        """SHA-256 of all weights: two models of one identity say the same."""
        found = hashlib.sha256()
        for member in self.members:
            found.update(json.dumps(member.spec.to_dict(), sort_keys=True).encode())
            for name, tensor in sorted(member.state_dict().items()):
                found.update(name.encode())
                found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def predict(self, bag: Bag) -> tuple[Prediction, tuple[float, ...]]:
        """Say what the models say of a slide: their mean, and what each says of what they decide for.

        Raises:
            IncompatibleStoreError: the bag's features are not of the kind the model was trained on.
        """
        said = [predict(member, bag) for member in self.members]
        found = average(said)
        return found, tuple(one.probability_of(found.called) for one in said)


def load_model(path: Path, *, trained_on: Path | None = None) -> TrainedModel:
    """Load a run, a cross-validation, or a packed model.

    Args:
        path: its folder or file.
        trained_on: where the features of the training slides are, of a run that does not remember them.

    Raises:
        TrainingError: there is no finished run, or it is damaged.
        UsageError: the run is a classifier of rows, or the path is no file that `pack` made.
        WeightsError: the weights cannot be read or do not fit.
    """
    if path.is_file():
        from wsi_vmamba.prediction.packed import read_packed

        return read_packed(path)
    if holds_tabular_run(path):
        raise UsageError(
            f"{path} is a classifier of rows of numbers (csv_features), which are not made of slides here; score its "
            "slides with `wsi-vmamba evaluate`"
        )
    folders = folders_of_folds(path) or [path]
    if not (path / RECORD).is_file():
        raise TrainingError(
            f"no finished run at {path.absolute()} ({RECORD} is not there); give the folder of one that `wsi-vmamba "
            "train` made, or a file that `wsi-vmamba pack` made of one"
        )
    config = train_config_of(path)
    runs = [load_run(each) for each in folders]
    reference, missing = _reference(path, config, runs, trained_on)
    return TrainedModel(
        path=path,
        members=tuple(run.model for run in runs),
        reference=reference,
        missing=missing,
        classes=runs[0].model.spec.classes or CLASSES,
    )


def _reference(
    folder: Path, config: TrainConfig, runs: Sequence[Run], trained_on: Path | None
) -> tuple[Reference | None, str]:
    """What the run remembers of its training slides, or what their features still say, or why there is neither."""
    found = read_reference(folder)
    if found is not None:
        return found, ""
    features = trained_on or Path(config.features)
    try:
        records = load_records(config)
        members = [(run.model, run.splits) for run in runs]
        return reference_of(records, members, BagLoader(features), features), ""
    except WsiVmambaError as error:
        if trained_on is not None:
            raise
        return None, (
            f"the run, of an earlier release, remembers nothing of its training slides, and they cannot be looked at "
            f"any more ({error})"
        )
