"""The table of slide readers: one line each, imported only when used."""

from __future__ import annotations

from wsi_vmamba.registry import Table

#: Every reader: a class whose constructor takes a path and ``scene`` (a number or None) and gives a `Slide`.
READERS = Table(
    "reader",
    {
        "tiff": "wsi_vmamba.slide.tiff:TiffSlide",
        "openslide": "wsi_vmamba.slide.openslide:OpenSlideSlide",
        "zarr": "wsi_vmamba.slide.zarr:ZarrSlide",
    },
)
