"""Where a slide lies: a path on this machine, or a URL that fsspec understands, such as s3://bucket/slide.zarr."""

from __future__ import annotations

import re
from pathlib import Path

from wsi_vmamba.home import expand_home

#: A path, or the text of a URL; a `Path` would squeeze the two slashes into one.
Location = Path | str

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")


def is_url(place: object) -> bool:
    """Whether a place is a URL and not a path of this machine."""
    return isinstance(place, str) and _URL.match(place) is not None


def place_of(text: str, *, root: Path | None = None) -> Location:
    """Return what a text stands for: a URL as it is, else a path, relative ones starting from ``root``.

    Raises:
        UsageError: it begins with a tilde and there is no such home folder.
    """
    if is_url(text):
        return text.rstrip("/")
    text = expand_home(text)
    return Path(text) if root is None else root / text


def absolute(place: Location) -> Location:
    """Return a place that means the same in every folder."""
    return place if is_url(place) else Path(place).absolute()


def may_exist(place: Location) -> bool:
    """Whether a path is there; of a URL only opening it can tell."""
    return is_url(place) or Path(place).exists()
