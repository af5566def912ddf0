"""Recipe: scores and detections, of a trained run or made elsewhere, to metrics and figures."""

from __future__ import annotations

from pathlib import Path

from wsi_vmamba import console
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.cost import Stopwatch
from wsi_vmamba.durable import require_writable
from wsi_vmamba.evaluation import files, tables
from wsi_vmamba.evaluation.compare import compare
from wsi_vmamba.evaluation.judge import judge_files, judge_run, run_of
from wsi_vmamba.evaluation.results import Evaluation


def run(config: EvaluateConfig) -> bool:
    """Compute the metrics asked for, save everything and print it."""
    watch = Stopwatch()
    if config.out:
        require_writable(Path(config.out), option="--out")
    if config.json_out:
        require_writable(Path(config.json_out).parent, option="--json")
    if config.compare:
        return _compare(config)
    folder = run_of(config)
    out = _folder_for(config, folder)
    found = judge_run(config, folder, out=out, progress=console.progress) if folder else judge_files(config)
    _say_notes(found)
    files.write(found, config, out, watch=watch)
    _show(found)
    if folder and out:
        files.draw_heatmaps(found, out, count=config.heatmaps)
        console.say(f"per-slide scores, metrics and figures: {out}")
    return True


def _compare(config: EvaluateConfig) -> bool:
    """Compare two methods on the same slides."""
    found = compare(config, progress=console.progress)
    console.print_table(f"AUC on the same {len(found.a.labels)} slides", ("", "AUC"), found.rows())
    console.say(found.in_words())
    found.save(config)
    return True


def _folder_for(config: EvaluateConfig, folder: Path | None) -> Path | None:
    """Where results go: of a run beside it unless said otherwise, of files nowhere unless said."""
    if config.out or folder is None:
        return Path(config.out) if config.out else None
    out = folder / "evaluation"
    if folder.is_dir():  # if not, scoring says so
        require_writable(out, option="--out")
    return out


def _say_notes(found: Evaluation) -> None:
    for warning in found.warnings:
        console.warn(warning)
    for note in found.notes:
        console.say(note)


def _show(found: Evaluation) -> None:
    """Print what was found, the metric that was asked for first."""
    if found.calls is not None:
        console.say(tables.calls_in_words(found.calls))
    if found.slides is not None:
        console.say(tables.headline(found.slides))
    for screen in tables.screens(found.slides, found.lesions):
        console.print_table(screen.title, screen.columns, screen.rows)
    for note in (*tables.notes_of(found.slides, found.lesions), *found.places_in_words()):
        console.say(note)
