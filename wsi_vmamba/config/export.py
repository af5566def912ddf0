"""Settings of `export`."""

from __future__ import annotations

from typing import Annotated

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import FEATURES, Exporter, PathText
from wsi_vmamba.config.marks import Argument


class ExportConfig(RunConfig):
    """`wsi-vmamba export`: feature files to the layout of another tool."""

    features: Annotated[PathText, Argument()] = FEATURES
    """Folder of feature files, or one of them."""
    format: Exporter = "trident"
    """Layout to write."""
    out: PathText | None = None
    """Folder for the files; by default export/<format>."""
    run: PathText | None = None
    """Add the probability and attention of this trained run, in formats that have room for them (anndata, geojson)."""
    overwrite: bool = False
    """Replace existing files."""
