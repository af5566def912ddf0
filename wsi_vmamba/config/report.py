"""Settings of `report`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText
from wsi_vmamba.config.marks import Argument


class ReportConfig(RunConfig):
    """`wsi-vmamba report`: one HTML file on a run, a probe, features or predictions, which needs nothing else."""

    target: Annotated[PathText | None, Argument("RUN|PROBE|FEATURES|PREDICTIONS")] = None
    """Folder of a run, of what `probe --out` or `predict --out` left, or of features; by default the newest run."""
    out: PathText | None = None
    """The file; by default `report.html` in the folder that it is of."""
    compare: list[PathText] = Field(default_factory=list)
    """Another run on the same slides, to be put beside this one with DeLong's test; may be repeated."""
    split: Literal["test", "validation", "train"] | None = None
    """Which slides of a run are judged; by default those that `evaluate` judged, else the test slides."""
    slides: PathText | None = None
    """Folder in which slides are looked for that were moved."""
    examples: Annotated[int, Field(ge=0, le=20)] = 4
    """How many slides of a kind (worst, most uncertain, best) are shown with pictures."""
