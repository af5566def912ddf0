"""The table of slide readers: one folder and one line each, asked in this order."""

from __future__ import annotations

from collections.abc import Iterator

from wsi_vmamba.registry import Table
from wsi_vmamba.slide.reader import Reader

#: Every reader: a `Reader`. OpenSlide comes last, because it also knows files that another reads better.
READERS = Table(
    "reader",
    {
        "tiff": "wsi_vmamba.slide.tiff:READER",
        "zarr": "wsi_vmamba.slide.zarr:READER",
        "deepzoom": "wsi_vmamba.slide.deepzoom:READER",
        "openslide": "wsi_vmamba.slide.openslide:READER",
    },
)


def readers() -> Iterator[Reader]:
    """Yield every reader, in the order of the table."""
    for name in READERS:
        reader: Reader = READERS.resolve(name)
        yield reader


def slide_suffixes() -> tuple[str, ...]:
    """Endings that announce a slide in one file, of all readers."""
    return tuple(suffix for reader in readers() for suffix in reader.suffixes)


def folder_suffixes() -> tuple[str, ...]:
    """Endings of folders that are slides, of all readers."""
    return tuple(suffix for reader in readers() for suffix in reader.folder_suffixes)
