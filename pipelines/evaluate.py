"""Recipe: scores and detections, of a trained run or made elsewhere, to metrics and figures."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import UsageError
from wsi_vmamba.metrics import LESION_METRICS, METRICS
from wsi_vmamba.pipelines import results
from wsi_vmamba.pipelines.lesions import froc_of_files
from wsi_vmamba.pipelines.scoring import read_scored_slides


def run(config: EvaluateConfig) -> int:
    """Compute the metrics asked for, print them and save everything; return 0."""
    code: int
    if config.out:
        require_writable(Path(config.out), option="--out")
    if config.json_out:
        require_writable(Path(config.json_out).parent, option="--json")
    if config.compare:
        from wsi_vmamba.pipelines import compare

        code = compare.run(config)
    elif config.scores or config.detections:
        code = judge_files(config)
    else:
        # Here, so that judging files never waits for torch.
        from wsi_vmamba.pipelines import evaluate_run

        code = evaluate_run.run(config)
    return code


def judge_files(config: EvaluateConfig) -> int:
    """Judge what other programs wrote: a CSV of scores, a folder of detections, or both with ``--metric all``."""
    if config.metric in METRICS and not config.scores:
        raise UsageError(
            f"--metric {config.metric} needs --scores CSV; detections are judged by --metric froc"
        )
    if config.metric in LESION_METRICS and not config.detections:
        raise UsageError("--metric froc needs --masks DIR and --detections DIR; slide scores have no lesions")
    slides = lesions = None
    if config.metric not in LESION_METRICS and config.scores and config.score_column:
        slides = read_scored_slides(config, Path(config.scores), config.score_column)
    if config.metric not in METRICS and config.detections and config.masks:
        masks, detections = Path(config.masks), Path(config.detections)
        lesions = froc_of_files(config, masks=masks, detections=detections, exclude=config.exclude)
    found = results.slide_metrics(config, slides) if slides else None
    results.finish(config, found, lesions, out=Path(config.out) if config.out else None)
    return 0
