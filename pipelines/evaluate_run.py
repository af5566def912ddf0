"""Recipe: a trained run and its held-out slides to metrics, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.metrics import LESION_METRICS
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.pipelines import results
from wsi_vmamba.pipelines.lesions_run import froc_of_run, knows_lesions
from wsi_vmamba.pipelines.scoring_folds import score
from wsi_vmamba.pipelines.scoring_run import Scored, ScoredRun
from wsi_vmamba.pipelines.train import newest_run


def run(config: EvaluateConfig) -> int:
    """Score the slides of a split, compute what was asked for, print and save it; return 0."""
    folder = Path(config.run) if config.run else newest_run(Path(config.runs))
    out = Path(config.out) if config.out else folder / "evaluation"
    if folder.is_dir():  # if not, scoring says so
        require_writable(out, option="--out")
    scored = score(config, folder)
    slides = scored.slides()
    lesions = _lesions(config, scored, out)
    results.finish(config, results.slide_metrics(config, slides), lesions, out=out)
    draw_heatmaps(out / "heatmaps", scored.scored, scored.features, count=config.heatmaps)
    console.say(f"per-slide scores, metrics and figures: {out}")
    return 0


def draw_heatmaps(out: Path, scored: Sequence[Scored], features: Path, *, count: int) -> None:
    """Draw what the model says of patches over the ``count`` slides with the highest scores."""
    from wsi_vmamba.report import heatmap

    ranked = sorted(scored, key=lambda item: -item.prediction.probability)
    for item in ranked[:count]:
        heatmap.draw_prediction(item.record, load_bag(item.record, features), item.prediction, out)


def _lesions(config: EvaluateConfig, scored: ScoredRun, out: Path) -> FrocResult | None:
    """FROC where it was asked for; for "all", where lesions are known."""
    if config.metric not in LESION_METRICS:
        if config.metric != results.ALL:
            return None
        if not knows_lesions(config, scored):
            console.say("note: FROC is left out; give --masks DIR or --annotations DIR for it")
            return None
    found: FrocResult = froc_of_run(config, scored, out)
    return found
