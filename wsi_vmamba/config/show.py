"""Settings of `show`."""

from __future__ import annotations

from typing import Annotated

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText
from wsi_vmamba.config.marks import Argument


class ShowConfig(RunConfig):
    """`wsi-vmamba show`: one feature file as facts and a picture."""

    features: Annotated[PathText, Argument()]
    """A feature file, as `extract` writes it."""
    slide: PathText | None = None
    """The slide; by default where the feature file says it lay."""
    out: PathText | None = None
    """Folder for the picture; by default beside the feature file."""
    probe: PathText | None = None
    """A probe of `probe --save`: what it says of each patch, as a table, and a picture for each class."""
