"""The slide classifier: features standardised as in training, then an aggregator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_vmamba.bags import Bag, FeatureSource, require_finite
from wsi_vmamba.errors import IncompatibleStoreError, TrainingError
from wsi_vmamba.mil import AGGREGATORS
from wsi_vmamba.mil.base import MilOutput
from wsi_vmamba.mil.patch_head import PatchHead
from wsi_vmamba.records import SlideRecord

#: Of labels 0 and 1: normal and tumour.
NUM_CLASSES = 2
#: A feature that varies less than this over the training slides is only centred.
SMALLEST_STD = 1e-6
#: Weight that the most suspicious patch of a slide starts with, where there is an aggregator beside the patch head.
FIRST_TRUST = 0.5


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What it takes to build a classifier again, and the features it is for.

    ``aggregator`` is None where the slide's score is that of its most suspicious patch; ``patch_head`` says
    whether patches get a score of their own. One of the two there is. ``classes`` are the names of the classes where
    labels are names; ``of_patients`` says whether a bag holds all slides of a patient.
    """

    aggregator: str | None
    patch_head: bool
    in_dim: int
    hidden_dim: int
    dropout: float
    source: FeatureSource | None
    classes: tuple[str, ...] | None = None
    of_patients: bool = False

    @property
    def num_classes(self) -> int:
        """How many classes are told apart."""
        return NUM_CLASSES if self.classes is None else len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain values; without what models of labels 0 and 1, of slides, never had."""
        values = {**asdict(self), "source": self.source and self.source.to_dict()}
        for name in ("classes", "of_patients"):
            if not values[name]:
                del values[name]
        if self.classes:
            values["classes"] = list(self.classes)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild a spec from `to_dict`; a TypeError names missing or unknown keys."""
        source, classes = values.get("source"), values.get("classes")
        known = {
            "source": None if source is None else FeatureSource(**source),
            "classes": None if classes is None else tuple(map(str, classes)),
        }
        return cls(**{**values, **known})


class SlideOutput(NamedTuple):
    """What a classifier says of one slide.

    Attributes:
        logits: (classes,); normal and tumour, of two.
        attention: (N,), sums to 1, where the aggregator weighs patches; of more than two classes that with a weight for
            each, it is that of the class with the highest logit.
        patches: (N,), tumour logit of each patch, where there is a patch head.
        auxiliary: the aggregator's further loss, see `MilOutput`.
        class_attention: (classes, N), where each class weighs patches apart.
    """

    logits: Tensor
    attention: Tensor | None
    patches: Tensor | None
    auxiliary: Callable[[int], Tensor] | None
    class_attention: Tensor | None = None


class SlideClassifier(nn.Module):
    """Standardisation by the training slides, then a patch head, an aggregator, or one after the other.

    With both, the aggregator is given the tumour probability of each patch as one more feature, and the logit of the
    most suspicious patch is added to its own with a learned weight. Both are passed on without gradient: the head
    learns from outlines only.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("feature_mean", torch.zeros(spec.in_dim))
        self.register_buffer("feature_std", torch.ones(spec.in_dim))
        self.patch_head: PatchHead | None = None
        self.aggregator: nn.Module | None = None
        if spec.patch_head:
            self.patch_head = PatchHead(spec.in_dim, hidden_dim=spec.hidden_dim, dropout=spec.dropout)
        if spec.aggregator is not None:
            build = AGGREGATORS.resolve(spec.aggregator)
            width = spec.in_dim + spec.patch_head
            if spec.patch_head:
                self.trust = nn.Parameter(torch.tensor(FIRST_TRUST))
            self.aggregator = build(width, spec.num_classes, hidden_dim=spec.hidden_dim, dropout=spec.dropout)

    def forward(self, features: Tensor, coords: Tensor) -> SlideOutput:
        """Classify one slide: features (N, in_dim), unstandardised, coords (N, 2) int64 (col, row)."""
        features = (features - self.feature_mean) / self.feature_std
        patches = None if self.patch_head is None else self.patch_head(features)
        by_patches = None if patches is None else _logits_of_highest(patches)
        if self.aggregator is None:
            assert by_patches is not None  # settings without either are refused
            return SlideOutput(by_patches, None, patches, None)
        if patches is not None:
            suspicion = 2 * torch.sigmoid(patches.detach()) - 1
            features = torch.cat([features, suspicion.to(features.dtype)[:, None]], dim=1)
        found: MilOutput = self.aggregator(features, coords)
        logits, attention = found.logits, found.attention
        if by_patches is not None:
            logits = logits + self.trust * by_patches.detach()
        if found.class_attention is not None and len(logits) > NUM_CLASSES:
            attention = found.class_attention[int(logits.argmax())]
        return SlideOutput(logits, attention, patches, found.auxiliary, found.class_attention)

    def forward_bag(self, bag: Bag) -> SlideOutput:
        """Classify a bag on the device of the model.

        Raises:
            IncompatibleStoreError: the bag's features are not of the kind the model was trained on.
        """
        self._check_features(bag)
        device = self.feature_mean.device
        features = torch.from_numpy(np.require(bag.features, requirements=["C", "W"]))
        return self.forward(features.to(device), torch.from_numpy(bag.coords_grid).to(device))

    def _check_features(self, bag: Bag) -> None:
        if self.spec.source is not None and bag.source is not None:
            self.spec.source.check_same(bag.source, where=bag.slide_id)
        if bag.features.shape[1] != self.spec.in_dim:
            raise IncompatibleStoreError(
                f"{bag.slide_id}: the model expects features of length {self.spec.in_dim}, "
                f"got {bag.features.shape[1]}; extract with the backbone the model was trained on"
            )


def _logits_of_highest(patches: Tensor) -> Tensor:
    """Logits (2,) of a slide that is as suspicious as its most suspicious patch."""
    highest = patches.amax()
    return torch.stack([torch.zeros_like(highest), highest])


class Prediction(NamedTuple):
    """What a model says of a slide.

    Attributes:
        probability: of label 1; of more than two classes, of the most probable one.
        attention: (N,) float32, of each patch, where the aggregator has one.
        patches: (N,) float32, tumour probability of each patch, from a model supervised by outlines.
        shares: (classes,) float64, probability of each class, of more than two.
        class_attention: (classes, N) float32, of more than two classes that weigh patches apart.
    """

    probability: float
    attention: NDArray[np.float32] | None
    patches: NDArray[np.float32] | None = None
    shares: NDArray[np.float64] | None = None
    class_attention: NDArray[np.float32] | None = None

    @property
    def called(self) -> int | None:
        """The most probable of more than two classes; None of two, which a threshold decides."""
        return None if self.shares is None else int(self.shares.argmax())

    def probability_of(self, called: int | None) -> float:
        """Probability of a class of several, or that of label 1."""
        return self.probability if self.shares is None or called is None else float(self.shares[called])


def average(said: Sequence[Prediction]) -> Prediction:
    """The mean of what several models say of one slide; attention is that of the class they agree on."""
    shares = _mean([one.shares for one in said])
    classes = _mean([one.class_attention for one in said])
    attention = _mean([one.attention for one in said])
    if classes is not None and shares is not None:
        attention = classes[int(shares.argmax())]
    return Prediction(
        probability=mean(one.probability for one in said) if shares is None else float(shares.max()),
        attention=attention,
        patches=_mean([one.patches for one in said]),
        shares=shares,
        class_attention=classes,
    )


def _mean(values: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [one for one in values if one is not None]
    found: NDArray[Any] | None = np.mean(known, axis=0) if known else None
    return found


def predict(model: SlideClassifier, bag: Bag) -> Prediction:
    """Classify a slide; leaves the model in evaluation mode.

    Raises:
        IncompatibleStoreError: the bag's features are not of the kind the model was trained on.
        DatasetError: some of its features are not finite.
    """
    require_finite(bag)
    model.eval()
    with torch.no_grad():
        output = model.forward_bag(bag)
    shares = torch.softmax(output.logits.double(), dim=0).cpu().numpy()
    several = len(shares) > NUM_CLASSES
    classes = output.class_attention if several else None
    return Prediction(
        probability=float(shares.max() if several else shares[1]),
        attention=None if output.attention is None else output.attention.cpu().numpy(),
        patches=None if output.patches is None else torch.sigmoid(output.patches).cpu().numpy(),
        shares=shares if several else None,
        class_attention=None if classes is None else classes.cpu().numpy(),
    )


def feature_moments(
    records: Sequence[SlideRecord], load: Callable[[SlideRecord], Bag]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, both (D,) float32; each slide counts the same.

    Raises:
        TrainingError: a slide has a feature that is not finite.
        IncompatibleStoreError: slides have features of different lengths.
    """
    means: list[NDArray[np.float64]] = []
    squares: list[NDArray[np.float64]] = []
    for record in records:
        features = load(record).features
        mean = features.mean(axis=0, dtype=np.float64)
        square = np.square(features, dtype=np.float64).mean(axis=0)
        if not np.isfinite(square).all():
            raise TrainingError(f"{record.slide_id}: a feature is not finite; extract the slide again")
        if means and len(mean) != len(means[0]):
            raise IncompatibleStoreError(
                f"{record.slide_id} has features of length {len(mean)}, "
                f"{records[0].slide_id} of {len(means[0])}; extract all slides with the same backbone"
            )
        means.append(mean)
        squares.append(square)
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - np.square(mean), 0.0))
    std[std < SMALLEST_STD] = 1.0
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))
