"""Everything that OpenSlide opens: vendors' own formats and DICOM."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.location import Location
from wsi_vmamba.slide.reader import Reader

_MIRAX = ".mrxs"


def recognises(head: bytes, path: Location) -> bool:
    """Whether OpenSlide knows the vendor of a file.

    Raises:
        UnreadableSlideError: it is one half of a MIRAX slide.
    """
    path = Path(path)
    if not head:
        if _is_file_beside(path, _MIRAX) or _is_file_beside(path, _MIRAX.upper()):
            raise UnreadableSlideError(
                path, f"this folder holds the pixels of a MIRAX slide; name {path.name}{_MIRAX} beside it"
            )
        return False
    import openslide

    if openslide.OpenSlide.detect_format(str(path)) is not None:
        return True
    if path.suffix.lower() == _MIRAX:
        raise UnreadableSlideError(
            path,
            f"the folder {path.stem} with Slidedat.ini and the pixels is not beside it, and the {_MIRAX} file alone "
            "has none; copy both",
        )
    return False


def _is_file_beside(folder: Path, suffix: str) -> bool:
    """Whether a file named like a folder lies beside it; False also where that cannot be looked at."""
    try:
        return folder.with_name(f"{folder.name}{suffix}").is_file() if folder.name else False
    except PermissionError:
        return False


def part_of(path: Path) -> str | None:
    """The series that a DICOM file is a part of, which is one slide; None of any other file."""
    from wsi_vmamba.slide.openslide.dicom import is_dicom, series_uid

    if not is_dicom(path):
        return None
    return series_uid(path) or path.name  # a file whose header names no series is its own


READER = Reader(
    title="OpenSlide",
    formats=("NDPI", "MRXS", "SCN", "BIF", "CZI", "DICOM"),
    slide="wsi_vmamba.slide.openslide.slide:OpenSlideSlide",
    recognises=recognises,
    suffixes=(".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi", ".avs"),
    part_of=part_of,
)
