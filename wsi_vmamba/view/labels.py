"""Pictures of the label and of the glass that scanners put beside a slide; they often name the patient."""

from __future__ import annotations

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_vmamba.slide.compose import lay_over_white
from wsi_vmamba.slide.location import Location, is_url
from wsi_vmamba.view.slide_page import LABELS

#: No label is larger; a file that claims one is damaged or malicious.
_MOST_PIXELS = 1 << 26


def read_label(place: Location | None, name: str) -> NDArray[np.uint8] | None:
    """One of them as RGB; None where the file has none of that name, or OpenSlide does not know it."""
    if name not in LABELS or place is None or is_url(place):
        return None
    try:
        with openslide.OpenSlide(str(place)) as slide:
            picture = slide.associated_images.get(name)
            if picture is None or picture.width * picture.height > _MOST_PIXELS:
                return None
            rgba = np.asarray(picture)
    except openslide.OpenSlideError:
        return None
    out = np.empty((*rgba.shape[:2], 3), dtype=np.uint8)
    lay_over_white(out, rgba)
    return out
