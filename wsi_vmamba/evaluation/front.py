"""Training and evaluation from Python: `train`, `open_run`, `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_vmamba import console
from wsi_vmamba.config import EvaluateConfig, TrainConfig, keyword_config, show_settings
from wsi_vmamba.cost import Stopwatch
from wsi_vmamba.datasets import FEATURE_TABLES
from wsi_vmamba.durable import require_writable
from wsi_vmamba.errors import ConfigError, TrainingError, UsageError
from wsi_vmamba.evaluation.compare import Comparison
from wsi_vmamba.evaluation.compare import compare as compare_two
from wsi_vmamba.evaluation.judge import judge_files, judge_run, run_of
from wsi_vmamba.evaluation.results import Evaluation
from wsi_vmamba.evaluation.watch import unseen
from wsi_vmamba.notebook import facts_html, table_html
from wsi_vmamba.registry import load_attribute

if TYPE_CHECKING:
    from wsi_vmamba import HtmlReport, Predictions, SlidePrediction
    from wsi_vmamba.training.job import Part, TrainJob
    from wsi_vmamba.training.run import EpochReport

#: Settings of an evaluation that a comparison has no use for.
_NOT_COMPARED = (
    "metric", "run", "threshold", "masks", "annotations", "detections", "exclude", "heatmaps",
    "shuffle_places", "shuffles", "shuffled_features",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training: one model, a cross-validation, or a classifier of rows of numbers.

    Attributes:
        path: the run's folder.
        settings: the configuration that it was trained with.
        history: an `EpochReport` per epoch (learning rate, losses, validation AUC); empty of a cross-validation, whose
            ``folds`` have each their own, and of a classifier of rows.
        folds: of a cross-validation, one run per fold.
        notes: what was repaired or left out of outlines; known only where the run was just trained.
    """

    path: Path
    settings: TrainConfig
    history: tuple[EpochReport, ...] = ()
    folds: tuple[Run, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        of = (
            f"{len(self.folds)} folds"
            if self.folds
            else f"{len(self.history)} epochs"
            if self.history
            else "a classifier"
        )
        return f"<Run {self.path}: {of}, data set {self.settings.dataset}>"

    @property
    def best(self) -> EpochReport:
        """The epoch whose model is kept.

        Raises:
            TrainingError: the run has no epochs of its own.
        """
        found = next((report for report in reversed(self.history) if report.is_best), None)
        if found is None:
            raise TrainingError(
                f"{self.path} has no epochs of its own; of a cross-validation ask the folds: run.folds[0].best"
            )
        return found

    def evaluate(
        self, *, metric: str = "auc", out: str | Path | None = None, progress: bool = True, **settings: Any
    ) -> Evaluation:
        """Score the held-out slides with this run; see `evaluate` for settings, result and errors."""
        return evaluate(metric=metric, run=self, out=out, progress=progress, **settings)

    def predict(self, slide: str | Path, **settings: Any) -> SlidePrediction:
        """Predict one slide, which needs no label, in memory; see `wsi_vmamba.predict` for settings and errors."""
        # By its name: prediction stands above evaluation, as the front door does.
        found: SlidePrediction = load_attribute("wsi_vmamba.prediction.front:predict")(
            self, slide, **settings
        )
        return found

    def predict_all(
        self, slides: str | Path, *, out: str | Path | None = None, progress: bool = True, **settings: Any
    ) -> Predictions:
        """Predict many slides, or features of slides; see `wsi_vmamba.predict_all` for settings and errors."""
        call = load_attribute("wsi_vmamba.prediction.front:predict_all")
        found: Predictions = call(self, slides, out=out, progress=progress, **settings)
        return found

    def report(self, *, out: str | Path | None = None, progress: bool = True, **settings: Any) -> HtmlReport:
        """Make one HTML page of this run; see `wsi_vmamba.make_report` for settings and errors."""
        call = load_attribute("wsi_vmamba.html_report.front:make_report")
        found: HtmlReport = call(self, out=out, progress=progress, **settings)
        return found

    def _repr_html_(self) -> str:
        facts = {"run": self.path, "dataset": self.settings.dataset, "features": self.settings.features}
        parts = [facts_html("trained run", facts)]
        if self.history:
            rows = [
                (one.epoch, f"{one.train_loss:.4f}", f"{one.validation_loss:.4f}", f"{one.validation_auc:.4f}",
                 "*" if one.is_best else "")
                for one in self.history
            ]  # fmt: skip
            parts.append(table_html(("epoch", "loss", "validation loss", "validation AUC", "best"), rows))
        return "".join([*parts, *(fold._repr_html_() for fold in self.folds)])


def train(
    *, progress: bool = True, on_epoch: Callable[[EpochReport], None] | None = None, **settings: Any
) -> Run:
    """Train a slide classifier on extracted features, as `wsi-vmamba train` does, to the same files.

    An interrupted training (Ctrl-C, or stopping the cell of a notebook) is kept to its last epoch: the same call with
    ``resume=True`` goes on from there and ends with the same bytes.

    Args:
        progress: show how many epochs are done, as a bar on a terminal and as a line now and then elsewhere.
        on_epoch: called after each epoch, when its checkpoint is on disk.
        settings: any setting of `TrainConfig` by name: ``dataset="csv"``, ``manifest="slides.csv"``,
            ``features="features"``, ``aggregator="abmil"``, ``folds=5``, ``epochs=60``, ``resume=True``...

    Returns:
        The run; ``.evaluate()`` scores its held-out slides.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: the folder holds a run already, and neither ``resume`` nor ``overwrite`` is set.
        MissingDataError: slides have no features, or outlines that are to be learned from are missing.
        DatasetError: the manifest is not as described, labels are missing, or a patient is in two splits.
        TrainingError: a loss is not finite, or the checkpoint is of another training.

    Example:
        >>> import wsi_vmamba as wv
        >>> run = wv.train(dataset="csv", manifest="slides.csv", features="features")  # doctest: +SKIP
        >>> run.evaluate().auc  # doctest: +SKIP
        0.93
    """
    config = keyword_config(TrainConfig, settings)
    require_writable(Path(config.runs), option="runs")
    if config.dataset in FEATURE_TABLES:
        from wsi_vmamba.tabular.train import train_table

        return open_run(train_table(config).folder)
    from wsi_vmamba.training.job import prepare

    job = prepare(config)
    notes = _notes_of(job)
    best = []
    for part in job.parts:
        with _watched(job, part, progress=progress, on_epoch=on_epoch) as tell:
            best.append(job.fit(part, on_epoch=tell).best)
    job.finish(best)
    return replace(open_run(job.folder), notes=notes)


def open_run(path: str | Path) -> Run:
    """Open a finished run, or a finished cross-validation, by its folder.

    Raises:
        TrainingError: the folder holds none, one that is not finished, or a damaged one.
    """
    from wsi_vmamba.evaluation.fold_scores import holds_folds
    from wsi_vmamba.evaluation.run_scores import train_config_of
    from wsi_vmamba.home import expand_home
    from wsi_vmamba.tabular.folder import holds_tabular_run
    from wsi_vmamba.training.folders import RECORD, fold_folder
    from wsi_vmamba.training.run import read_metrics

    folder = Path(expand_home(str(path)))
    folds = holds_folds(folder)
    if not (folder / RECORD).is_file():
        raise TrainingError(
            f"no finished run at {folder.absolute()} ({RECORD} is not there); make one with `wsi-vmamba train`, or "
            "finish one that was interrupted with its --resume"
        )
    config = train_config_of(folder)
    if folds:
        numbers = range(1, (config.folds or 0) + 1)
        return Run(
            path=folder, settings=config, folds=tuple(open_run(fold_folder(folder, n)) for n in numbers)
        )
    history = () if holds_tabular_run(folder) else read_metrics(folder)
    return Run(path=folder, settings=config, history=history)


def evaluate(
    run: Run | str | Path | None = None,
    *,
    metric: str = "auc",
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Evaluation:
    """Evaluate a trained run on its held-out slides, or scores and detections made elsewhere.

    Nothing is written unless ``out`` (or ``json_out``) is given; then the files are those of `wsi-vmamba evaluate`.

    Args:
        run: a `Run` or its folder; without it, and without ``scores`` and ``detections``, the newest under ``runs``.
        metric: of a slide ("auc", "average_precision", "brier"...), of lesions ("froc"), or "all".
        out: folder for metrics.json, tables and figures.
        progress: show how many slides are scored.
        settings: any setting of `EvaluateConfig` by name: ``split="validation"``, ``bootstrap=2000``,
            ``annotations="xml/"``; of files ``scores="scores.csv", score_column="p"`` (one line a slide, 0/1 in
            ``label``), ``masks=``, ``detections=`` (probability, x and y in level-0 pixels).

    Returns:
        ``.auc``, ``.ci95``, ``.froc``, ``.tables`` and ``.to_dict()``, which is what metrics.json holds. Shown as
        tables in a notebook.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: the metric needs what was not given.
        TrainingError: there is no finished run.
        DatasetError: the split has no labelled slide.
        MissingDataError: a slide has no features.
        MetricError: labels, scores, masks or detections are not usable.

    Example:
        >>> import wsi_vmamba as wv
        >>> wv.evaluate(scores="scores.csv", score_column="p").auc  # doctest: +SKIP
        0.93
    """
    if settings.get("compare") is not None:
        raise ConfigError("keyword argument: 'compare' compares two methods; use wsi_vmamba.compare(a, b)")
    watch = Stopwatch()
    config = keyword_config(EvaluateConfig, {**settings, "metric": metric, "run": _place(run), "out": out})
    if config.out:
        require_writable(Path(config.out), option="out")
    if config.heatmaps and not (config.out and run_of(config)):
        raise UsageError(
            "heatmaps are drawn for a run, into a folder: give out= and no scores= or detections="
        )
    folder = run_of(config)
    target = Path(config.out) if config.out else None
    show = console.progress if progress else unseen
    found = judge_run(config, folder, out=target, progress=show) if folder else judge_files(config)
    _write(config, found, watch=watch)
    return found


def compare(
    a: Run | str | Path, b: Run | str | Path, *, progress: bool = True, **settings: Any
) -> Comparison:
    """Test whether two methods, scored on the same slides, differ in AUC; of several classes in macro AUC.

    Args:
        a: a run, a CSV of scores as "FILE:COLUMN", or a column of ``scores``.
        b: what it is compared with, of the same slides in any order.
        progress: show how many slides are scored.
        settings: settings of `EvaluateConfig` by name, for example ``scores="scores.csv"`` or ``split="validation"``;
            ``out`` is a folder for comparison.json, ``json_out`` a file of one's own.

    Returns:
        Both AUCs, their difference, its 95 % interval and, of two classes, p-value in ``.test``.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: a file is given without a column.
        MetricError: the two have other slides or other labels.
    """
    for name in _NOT_COMPARED:
        if name in settings:
            raise ConfigError(
                f"keyword argument: {name!r} has no meaning for a comparison of AUCs; leave it out"
            )
    config = keyword_config(EvaluateConfig, {**settings, "compare": [_place(a), _place(b)]})
    found = compare_two(config, progress=console.progress if progress else unseen)
    found.save(config)
    return found


def _place(run: Run | str | Path | None) -> str | None:
    return None if run is None else str(run.path if isinstance(run, Run) else run)


def _write(config: EvaluateConfig, found: Evaluation, *, watch: Stopwatch) -> None:
    """Write what was asked for, as the command does."""
    from wsi_vmamba.evaluation import files

    out = Path(config.out) if config.out else None
    files.write(found, config, out, watch=watch)
    if out is not None:
        files.draw_heatmaps(found, out, count=config.heatmaps)


def _notes_of(job: TrainJob) -> tuple[str, ...]:
    notes = [f"{slide_id}: {note}" for slide_id, found in job.notes() for note in found]
    return (
        *notes, *(f"{slide_id}: no outlines, so its patches teach nothing" for slide_id in job.without_outlines()),
    )  # fmt: skip


@contextmanager
def _watched(
    job: TrainJob, part: Part, *, progress: bool, on_epoch: Callable[[EpochReport], None] | None
) -> Iterator[Callable[[EpochReport], None]]:
    """Progress by the epoch, and whoever else wants to know of each."""
    show = console.progress if progress else unseen
    with show(f"train {part.folder.name}", job.settings.epochs) as task:

        def tell(report: EpochReport) -> None:
            task.step(f"validation AUC {report.validation_auc:.4f}")
            if on_epoch is not None:
                on_epoch(report)

        yield tell


show_settings(train, TrainConfig)
show_settings(evaluate, EvaluateConfig, leave_out=("compare",))
show_settings(compare, EvaluateConfig, leave_out=("compare", *_NOT_COMPARED))
