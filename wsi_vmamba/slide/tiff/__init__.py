"""TIFF, SVS and OME-TIFF, decoded natively."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import UnsupportedSlideError
from wsi_vmamba.slide.location import Location
from wsi_vmamba.slide.reader import Reader

_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def recognises(head: bytes, path: Location) -> bool:
    """Whether it begins like a TIFF.

    Raises:
        UnsupportedSlideError: it is the cover of a VSI.
    """
    if not head.startswith(_MAGICS):
        return False
    path = Path(path)
    if path.suffix.lower() == ".vsi":
        raise UnsupportedSlideError(
            path,
            f"this is the cover of an Olympus VSI, with a thumbnail in it; the slide is in the folder _{path.stem}_, "
            "in a format that is not read; convert it to OME-Zarr or OME-TIFF, for example with bioformats2raw",
        )
    return True


READER = Reader(
    title="native TIFF",
    formats=("TIFF", "SVS"),
    slide="wsi_vmamba.slide.tiff.slide:TiffSlide",
    recognises=recognises,
    suffixes=(
        ".svs", ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff", ".vsi",
        ".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf2", ".ome.tf8",
    ),
)  # fmt: skip
