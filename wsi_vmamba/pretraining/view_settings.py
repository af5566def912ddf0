"""What the views of a pretraining are, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wsi_vmamba.errors import UsageError
from wsi_vmamba.geometry import MPP_RANGE


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly views are changed, each on its own; all zero leaves crops as they are.

    Attributes:
        turn: whether views are flipped and turned by quarters, each of the eight ways equally likely.
        stain_gain: the density of each stain is multiplied by a factor between 1 / (1 + gain) and 1 + gain,
            log-uniform.
        stain_shift: largest optical density (natural logarithm) added to each stain or taken from it.
        stain_hue: standard deviation of what is added to each component of the unit vectors that are the stains'
            colours: dyes of other makers, filters of other scanners.
        brightness: intensities are multiplied by a factor between 1 - brightness and 1 + brightness.
        contrast: and their distance from mid-grey by one between 1 - contrast and 1 + contrast.
        blur_p: probability of a Gaussian blur.
        blur_sigma_px: least and greatest standard deviation of it.
        jpeg_p: probability of a trip through JPEG.
        jpeg_quality: least and greatest quality, 1 to 100.
        grey_p: probability that a view loses its colours.
        haematoxylin_p: probability that a view keeps its haematoxylin only.
    """

    turn: bool = True
    stain_gain: float = 0.35
    stain_shift: float = 0.03
    stain_hue: float = 0.04
    brightness: float = 0.08
    contrast: float = 0.1
    blur_p: float = 0.3
    blur_sigma_px: tuple[float, float] = (0.3, 1.3)
    jpeg_p: float = 0.25
    jpeg_quality: tuple[int, int] = (45, 95)
    grey_p: float = 0.03
    haematoxylin_p: float = 0.02

    def __post_init__(self) -> None:
        for name in ("blur_p", "jpeg_p", "grey_p", "haematoxylin_p", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie between 0 and 1, got {getattr(self, name)!r}")
        for name in ("stain_gain", "stain_shift", "stain_hue"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)!r}")
        _check_range("blur_sigma_px", self.blur_sigma_px, 0, 50)
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100)


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Which squares of slides are shown, and how they are cut and changed.

    A field of view is a square of tissue; all its views are cut from it, at places and sizes of their own.

    Attributes:
        batch: fields of view in a step, for each rank.
        large_px: side of a large (global) view.
        n_large: large views of a field.
        small_px: side of a small (local) view.
        n_small: small views of a field.
        field_px: side of a field, in pixels at its scale.
        um_per_px: least and greatest scale of a field, drawn log-uniformly; no finer than the slide is.
        large_share: least and greatest share of the field's area that a large view shows.
        small_share: the same of a small view.
        aspect: least and greatest width of a crop over its height, before it is made square; log-uniform.
        min_tissue: least share of a field that is tissue by the slide's mask.
        min_stained: least share of its pixels that are not as clear as glass.
        slide_weight: how likely a slide is drawn: "equal", or by the square root of its tissue's area ("sqrt_area"),
            which gives a large resection more fields than a needle biopsy, but not a hundred times as many.
        augmentation: how views are changed.
        measure: whether the first large view of each field is measured before it is changed.
    """

    batch: int
    large_px: int = 112
    n_large: int = 2
    small_px: int = 64
    n_small: int = 2
    field_px: int = 160
    um_per_px: tuple[float, float] = (0.25, 2.0)
    large_share: tuple[float, float] = (0.35, 1.0)
    small_share: tuple[float, float] = (0.05, 0.35)
    aspect: tuple[float, float] = (0.85, 1.18)
    min_tissue: float = 0.5
    min_stained: float = 0.15
    slide_weight: Literal["equal", "sqrt_area"] = "sqrt_area"
    augmentation: Augmentation = field(default_factory=Augmentation)
    measure: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "large_px", "small_px", "field_px"):
            if not getattr(self, name) >= 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.n_large < 0 or self.n_small < 0 or self.n_large + self.n_small < 1:
            raise UsageError(f"expected one view or more, got n_large {self.n_large}, n_small {self.n_small}")
        if self.measure and not self.n_large:
            raise UsageError("measuring is of the first large view, and n_large is 0")
        if self.slide_weight not in {"equal", "sqrt_area"}:
            raise UsageError(f"slide_weight must be equal or sqrt_area, got {self.slide_weight!r}")
        _check_range("um_per_px", self.um_per_px, *MPP_RANGE)
        _check_range("large_share", self.large_share, 1e-3, 1)
        _check_range("small_share", self.small_share, 1e-3, 1)
        _check_range("aspect", self.aspect, 0.25, 4)
        _check_range("min_tissue", (self.min_tissue, self.min_tissue), 0, 1)
        _check_range("min_stained", (self.min_stained, self.min_stained), 0, 1)


def _check_range(name: str, found: tuple[float, float], least: float, greatest: float) -> None:
    low, high = found
    if not least <= low <= high <= greatest:
        raise UsageError(f"{name} must lie between {least:g} and {greatest:g}, the lesser first, got {found}")
