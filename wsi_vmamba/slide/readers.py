"""The table of slide readers: one folder and one line each, asked in this order."""

from __future__ import annotations

from collections.abc import Iterator

from wsi_vmamba.errors import UsageError
from wsi_vmamba.registry import Table
from wsi_vmamba.slide.reader import Reader

#: Asked after all others, also after those of other packages, because it knows files that another reads better.
_LAST = "openslide"
#: Every reader: a `Reader`.
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
    """Yield every reader in the order in which they are asked: the table's, those of other packages, OpenSlide.

    Raises:
        UsageError: what another package offers as a reader is none.
    """
    for name in [*(name for name in READERS if name != _LAST), _LAST]:
        yield find_reader(name)


def find_reader(name: str) -> Reader:
    """Return the reader of that name.

    Raises:
        UnknownNameError: there is none.
        UsageError: what another package offers under that name is no reader, or cannot be loaded.
    """
    found = READERS.resolve(name)
    if not isinstance(found, Reader):
        raise UsageError(
            f"reader {name!r} is {READERS[name]}, and that is no wsi_vmamba.slide.reader.Reader; mend the package that "
            "offers it, or uninstall it"
        )
    return found


def slide_suffixes() -> tuple[str, ...]:
    """Endings that announce a slide in one file, of all readers."""
    return tuple(suffix for reader in readers() for suffix in reader.suffixes)


def folder_suffixes() -> tuple[str, ...]:
    """Endings of folders that are slides, of all readers."""
    return tuple(suffix for reader in readers() for suffix in reader.folder_suffixes)
