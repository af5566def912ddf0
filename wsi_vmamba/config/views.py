"""What is shown of slides in a pretraining; what the numbers are checked for stands with `ViewSettings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import Share

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(ge=0)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
WholeRange = Annotated[list[int], Field(min_length=2, max_length=2)]


class ViewNumbers(RunConfig):
    """How fields of view are drawn from tissue, and views cut from them."""

    large_px: Count = 112
    """Side of a large view."""
    n_large: Count = 2
    """Large views of a field."""
    small_px: Count = 64
    """Side of a small view."""
    n_small: Annotated[int, Field(ge=0)] = 2
    """Small views of a field."""
    field_px: Count = 160
    """Side of a field, in pixels at its scale."""
    um_per_px: Range = Field(default_factory=lambda: [0.25, 2.0])
    """Least and greatest scale of a field, drawn log-uniformly; no finer than the slide is."""
    large_share: Range = Field(default_factory=lambda: [0.35, 1.0])
    """Least and greatest share of the field's area in a large view."""
    small_share: Range = Field(default_factory=lambda: [0.05, 0.35])
    """Least and greatest share of the field's area in a small view."""
    aspect: Range = Field(default_factory=lambda: [0.85, 1.18])
    """Least and greatest width of a crop over its height, before it is made square."""
    min_tissue: Share = 0.5
    """Least share of a field that is tissue by the slide's mask."""
    min_stained: Share = 0.15
    """Least share of its pixels that are not as clear as glass."""
    slide_weight: Literal["equal", "sqrt_area"] = "sqrt_area"
    """How likely a slide is drawn: all alike, or by the square root of its tissue's area."""


class AugmentationNumbers(RunConfig):
    """How strongly views are changed, each on its own."""

    turn: bool = True
    """Flip and turn by quarters."""
    stain_gain: Positive = 0.35
    """The density of each stain is multiplied by a factor between 1 / (1 + gain) and 1 + gain."""
    stain_shift: Positive = 0.03
    """Largest optical density added to each stain or taken from it."""
    stain_hue: Positive = 0.04
    """Standard deviation of what is added to the unit vectors that are the stains' colours."""
    brightness: Share = 0.08
    """Intensities are multiplied by a factor between 1 - brightness and 1 + brightness."""
    contrast: Share = 0.1
    """And their distance from mid-grey by one between 1 - contrast and 1 + contrast."""
    blur_p: Share = 0.3
    """Probability of a Gaussian blur."""
    blur_sigma_px: Range = Field(default_factory=lambda: [0.3, 1.3])
    """Least and greatest standard deviation of it."""
    jpeg_p: Share = 0.25
    """Probability of a trip through JPEG."""
    jpeg_quality: WholeRange = Field(default_factory=lambda: [45, 95])
    """Least and greatest quality."""
    grey_p: Share = 0.03
    """Probability that a view loses its colours."""
    haematoxylin_p: Share = 0.02
    """Probability that a view keeps its haematoxylin only."""
