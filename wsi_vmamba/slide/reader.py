"""What a reader says of itself: which files are its own, and the class that opens them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_vmamba.registry import load_attribute

if TYPE_CHECKING:
    from wsi_vmamba.slide.base import Slide
    from wsi_vmamba.slide.location import Location


def _no_part(path: Path) -> str | None:
    """The answer of formats of one file a slide."""
    return None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One line of the READERS table; importing it loads no library that decodes pixels.

    Attributes:
        title: what messages call the reader.
        formats: the formats it is there for, as messages list them.
        slide: "module:Class" of a `Slide`, whose constructor takes a path and ``scene``, a number or None.
        recognises: whether it is the reader for a place, asked with the first bytes of the file (`HEAD_BYTES` at most,
            none for a folder or a URL) and the path. It raises a `SlideError` with a remedy where it knows what a place
            is and that it cannot be read as it lies: a part of a slide, or a file whose other half is missing.
        suffixes: endings of its files, in lower case. A file that has one is listed even if damaged, so that a run
            names it as failed instead of passing it over.
        folder_suffixes: endings of its folders; a folder is listed if it is recognised, whatever its name.
        part_of: for formats of several files a slide that are known by their content: the name that the files of one
            slide share, None for a file that is no such part. Asked for files without a known ending.
        remote: whether it reads URLs too.
    """

    title: str
    formats: tuple[str, ...]
    slide: str
    recognises: Callable[[bytes, Location], bool]
    suffixes: tuple[str, ...] = ()
    folder_suffixes: tuple[str, ...] = ()
    part_of: Callable[[Path], str | None] = _no_part
    remote: bool = False

    def open(self, path: Location, *, scene: int | None = None) -> Slide:
        """Open a slide; errors as the class of the reader documents them."""
        slide: Slide = load_attribute(self.slide)(path, scene=scene)
        return slide
