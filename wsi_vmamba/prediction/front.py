"""Prediction from Python: `predict` of one slide and `predict_all` of many, which are also methods of `Run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wsi_vmamba import console
from wsi_vmamba.config import PredictConfig, keyword_config, show_settings
from wsi_vmamba.encode import Encoder
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.front import Run
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.extraction.encoders import load_encoder
from wsi_vmamba.extraction.front import embed_source
from wsi_vmamba.extraction.sources import SlideSource, refuse_unusable, require_there
from wsi_vmamba.notebook import table_html
from wsi_vmamba.prediction import folder
from wsi_vmamba.prediction.extracting import check_weights, encoder_file, extract_config
from wsi_vmamba.prediction.inputs import FeatureInput
from wsi_vmamba.prediction.predictor import Predictor, check_settings
from wsi_vmamba.prediction.rows import PredictionRow
from wsi_vmamba.prediction.run import FAULTS, PredictionRun, failed_row, open_named, prepare
from wsi_vmamba.prediction.slide_prediction import SlidePrediction, read_prediction

#: Settings of a folder of predictions, which one slide in memory has no use for.
_OF_MANY = ("out", "heatmaps", "overwrite", "ids_from_path", "workers")


@dataclass(kw_only=True)
class Predictions:
    """What a model says of many slides. Iterating gives a `SlidePrediction` for each that could be predicted.

    Attributes:
        rows: a `PredictionRow` for each slide, failed ones included.
        folder: where ``predictions.csv`` and the values of the patches lie; None where all is in memory.
    """

    rows: list[PredictionRow]
    folder: Path | None = None
    _found: dict[str, SlidePrediction] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SlidePrediction]:
        return (self[row.slide_id] for row in self.rows if not row.failed)

    def __getitem__(self, slide_id: str) -> SlidePrediction:
        if self.folder is not None and any(r.slide_id == slide_id and not r.failed for r in self.rows):
            return read_prediction(folder.patches_path(self.folder, slide_id))
        return self._found[slide_id]

    @property
    def failures(self) -> list[PredictionRow]:
        """Slides without a prediction, with cause and remedy."""
        return [row for row in self.rows if row.failed]

    @property
    def ok(self) -> bool:
        """Whether every slide has a prediction."""
        return not self.failures

    def _repr_html_(self) -> str:
        columns = ("slide", "decision", "probability", "sd", "patches", "unlike", "note or cause")
        rows = [
            (r.slide_id, r.decision or r.outcome, *map(_shown, (r.probability, r.probability_sd)), r.patches,
             r.unlike_why or r.unlike, r.detail)
            for r in self.rows
        ]  # fmt: skip
        return table_html(columns, rows)


def predict(
    run: Run | str | Path, slide: str | Path, *, encoder: Encoder | None = None, **settings: Any
) -> SlidePrediction:
    """Predict one slide with a trained run, in memory: its tissue is read and encoded as the training slides were.

    Args:
        run: a `Run`, its folder, or a file that `pack` made.
        slide: a slide file, the URL of an OME-Zarr, or a feature file.
        encoder: the backbone, to be used for several slides; by default it is built.
        settings: any setting of `PredictConfig` by name that is not of many slides: ``threshold=``, ``mpp_override=``,
            ``mask=``, ``device=``...

    Returns:
        ``.probability``, ``.decision``, ``.attention``, ``.patch_table``, ``.heatmap()``.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: there is not exactly one slide, or the run cannot predict.
        SlideError: the slide cannot be read.
        IncompatibleStoreError: other weights, resolution or patch size than those of the training slides.

    Example:
        >>> import wsi_vmamba as wv
        >>> run = wv.open_run("runs/csv-abmil")  # doctest: +SKIP
        >>> run.predict("slide.svs").decision  # doctest: +SKIP
        'positive'
    """
    for name in _OF_MANY:
        if name in settings:
            raise UsageError(f"keyword argument: {name!r} is for many slides; use predict_all")
    prediction = prepare(_config(run, slide, None, settings))
    if prediction.n_slides != 1:
        raise UsageError(
            f"{slide} holds {prediction.n_slides} slides, and predict takes one; name it, or use predict_all"
        )
    with ExitStack() as stack:
        (predict_one,) = _each(prediction, encoder, stack).values()
        return predict_one()


def predict_all(
    run: Run | str | Path,
    slides: str | Path,
    *,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Predictions:
    """Predict many slides with a trained run; a slide that fails stops no other.

    Args:
        run: a `Run`, its folder, or a file that `pack` made.
        slides: slides as for `extract`, or a folder of feature files.
        out: folder for the files of `wsi-vmamba predict`, from which an interrupted call goes on; None keeps the
            predictions in memory only.
        progress: show how many slides are predicted.
        settings: any setting of `PredictConfig` by name.

    Raises:
        ConfigError: an unknown setting, or a value that is wrong.
        UsageError: there are no slides, the run cannot predict, or ``out`` holds something else.
        IncompatibleStoreError: the backbone's weights are not those of the training slides.
    """
    prediction = prepare(_config(run, slides, out, settings))
    show = console.progress if progress else unseen
    if out is not None:
        with show("predict", prediction.n_slides) as task:
            for row in prediction.predict():
                task.step(row.slide_id)
        return Predictions(rows=prediction.rows, folder=prediction.out)
    return _in_memory(prediction, show)


def _in_memory(prediction: PredictionRun, show: ShowProgress) -> Predictions:
    found: dict[str, SlidePrediction] = {}
    rows = []
    with ExitStack() as stack, show("predict", prediction.n_slides) as task:
        for slide_id, predict_one in _each(prediction, None, stack).items():
            try:
                found[slide_id] = predict_one()
                rows.append(PredictionRow.of(found[slide_id]))
            except FAULTS as error:
                rows.append(failed_row(slide_id, error))
            task.step(slide_id)
    return Predictions(rows=rows, _found=found)


def _each(
    prediction: PredictionRun, encoder: Encoder | None, stack: ExitStack
) -> dict[str, Callable[[], SlidePrediction]]:
    """Slide -> what predicts it in memory; what all need is ready."""
    predictor = prediction.predictor
    found: dict[str, Callable[[], SlidePrediction]] = {
        given.slide_id: partial(_predict_file, predictor, given) for given in prediction.inputs.files
    }
    if not prediction.inputs.sources:
        return found
    file = stack.enter_context(encoder_file(predictor.model))
    extract = extract_config(predictor.model, prediction.config, out=prediction.features, encoder=file)
    built = load_encoder(extract) if encoder is None else encoder
    check_weights(predictor.model, extract, weights_hash=built.weights_hash)

    def predict_source(source: SlideSource) -> SlidePrediction:
        refuse_unusable(source)
        require_there(source)
        embedding = embed_source(extract, source, built)
        return predictor.predict(embedding.meta, embedding.features, embedding.coords_l0)

    return found | {source.slide_id: partial(predict_source, source) for source in prediction.inputs.sources}


def _predict_file(predictor: Predictor, given: FeatureInput) -> SlidePrediction:
    file = open_named(given)
    check_settings(predictor.model, file.meta, where=given.path)
    return predictor.predict(file.meta, file.features, file.coords_l0)


def _config(
    run: Run | str | Path, slides: str | Path, out: str | Path | None, settings: dict[str, Any]
) -> PredictConfig:
    place = str(run.path if isinstance(run, Run) else run)
    return keyword_config(PredictConfig, {**settings, "run": place, "slides": str(slides), "out": out})


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


show_settings(predict, PredictConfig, leave_out=("run", "slides", *_OF_MANY))
show_settings(predict_all, PredictConfig, leave_out=("run",))
