"""What a format of the table FORMATS is, and how a heatmap is saved in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_vmamba.prediction.heatmaps import FORMATS

if TYPE_CHECKING:
    from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap


@dataclass(frozen=True)
class Format:
    """How one kind of file is made.

    Attributes:
        suffix: of its name.
        write: makes it, given its name and the number of bands, for those that divide the values into bands. Places a
            patch by `SlidePrediction.boxes_l0`, or by the same arithmetic.
    """

    suffix: str
    write: Callable[[Heatmap, Path, int], None]


def save(heatmap: Heatmap, folder: Path, *, name: str, bands: int) -> Path:
    """Write a heatmap as ``<slide_id>-<layer>`` with the ending of the format; return the file.

    Raises:
        UnknownNameError: there is no such format.
        MissingDataError: the format lays colours over the slide, and its file is not there, or the size of the slide is
            not known, and the format needs it.
        StoreError: the file cannot be written.
    """
    found: Format = FORMATS.resolve(name)
    path = folder / f"{heatmap.slide_id}-{heatmap.layer}{found.suffix}"
    found.write(heatmap, path, bands)
    return path
