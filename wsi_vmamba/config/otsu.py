"""The numbers of the tissue segmenter ``otsu``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from wsi_vmamba.config.base import RunConfig

Saturation = Annotated[int, Field(ge=1, le=255)]
NotNegative = Annotated[float, Field(ge=0)]


class OtsuSettings(RunConfig):
    """How saturation becomes tissue. Saturation and value are HSV, 0 to 255."""

    #: The segmenter that goes by these numbers.
    segmenter: ClassVar[str] = "otsu"

    min_saturation: Saturation = 15
    """Never call tissue below this: on a blank slide Otsu only splits noise of the glass."""
    max_saturation: Saturation = 24
    """Never ask for more than this: in a crop that is all tissue Otsu splits strong stain from weak, and the weak half
    would be lost."""
    min_contrast: Annotated[int, Field(ge=0, le=255)] = 12
    """Where Otsu's two classes differ by less in their means they are one, and only what is above max_saturation is
    tissue."""
    smooth_um: NotNegative = 24.0
    """Side of the median window that removes noise of single pixels."""
    close_um: NotNegative = 40.0
    """Gaps narrower than this are bridged."""
    min_object_um2: NotNegative = 16_000.0
    """Smaller pieces of tissue are specks."""
    max_hole_um2: NotNegative = 60_000.0
    """Smaller holes belong to the tissue around them."""
    min_ink_um2: NotNegative = 250_000.0
    """Smaller patches of ink colour are pigment or nuclei, not a pen stroke."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> OtsuSettings:
        if self.min_saturation > self.max_saturation:
            raise ValueError(
                "min_saturation must not be above max_saturation, "
                f"got {self.min_saturation} and {self.max_saturation}"
            )
        return self
