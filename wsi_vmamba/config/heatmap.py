"""Settings of `heatmap`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import Device, HeatmapFormat, HeatmapLayer, Mpp, PathText
from wsi_vmamba.config.marks import Argument


class HeatmapConfig(RunConfig):
    """`wsi-vmamba heatmap`: what a model says of patches, as files that other tools open."""

    run: Annotated[PathText, Argument("RUN|PREDICTIONS")]
    """Folder of a run or a file that `pack` made, which predicts the slides; or a folder of predictions."""
    slides: Annotated[list[PathText], Argument("[SLIDE]...")] = Field(default_factory=list)
    """Slides, or feature files of slides. Of predictions, their files or names; none stands for all of them."""
    format: list[HeatmapFormat] = Field(default_factory=lambda: ["png"])
    """What to write; may be repeated: png (a figure), ometiff (a pyramid as large as the slide), geojson (for QuPath),
    csv."""
    layer: HeatmapLayer | None = None
    """Which value of the patches; by default the probability, where the model gives one, else the attention."""
    out: PathText | None = None
    """Folder for the files; by default `heatmaps` in that of the predictions, of a run here."""
    levels: Annotated[int, Field(ge=2, le=20)] = 5
    """How many bands of values the GeoJSON is divided into."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel of slides that a run predicts, instead of what their files record."""
    weights: PathText | None = None
    """The backbone's weights, a file, where the run does not know where they are."""
    device: Device = "auto"
    """Where the backbone computes."""
