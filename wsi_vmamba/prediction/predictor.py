"""Predicts slides from their features, one after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.bags import Bag, FeatureSource
from wsi_vmamba.errors import IncompatibleStoreError, UsageError
from wsi_vmamba.prediction.likeness import Comparison
from wsi_vmamba.prediction.model import TrainedModel
from wsi_vmamba.prediction.slide_prediction import SlidePrediction
from wsi_vmamba.stains import stain_vector
from wsi_vmamba.store import FeatureMeta
from wsi_vmamba.training.reference import DECISIVE, LESS_DECISIVE, Origin

#: What is said in place of where a threshold is from.
MOST_PROBABLE = "the most probable class"


class OtherFeaturesError(IncompatibleStoreError):
    """The features were made with other weights, resolution or patch size than those of the training slides."""


class Predictor:
    """A trained model with its threshold and what slides are compared with."""

    def __init__(self, model: TrainedModel, *, threshold: float | None = None) -> None:
        """Settle the threshold, of two classes.

        Raises:
            UsageError: none is given and the run knows none, or one is given for more than two classes.
        """
        self.model = model
        self.identity = model.identity
        self.comparison = Comparison(model.reference, missing=model.missing)
        self.threshold: float | None = None
        self.threshold_source = MOST_PROBABLE
        if model.several:
            if threshold is not None:
                raise UsageError(
                    f"{model.path} tells {len(model.classes)} classes apart and decides for the most probable, "
                    "whatever its probability; leave out --threshold"
                )
            return
        known = None if model.reference is None else model.reference.threshold
        if threshold is None and known is None:
            raise UsageError(
                f"{model.path}: no threshold is known ({model.missing or 'none was recorded'}); give --threshold X, "
                "or --trained-on DIR, the features that the run was trained on"
            )
        if threshold is not None:
            self.threshold, self.threshold_source = threshold, "given by the user"
        elif known is not None and model.reference is not None:
            self.threshold, self.threshold_source = known, model.reference.threshold_source

    def predict(
        self, meta: FeatureMeta, features: NDArray[np.float16], coords_l0: NDArray[np.int64]
    ) -> SlidePrediction:
        """Predict a slide from its features (N, D) and the corners (N, 2) of its patches in level-0 pixels.

        Raises:
            OtherFeaturesError: they were made with other weights, resolution or patch size.
        """
        check_settings(self.model, meta, where=meta.slide_id)
        bag = bag_of(meta, features, coords_l0)
        said, each = self.model.predict(bag)
        shares = np.array([1 - said.probability, said.probability]) if said.shares is None else said.shares
        likeness = self.comparison.of(
            bag.features, mpp=meta.mpp, stain=stain_vector(meta.stain), slide_id=meta.slide_id
        )
        return SlidePrediction(
            slide_id=meta.slide_id, slide_path=meta.slide_path, scene=meta.scene, reader=meta.reader, mpp=meta.mpp,
            target_mpp=meta.target_mpp, patch_px=meta.patch_px, patch_l0=meta.patch_l0,
            width_l0=meta.plan.get("width_l0"), height_l0=meta.plan.get("height_l0"),
            coords_l0=coords_l0, attention=said.attention, patch_probability=said.patches,
            probability=said.probability, probabilities=each, threshold=self.threshold,
            decision=self.model.classes[self.called(shares)], likeness=likeness, left_out_patches=meta.n_left_out,
            classes=self.model.classes if said.shares is not None else (),
            shares=None if said.shares is None else tuple(said.shares.tolist()), class_attention=said.class_attention,
        )  # fmt: skip

    def called(self, shares: NDArray[np.float64]) -> int:
        """The class that probabilities (K,) are decided for: the most probable, of two by the threshold."""
        if self.threshold is None:
            return int(shares.argmax())
        return int(shares[1] >= self.threshold)

    def note_on(self, meta: FeatureMeta) -> str:
        """What was set otherwise than for the training slides, though the features are of their kind."""
        if self.model.reference is None:
            return ""
        expected, got = self.model.reference.origin, Origin.of(meta)
        # Older features do not say everything; that no pixels were shuffled all of them do.
        names = [
            name for name in LESS_DECISIVE if name == "shuffle_px" or getattr(expected, name) is not None
        ]
        return "; ".join(f"made otherwise: {words}" for words in expected.differences(got, names))


def bag_of(meta: FeatureMeta, features: NDArray[np.float16], coords_l0: NDArray[np.int64]) -> Bag:
    """The bag of a slide from its features (N, D) and the corners (N, 2) of its patches in level-0 pixels."""
    return Bag(
        slide_id=meta.slide_id,
        features=features.astype(np.float32),
        coords_l0=coords_l0,
        patch_l0=meta.patch_l0,
        source=FeatureSource.of(meta),
        scene=meta.scene,
    )


def check_settings(model: TrainedModel, meta: FeatureMeta, *, where: object) -> None:
    """Refuse features that the model was not trained on.

    Raises:
        OtherFeaturesError: naming what was expected, what came and what to do.
    """
    if model.source is None:
        return
    got = FeatureSource.of(meta)
    differing = [
        f"{name}: expected {_brief(getattr(model.source, name))}, got {_brief(getattr(got, name))}"
        for name in DECISIVE
        if getattr(model.source, name) != getattr(got, name)
    ]
    if differing:
        raise OtherFeaturesError(
            f"{where}: its features are not of the kind that {model.path} was trained on ({'; '.join(differing)}); "
            "give the slide instead of these features, and predict extracts it as it has to be"
        )


def _brief(value: object, limit: int = 16) -> str:
    """A value for a message; of a hash its beginning is enough."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:12]}…"
