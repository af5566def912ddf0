"""The values of patches that a heatmap may show, and what a model needs to have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wsi_vmamba.errors import UsageError
from wsi_vmamba.prediction.heatmaps import LAYERS
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


PROBABILITY = Layer(_probability, "outlines (--supervision both)")
ATTENTION = Layer(_attention, "an attention aggregator such as abmil")


def layer_of(found: SlidePrediction, name: str | None) -> tuple[str, PatchValues]:
    """The name and the values of a layer; of the first that there is where none is named.

    Raises:
        UnknownNameError: there is no such layer.
        UsageError: the model gives no such values.
    """
    asked = tuple(LAYERS) if name is None else (name,)
    layers: dict[str, Layer] = {known: LAYERS.resolve(known) for known in asked}
    for known, layer in layers.items():
        values = layer.of(found)
        if values is not None:
            return known, values
    wanted = "neither attention nor probability" if name is None else f"no {name}"
    needs = " or with ".join(layer.needs for layer in layers.values())
    raise UsageError(
        f"{found.slide_id}: this model gives {wanted} of patches, so there is no heatmap; train one with {needs}"
    )
