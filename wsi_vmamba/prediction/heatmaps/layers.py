"""The layers that a heatmap may show: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wsi_vmamba.errors import UnknownNameError, UsageError
from wsi_vmamba.prediction.slide_prediction import SlidePrediction
from wsi_vmamba.report.heatmap import PatchValues, attention_patches, probability_patches


@dataclass(frozen=True)
class Layer:
    """One value per patch.

    Attributes:
        of: the values of a prediction, None where its model gives none.
        needs: what a model must be trained with to give them.
    """

    of: Callable[[SlidePrediction], PatchValues | None]
    needs: str


def _probability(found: SlidePrediction) -> PatchValues | None:
    if found.patch_probability is None:
        return None
    return probability_patches(found.patch_probability.astype(np.float64), found)


def _attention(found: SlidePrediction) -> PatchValues | None:
    return None if found.attention is None else attention_patches(found.attention, found)


#: Name -> layer; the first that a model has is shown where none is named.
LAYERS: Mapping[str, Layer] = {
    "probability": Layer(_probability, "outlines (--supervision slide+patches)"),
    "attention": Layer(_attention, "an attention aggregator such as abmil"),
}


def layer_of(found: SlidePrediction, name: str | None) -> tuple[str, PatchValues]:
    """The name and the values of a layer; of the first that there is where none is named.

    Raises:
        UnknownNameError: there is no such layer.
        UsageError: the model gives no such values.
    """
    if name is not None and name not in LAYERS:
        raise UnknownNameError("layer", name, LAYERS)
    for known in LAYERS if name is None else (name,):
        values = LAYERS[known].of(found)
        if values is not None:
            return known, values
    wanted = "neither attention nor probability" if name is None else f"no {name}"
    needs = " or with ".join(LAYERS[known].needs for known in (LAYERS if name is None else (name,)))
    raise UsageError(
        f"{found.slide_id}: this model gives {wanted} of patches, so there is no heatmap; train one with {needs}"
    )
