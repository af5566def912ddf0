"""Deep Zoom: a descriptor (``.dzi``) beside a folder of small pictures (``_files``), or both in a zip."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.location import Location
from wsi_vmamba.slide.reader import Reader
from wsi_vmamba.slide.zips import ZIP_MAGIC, names_in_zip

#: Ending of a descriptor's name, and what stands in its place in the name of the folder of tiles.
DESCRIPTOR, TILES_FOLDER = ".dzi", "_files"
#: Part of the namespace of every descriptor, in XML and JSON, whatever its year.
_NAMESPACE = b"schemas.microsoft.com/deepzoom"


def recognises(head: bytes, path: Location) -> bool:
    """Whether it is a descriptor, or a zip that holds one with its tiles.

    Raises:
        UnreadableSlideError: it is the folder of tiles of a descriptor beside it.
    """
    path = Path(path)
    if head.startswith(ZIP_MAGIC):
        return bool(descriptors_in(names_in_zip(path)))
    if not head:
        if path.name.endswith(TILES_FOLDER) and descriptor_of(path).is_file():
            raise UnreadableSlideError(
                path,
                f"this folder holds the tiles of a Deep Zoom slide; name {descriptor_of(path).name} beside it",
            )
        return False
    # A descriptor may begin with comments longer than the head, so its name counts where it is XML or JSON.
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith((b"<", b"{")) and (_NAMESPACE in head or path.suffix.lower() == DESCRIPTOR)


def descriptor_of(folder: Path) -> Path:
    """The descriptor that a folder of tiles belongs to by its name."""
    return folder.with_name(folder.name.removesuffix(TILES_FOLDER) + DESCRIPTOR)


def descriptors_in(names: list[str]) -> list[str]:
    """Descriptors among the names in a zip whose tiles are there too, macOS's copies left out."""
    listed = [name for name in names if "__MACOSX" not in PurePosixPath(name).parts]
    return [
        name
        for name in listed
        if name.endswith(DESCRIPTOR)
        and any(each.startswith(f"{name.removesuffix(DESCRIPTOR)}{TILES_FOLDER}/") for each in listed)
    ]


READER = Reader(
    title="Deep Zoom",
    formats=("Deep Zoom",),
    slide="wsi_vmamba.slide.deepzoom.slide:DeepZoomSlide",
    recognises=recognises,
    suffixes=(".dzi", ".szi", ".dzi.zip"),
)
