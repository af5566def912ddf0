"""Recipe: a trained run and its held-out slides, or scores and detections made elsewhere, to metrics and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.pipelines import compare, lesions, results
from wsi_vmamba.pipelines.scoring import Scored, ScoredRun, ScoredSlides, read_scored_slides, score_run
from wsi_vmamba.pipelines.train import newest_run

from wsi_vmamba import console
from wsi_vmamba.bags import load_bag
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.metrics import LESION_METRICS, METRICS
from wsi_vmamba.metrics.base import MetricResult
from wsi_vmamba.metrics.froc import FrocResult
from wsi_vmamba.metrics.panel import SlidePanel, slide_panel
from wsi_vmamba.provenance import write_run_record, write_text_atomic

ALL = "all"


def run(config: EvaluateConfig) -> int:
    """Compute the metrics asked for, print them and save everything; return 0."""
    if config.compare:
        code: int = compare.run(config)
        return code
    if config.scores or config.detections:
        return _evaluate_files(config)
    return _evaluate_run(config)


def _evaluate_run(config: EvaluateConfig) -> int:
    folder = Path(config.run) if config.run else newest_run(Path(config.runs))
    scored = score_run(config, folder)
    slides = scored.slides()
    out = Path(config.out) if config.out else folder / "evaluation"
    panel, headline = _slide_metrics(config, slides)
    found = _lesions_of_run(config, scored, out)
    _finish(config, out, slides=slides, panel=panel, headline=headline, found=found, scored=scored.scored)
    draw_heatmaps(out / "heatmaps", scored.scored, scored.features, count=config.heatmaps)
    console.say(f"per-slide scores, metrics and figures: {out}")
    return 0


def _evaluate_files(config: EvaluateConfig) -> int:
    """Judge what other programs wrote: a CSV of scores, a folder of detections, or both with ``--metric all``."""
    slide_level = config.metric == ALL or config.metric in METRICS
    lesion_level = config.metric == ALL or config.metric in LESION_METRICS
    if slide_level and config.metric != ALL and not config.scores:
        raise UsageError(
            f"--metric {config.metric} needs --scores CSV; detections are judged by --metric froc"
        )
    if lesion_level and config.metric != ALL and not config.detections:
        raise UsageError("--metric froc needs --masks DIR and --detections DIR; slide scores have no lesions")
    slides = panel = headline = found = None
    if slide_level and config.scores and config.score_column:
        slides = read_scored_slides(config, Path(config.scores), config.score_column)
        panel, headline = _slide_metrics(config, slides)
    if lesion_level and config.detections and config.masks:
        masks, detections = Path(config.masks), Path(config.detections)
        found = lesions.froc_of_files(config, masks=masks, detections=detections, exclude=config.exclude)
    out = Path(config.out) if config.out else None
    _finish(config, out, slides=slides, panel=panel, headline=headline, found=found)
    return 0


def _slide_metrics(
    config: EvaluateConfig, slides: ScoredSlides
) -> tuple[SlidePanel | None, MetricResult | None]:
    """Every slide-level metric, and the one that was asked for by name; nothing where FROC alone was."""
    if config.metric in LESION_METRICS:
        return None, None
    how = {"resamples": config.bootstrap, "seed": config.seed}
    panel = slide_panel(slides.labels, slides.scores, threshold=slides.threshold, groups=slides.groups, **how)
    if config.metric in (ALL, "auc"):
        return panel, panel.auc
    headline: MetricResult = METRICS.resolve(config.metric)(slides.labels, slides.scores, **how)
    return panel, headline


def _lesions_of_run(config: EvaluateConfig, scored: ScoredRun, out: Path) -> FrocResult | None:
    if config.metric != ALL and config.metric not in LESION_METRICS:
        return None
    if config.metric == ALL and config.masks is None and config.annotations is None:
        console.say("note: FROC is left out; give --masks DIR or --annotations DIR for it")
        return None
    found: FrocResult = lesions.froc_of_run(config, scored, out)
    return found


def _finish(
    config: EvaluateConfig,
    out: Path | None,
    *,
    slides: ScoredSlides | None,
    panel: SlidePanel | None,
    headline: MetricResult | None,
    found: FrocResult | None,
    scored: Sequence[Scored] = (),
) -> None:
    """Write what was asked for, and print it."""
    content = results.content_of(config, slides=slides, panel=panel, headline=headline, lesions=found)
    if config.json_out:
        results.write_json(Path(config.json_out), content)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        results.write_json(out / results.METRICS_JSON, content)
        if slides is not None:
            write_text_atomic(out / results.SLIDES, results.slides_csv(slides, scored))
        if found is not None:
            write_text_atomic(out / results.LESIONS, results.lesions_csv(found))
        results.write_figures(out, slides, panel, found)
        write_run_record(out, command="evaluate", config=config, facts={"device": "cpu"})
    if headline is not None:
        low, high = headline.ci95
        name = "auc" if config.metric == ALL else config.metric
        console.say(f"{name} {headline.value:.4f} (95 % interval {low:.4f}-{high:.4f})")
    results.show(slides if panel is not None else None, panel, found)


def draw_heatmaps(out: Path, scored: Sequence[Scored], features: Path, *, count: int) -> None:
    """Draw the attention over the ``count`` slides with the highest scores."""
    from wsi_vmamba.report import heatmap

    ranked = sorted(scored, key=lambda item: -item.prediction.probability)
    for item in ranked[:count]:
        heatmap.draw_attention(item.record, load_bag(item.record, features), item.prediction, out)
