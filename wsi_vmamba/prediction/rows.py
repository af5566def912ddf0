"""A line of ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsi_vmamba.extraction.outcomes import DONE, Outcome
from wsi_vmamba.prediction.slide_prediction import SlidePrediction

Number = float | str


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """What became of one slide; the fields are the columns, an empty one is not known.

    Attributes:
        slide_id: its name.
        path: its file or URL.
        probability: of label 1, the mean of the models; of more than two classes, of the one decided for.
        threshold: from which probability on it is called positive; empty of more than two classes.
        decision: "positive" or "negative", or the name of a class.
        probability_sd: standard deviation from model to model, with n - 1; empty of one model.
        probability_min: the lowest of the models; empty of one model.
        probability_max: the highest; empty of one model.
        models: how many there are.
        patches: how many were looked at.
        mpp: micrometres per level-0 pixel.
        unlike: what of it is unlike the training slides: of "features", "mpp" and "stain", nothing, or "not checked".
        unlike_why: in a sentence.
        feature_distance: of its mean feature from the training slides, see `likeness`.
        feature_limit: the largest distance that is still like them.
        outcome: "done", "failed" or "no tissue".
        detail: the cause of a failure, or a note.
        remedy: what the user can do about it.
        more: of more than two classes a column for each, ``probability_<class>``.
    """

    slide_id: str
    path: str = ""
    probability: Number = ""
    threshold: Number = ""
    decision: str = ""
    probability_sd: Number = ""
    probability_min: Number = ""
    probability_max: Number = ""
    models: Number = ""
    patches: Number = ""
    mpp: Number = ""
    unlike: str = ""
    unlike_why: str = ""
    feature_distance: Number = ""
    feature_limit: Number = ""
    outcome: str = DONE
    detail: str = ""
    remedy: str = ""
    more: Mapping[str, Number] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the slide has no prediction."""
        return self.outcome != DONE

    @classmethod
    def of(cls, found: SlidePrediction, *, detail: str = "") -> PredictionRow:
        """The line of a slide that was predicted."""
        several = len(found.probabilities) > 1
        likeness = found.likeness
        return cls(
            slide_id=found.slide_id,
            path=found.slide_path,
            probability=found.probability,
            threshold=_or_empty(found.threshold),
            decision=found.decision,
            probability_sd=_or_empty(found.probability_sd),
            probability_min=min(found.probabilities) if several else "",
            probability_max=max(found.probabilities) if several else "",
            models=len(found.probabilities),
            patches=len(found.coords_l0),
            mpp=found.mpp,
            unlike=likeness.word,
            unlike_why=likeness.why,
            feature_distance=_or_empty(likeness.distance),
            feature_limit=_or_empty(likeness.limit),
            detail=detail,
            more={}
            if found.shares is None
            else dict(zip(share_columns(found.classes), found.shares, strict=True)),
        )

    @classmethod
    def of_failure(cls, outcome: Outcome, *, path: str) -> PredictionRow:
        """The line of a slide that was not."""
        return cls(
            slide_id=outcome.slide_id, path=path, outcome=outcome.outcome, detail=outcome.detail,
            remedy=outcome.remedy,
        )  # fmt: skip


def share_columns(classes: Sequence[str]) -> tuple[str, ...]:
    """Columns of the probabilities of classes."""
    return tuple(f"probability_{name}" for name in classes)


def _or_empty(value: float | None) -> Number:
    return "" if value is None else value
