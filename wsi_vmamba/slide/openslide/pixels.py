"""TIFF that OpenSlide opens and shows wrongly: looked for before it is believed, whichever way it was chosen."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.slide.shared_file import SharedFile
from wsi_vmamba.slide.tiff.layout import look_at_first_page
from wsi_vmamba.slide.tiff.limits import check_directories
from wsi_vmamba.slide.tiff.pixels import refuse_openslide

#: Names of OpenSlide for TIFF whose pixels are what their directory says.
_VENDORS = ("generic-tiff", "aperio")


def check_pixels(path: str | Path, vendor: str) -> None:
    """Refuse samples that OpenSlide takes for something else than they are.

    Raises:
        UnsupportedSlideError: naming it.
        UnreadableSlideError: the directory is damaged.
    """
    if vendor not in _VENDORS:
        return
    file = SharedFile(path)
    try:
        with file.reading():
            check_directories(str(path), file.read_head, size_bytes=file.size_bytes)
    finally:
        file.close()
    look_at_first_page(str(path), refuse_openslide)
