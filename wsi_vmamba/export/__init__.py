"""Feature files in the layouts of other tools. One file per format; nothing is computed here, only rewritten."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsi_vmamba.registry import Table

if TYPE_CHECKING:
    from wsi_vmamba.export.files import Exporter, ExportFile, write_files
    from wsi_vmamba.export.patches import ExportPatches, read_patches

__all__ = [
    "EXPORTERS",
    "ExportFile",
    "ExportPatches",
    "Exporter",
    "export_patches",
    "read_patches",
    "write_files",
]

#: Every format that `wsi-vmamba export` writes; an entry is an `Exporter`.
EXPORTERS = Table(
    "exporter",
    {
        "trident": "wsi_vmamba.export.trident:export_trident",
        "clam": "wsi_vmamba.export.clam:export_clam",
        "stamp": "wsi_vmamba.export.stamp:export_stamp",
        "anndata": "wsi_vmamba.export.anndata:export_anndata",
        "geojson": "wsi_vmamba.export.geojson:export_geojson",
    },
)


#: Loaded when asked for: they need numpy and zarr, which the help of a command does not.
_LATER = {
    "Exporter": "files",
    "ExportFile": "files",
    "write_files": "files",
    "ExportPatches": "patches",
    "read_patches": "patches",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def export_patches(form: str, patches: ExportPatches) -> tuple[ExportFile, ...]:
    """Return the files of one slide in a format of the table, to be written by `write_files`.

    Raises:
        UnknownNameError: no such format.
    """
    exporter: Exporter = EXPORTERS.resolve(form)
    return exporter(patches)
