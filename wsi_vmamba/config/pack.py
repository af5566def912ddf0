"""Settings of `pack`."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText
from wsi_vmamba.config.marks import Argument


class PackConfig(RunConfig):
    """`wsi-vmamba pack`: a trained run to one file that predicts anywhere."""

    run: Annotated[PathText, Argument("RUN")]
    """Folder of a run or of a cross-validation."""
    out: PathText | None = None
    """The file to make; by default <name of the run>.wsivm here."""
    with_encoder: bool = False
    """Put the backbone's weights into the file even if they are shipped with this package. Others are always in it."""
    without_encoder: bool = False
    """Leave the backbone's weights out; `predict` then needs `--weights`."""
    weights: PathText | None = None
    """The backbone's weights, a file, where the run does not know where they are."""
    trained_on: PathText | None = None
    """Folder of the features that the run was trained on, where it was moved; only runs of before `predict` need it."""
    overwrite: bool = False
    """Replace an existing file."""

    @model_validator(mode="after")
    def _one_or_other(self) -> PackConfig:
        if self.with_encoder and self.without_encoder:
            raise ValueError("give with_encoder or without_encoder, not both")
        return self
