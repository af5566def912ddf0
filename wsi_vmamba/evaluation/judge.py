"""From a configuration to an `Evaluation`: of a trained run, or of what other programs wrote."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.calls import KAPPA, read_calls
from wsi_vmamba.evaluation.results import Evaluation
from wsi_vmamba.evaluation.scores import read_scored_slides
from wsi_vmamba.evaluation.slides import ALL, slide_metrics
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.metrics import CLASS_METRICS, LESION_METRICS, METRICS

if TYPE_CHECKING:
    from wsi_vmamba.evaluation.lesions import LesionMetrics
    from wsi_vmamba.evaluation.run_scores import ScoredRun


def run_of(config: EvaluateConfig) -> Path | None:
    """Folder of the run that is judged, the newest unless one was named; None where files are judged.

    Raises:
        TrainingError: none was named and there is none.
    """
    if config.scores or config.detections:
        return None
    if config.run:
        return Path(config.run)
    # Here, so that judging files never waits for torch.
    from wsi_vmamba.training.folders import newest_run

    return newest_run(Path(config.runs))


def judge_files(config: EvaluateConfig) -> Evaluation:
    """Judge what other programs wrote: a CSV of scores, a folder of detections, or both with the metric "all".

    Raises:
        UsageError: the metric needs what was not given.
        MetricError: scores, masks or detections are not as described.
    """
    of_slides = {*METRICS, *CLASS_METRICS}
    if config.metric in of_slides and not config.scores:
        raise UsageError(
            f"--metric {config.metric} needs --scores CSV; detections are judged by --metric froc"
        )
    if config.metric in LESION_METRICS and not config.detections:
        raise UsageError(
            f"--metric {config.metric} needs --masks DIR and --detections DIR; slide scores have no lesions"
        )
    if config.metric == KAPPA and config.scores and len(config.score_column) == 1:
        return Evaluation(
            metric=KAPPA, slides=None, lesions=None,
            calls=read_calls(config, Path(config.scores), config.score_column[0]),
        )  # fmt: skip
    slides = lesions = None
    if config.metric not in LESION_METRICS and config.scores and config.score_column:
        scored = read_scored_slides(config, Path(config.scores), config.score_column)
        slides = slide_metrics(config, scored)
    if config.metric not in of_slides and config.detections and config.masks:
        # Loads SciPy and readers of pictures, which scores need not wait for.
        from wsi_vmamba.evaluation.lesions import judge_detections

        masks, detections = Path(config.masks), Path(config.detections)
        lesions = judge_detections(config, masks=masks, detections=detections, exclude=config.exclude)
    return Evaluation(metric=config.metric, slides=slides, lesions=lesions)


def judge_run(
    config: EvaluateConfig, folder: Path, *, out: Path | None, progress: ShowProgress = unseen
) -> Evaluation:
    """Score the slides of a split with a run and compute what was asked for.

    Args:
        config: of the evaluation.
        folder: of the run, or of a finished cross-validation.
        out: where detections and masks go if lesions are judged; None keeps none of them.
        progress: shows the progress.

    Raises:
        TrainingError: the folder holds no run, or one that is not finished.
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide of the split has no features.
        MetricError: lesions are to be judged and are not known, or the model gives no score to patches.
    """
    from wsi_vmamba.evaluation.fold_scores import score
    from wsi_vmamba.evaluation.places import judge_places

    scored = score(config, folder, progress=progress)
    lesions, notes = _lesions(config, scored, out)
    return Evaluation(
        metric=config.metric,
        slides=slide_metrics(config, scored.slides()),
        lesions=lesions,
        places=judge_places(config, scored, progress=progress),
        scored=scored,
        notes=notes,
    )


def _lesions(
    config: EvaluateConfig, scored: ScoredRun, out: Path | None
) -> tuple[LesionMetrics | None, tuple[str, ...]]:
    """Lesion metrics where they were asked for; for "all", where lesions are known."""
    from wsi_vmamba.evaluation.run_lesions import judge_lesions, knows_lesions

    if config.metric not in LESION_METRICS:
        if config.metric != ALL:
            return None, ()
        if not knows_lesions(config, scored):
            return None, ("note: FROC is left out; give --masks DIR or --annotations DIR for it",)
    if out is not None:
        lesions = judge_lesions(config, scored, out)
    else:
        # The same files, so that the same numbers come out, rounded coordinates included.
        with TemporaryDirectory(prefix="wsi-vmamba-lesions-") as scratch:
            lesions = judge_lesions(config, scored, Path(scratch))
    return lesions, lesions.notes
