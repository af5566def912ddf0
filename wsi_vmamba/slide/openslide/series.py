"""The files of a DICOM series: which they are, and whether OpenSlide survives them.

Tried with OpenSlide 4.0.1, whose process ends on: a sparse picture whose frames have no places, more tiles than memory
holds, and an extended offset table that points out of the file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.openslide.dicom import (
    LENGTHS,
    OFFSETS,
    PLACES,
    DicomHeader,
    is_dicom,
    read_header,
    read_up_to_pixels,
    unreadable,
)
from wsi_vmamba.slide.openslide.limits import check_size

_SPARSE = "TILED_SPARSE"
#: A slide of 260 gigapixels has 4 million frames of 256 px.
_MAX_TILES = 1 << 23


#: The files of a slide with their headers.
Series = list[tuple[Path, DicomHeader]]


def _series_of(path: Path) -> Series:
    """The files of the series of a DICOM file that lie beside it, which OpenSlide takes for one slide, and itself.

    Raises:
        UnreadableSlideError: the system cannot read them.
    """
    try:
        series = read_header(path).series
        beside = [found for each in sorted(path.parent.iterdir()) if (found := _header_of(each)) is not None]
    except OSError as error:
        raise UnreadableSlideError(
            path, f"the files beside it cannot be looked at ({error.strerror})"
        ) from error
    return [(each, header) for each, header in beside if header.series == series]


def _header_of(path: Path) -> tuple[Path, DicomHeader] | None:
    """A file with its header; None of what is no DICOM, or went away meanwhile."""
    try:
        return (path, read_header(path)) if is_dicom(path) else None
    except FileNotFoundError:
        return None


def check_series(path: str | Path) -> Series:
    """Refuse a series on which OpenSlide would end the process; of a file that is no DICOM there is none.

    Returns:
        The files that OpenSlide takes for the slide.

    Raises:
        UnreadableSlideError: naming the file and the claim.
    """
    path = Path(path)
    series = _series_of(path) if is_dicom(path) else []
    for file, header in series:
        (width, height), (frame_width, frame_height) = header.matrix_px, header.frame_px
        if width and height:
            check_size(file, width_px=width, height_px=height)
        if frame_width and frame_height:
            tiles = -(-width // frame_width) * -(-height // frame_height)
            if tiles > _MAX_TILES:
                raise UnreadableSlideError(file, f"it claims {tiles} tiles, more than any glass has")
        try:
            state = file.stat()
            problem = _problem(
                file, header.organisation.startswith(_SPARSE), state.st_mtime_ns, state.st_size
            )
        except OSError as error:
            raise UnreadableSlideError(file, f"cannot read the file ({error.strerror})") from error
        if problem:
            raise UnreadableSlideError(file, f"{problem}; it is damaged, copy it again")
    return series


# Reading it takes a while where frames have places, and viewers open a slide often.
@lru_cache(maxsize=1024)
def _problem(path: Path, is_sparse: bool, _modified_ns: int, size_bytes: int) -> str:
    """What a header says of its frames that cannot be; empty where there is nothing, or it is left to OpenSlide."""
    try:
        found, _ = read_up_to_pixels(path, [PLACES, OFFSETS, LENGTHS])
        tables = [found[tag].value or b"" for tag in (OFFSETS, LENGTHS) if tag in found]
        has_places = PLACES in found
        largest = max((int(np.frombuffer(each, dtype="<u8").max(initial=0)) for each in tables), default=0)
    except unreadable() as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's word, not the header's
        return "its header cannot be read"
    if is_sparse and not has_places:
        return f"its frames are {_SPARSE} and it does not say where each lies"
    return "its table of frames points out of the file" if largest >= size_bytes else ""
