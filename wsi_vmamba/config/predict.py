"""Settings of `predict`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import Device, Mpp, PathText, Segmenter, Share
from wsi_vmamba.config.marks import Argument, Option, SetOnly


class PredictConfig(RunConfig):
    """`wsi-vmamba predict`: a trained model on new slides, which need no labels."""

    run: Annotated[PathText, Argument("RUN")]
    """Folder of a run or of a cross-validation, or a file that `pack` made of one."""
    slides: Annotated[PathText, Argument("SLIDES|FEATURES")]
    """Slides as for `extract` (a folder, one slide, a CSV, a URL), features (a folder of feature files, or one of
    them), or both in one folder or CSV."""
    out: PathText = "predictions"
    """Folder for the predictions."""
    threshold: Share | None = None
    """Call slides from this probability on; by default the one that the validation slides of the run chose."""
    heatmaps: bool = False
    """Draw every slide with what the model says of its patches."""
    overwrite: bool = False
    """Replace the predictions in `out`, also those of another model. Feature files are kept."""
    weights: PathText | None = None
    """The backbone's weights, a file, where the run does not know where they are."""
    trained_on: PathText | None = None
    """Folder of the features that the run was trained on, where it was moved; only runs of before `predict` need it."""
    mask: PathText | None = None
    """Your own tissue masks of the new slides, as for `extract`."""
    segmenter: Segmenter | None = None
    """What finds the tissue; by default what found it on the training slides."""
    mpp_override: Mpp | None = None
    """Micrometres per level-0 pixel of the new slides, instead of what their files record."""
    ids_from_path: bool = False
    """Name slides by their folders too, as for `extract`."""
    on_bad_tile: Literal["fail", "skip"] = "fail"
    """What a tile that does not decode means: the slide fails, or the patches it touches are left out and recorded."""
    device: Device = "auto"
    """Where the backbone computes."""
    memory_limit_gb: Annotated[
        Annotated[float, Field(gt=0)] | None, Option("--memory-limit-gb", "--memory-limit")
    ] = None
    """Most GB the process may hold. By default what is free."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Share the extraction of slides among so many processes on this machine."""
    scene: Annotated[int, Field(ge=0), SetOnly()] | None = None
    """Which picture of a file that holds several; by default the one that is the slide."""
