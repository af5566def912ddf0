"""Settings of `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import RUNS, Metric, PathText, Seed
from wsi_vmamba.config.marks import Option, SetOnly


def _as_list(value: object) -> object:
    """One column may be written as a word."""
    return [value] if isinstance(value, str) else value


class EvaluateConfig(RunConfig):
    """`wsi-vmamba evaluate`: a trained run, or scores and detections from elsewhere, to metrics."""

    metric: Metric = "auc"
    """A slide metric, froc, or all."""
    run: PathText | None = None
    """Folder of the run; by default the newest under `runs`."""
    runs: PathText = RUNS
    """Folder that holds the runs."""
    features: PathText | None = None
    """Folder of feature files; by default the one the run was trained on."""
    split: Literal["test", "validation", "train"] = "test"
    """Which slides of the run's data set are judged."""
    scores: PathText | None = None
    """CSV of slide scores, one line a slide, in place of a run."""
    score_column: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list)
    """Column of `--scores` that holds the scores; of three classes or more repeated, the probability of each, in their
    order: the columns are called as the labels, all with the same beginning or with none (probability_luad)."""
    label_column: str = "label"
    """Column of `--scores` that holds the labels."""
    positive: str | None = None
    """Name of the positive class where labels are names."""
    threshold: float | None = None
    """Call slides from this score on; by default of a run it is chosen on its validation slides."""
    masks: PathText | None = None
    """Folder of level-5 tumour masks (<slide>.png or .tif), for FROC."""
    annotations: PathText | None = None
    """Folder of outlines (<slide>.xml or .geojson) to draw the masks of a run's slides from, in place of `--masks`."""
    detections: PathText | None = None
    """Folder of <slide>.csv with probability,x,y at level 0, in place of a run."""
    exclude: list[str] = Field(default_factory=list)
    """Leave this slide out of FROC; may be repeated. Those that a data set names are left out anyway."""
    merge_um: Annotated[float, Field(gt=0), SetOnly()] = 150.0
    """Of a run's patches closer than this, only the one with the highest probability is a detection."""
    compare: Annotated[
        Annotated[list[PathText], Field(min_length=2, max_length=2)] | None, Option(metavar="A B")
    ] = None
    """Paired DeLong test of two runs, two CSVs of scores (FILE or FILE:COLUMN), or two columns of `--scores`."""
    shuffle_places: bool = False
    """Score the run's slides again with the places of their patches shuffled: what places are worth to its AUC."""
    shuffles: Annotated[int, Field(ge=1), SetOnly()] = 5
    """How often `--shuffle-places` shuffles each slide."""
    shuffled_features: PathText | None = None
    """Score them again on features made with `extract --set shuffle_px=...`, whose pixels were shuffled beforehand."""
    out: PathText | None = None
    """Folder for tables and figures; by default of a run <run>/evaluation, of anything else none."""
    json_out: Annotated[PathText | None, Option("--json", metavar="FILE")] = None
    """Write the metrics as JSON to this file."""
    bootstrap: Annotated[int, Field(ge=100), SetOnly()] = 2000
    """Resamples of the stratified bootstrap."""
    heatmaps: Annotated[int, Field(ge=0)] = 0
    """How many attention heatmaps to draw, highest scores first."""
    seed: Annotated[Seed, SetOnly()] = 0
    """Seed of the bootstrap."""

    @model_validator(mode="after")
    def _belongs_together(self) -> EvaluateConfig:
        if self.scores and not self.score_column and not self.compare:
            raise ValueError("scores need --score-column NAME, the column that holds them")
        if self.score_column and not self.scores and not self.compare:
            raise ValueError("--score-column names a column of --scores FILE, which is missing")
        if len(set(self.score_column)) < len(self.score_column):
            raise ValueError(f"every --score-column counts once, got {', '.join(self.score_column)}")
        if len(self.score_column) == 2:
            raise ValueError(
                "of two classes --score-column is one, that of the positive class; of more there is one for each"
            )
        if self.detections and not self.masks:
            raise ValueError("detections need --masks DIR, the level-5 masks of the tumour slides")
        if self.run and (self.scores or self.detections):
            raise ValueError("--run is judged by its own scores; leave out --scores and --detections")
        if self.masks and self.annotations:
            raise ValueError("give --masks or --annotations, not both")
        if (self.shuffle_places or self.shuffled_features) and (
            self.scores or self.detections or self.compare
        ):
            raise ValueError(
                "--shuffle-places and --shuffled-features score the slides of a run again; leave out --scores, "
                "--detections and --compare"
            )
        return self
