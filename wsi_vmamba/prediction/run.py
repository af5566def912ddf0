"""One run over new slides, step by step, as they come from extraction or as their features lie there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from wsi_vmamba.bags import Bag
from wsi_vmamba.config import PredictConfig
from wsi_vmamba.errors import MissingDataError, SlideError, UsageError, WsiVmambaError
from wsi_vmamba.extraction.outcome_table import OutcomeTable
from wsi_vmamba.extraction.outcomes import failure
from wsi_vmamba.extraction.run import ExtractionRun, check_sources, open_run
from wsi_vmamba.prediction import folder
from wsi_vmamba.prediction.extracting import check_weights, encoder_file, extract_config
from wsi_vmamba.prediction.inputs import FeatureInput, Inputs, find_inputs
from wsi_vmamba.prediction.model import load_model
from wsi_vmamba.prediction.patients import patients_given, save_patients
from wsi_vmamba.prediction.predictor import OtherFeaturesError, Predictor, bag_of
from wsi_vmamba.prediction.rows import PredictionRow, share_columns
from wsi_vmamba.prediction.slide_prediction import SlidePrediction
from wsi_vmamba.slide.location import absolute
from wsi_vmamba.store import FeatureFile, open_features

#: What ends a slide now and then; the others go on.
FAULTS = (WsiVmambaError, OSError, MemoryError)


@dataclass(kw_only=True)
class PredictionRun:
    """Slides or features, and the model that predicts them.

    Attributes:
        config: of the run.
        predictor: the model.
        inputs: slides whose features are there, and slides to be extracted first.
        rows: what became of the slides so far.
        out: where everything goes.
    """

    config: PredictConfig
    predictor: Predictor
    inputs: Inputs
    rows: list[PredictionRow] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def out(self) -> Path:
        """Folder of the predictions."""
        return Path(self.config.out)

    @property
    def features(self) -> Path:
        """Folder of the feature files, of those that are made where there are any."""
        if not self.inputs.sources:
            return self.inputs.files[0].path.parent
        return self.out / folder.FEATURES

    @property
    def n_slides(self) -> int:
        """How many slides there are to predict."""
        return self.inputs.n_slides

    @property
    def ok(self) -> bool:
        """Whether every slide has a prediction now."""
        return len(self.rows) == self.n_slides and not any(row.failed for row in self.rows)

    def predict(self) -> Iterator[PredictionRow]:
        """Yield the row of each slide as it comes; also after Ctrl-C the table is saved.

        Raises:
            UsageError: the folder holds something else.
            IncompatibleStoreError: the backbone's weights are not those of the training slides.
            StoreError: the folder cannot be written.
        """
        started_s = time.perf_counter()
        model = self.predictor.model
        more = share_columns(model.classes) if model.several else ()
        table = OutcomeTable(self.out / folder.TABLE, kind=PredictionRow, more=more)
        begun = False
        try:
            with self._source() as rows:
                folder.open_folder(self.config, self.predictor, features=self.features)
                begun = True
                for row in rows:
                    table.add(row)
                    self.rows.append(row)
                    yield row
                self._save_patients()
        finally:
            self.seconds = time.perf_counter() - started_s
            if begun:
                table.save()

    def _save_patients(self) -> None:
        """Write what the slides say of their patients, where the CSV of slides names those."""
        patients = patients_given(self.config.slides)
        if not patients:
            return
        paths = {given.slide_id: given.path for given in self.inputs.files}

        def load(slide_id: str) -> Bag:
            made = paths.get(slide_id, self.features / f"{slide_id}.zarr")
            file = open_named(FeatureInput(slide_id=slide_id, path=made))
            return bag_of(file.meta, file.features, file.coords_l0)

        save_patients(self.out, self.rows, self.predictor, patients, load=load)

    @contextmanager
    def _source(self) -> Iterator[Iterator[PredictionRow]]:
        """The rows to come; what they need is ready, or refused, before anything is written."""
        of_files = (self._predict(file) for file in self.inputs.files)
        if not self.inputs.sources:
            yield of_files
            return
        model = self.predictor.model
        with encoder_file(model) as encoder:
            extract = extract_config(model, self.config, out=self.features, encoder=encoder)
            with open_run(extract, self.inputs.sources) as extraction:
                facts = extraction.executor.facts
                check_weights(model, extract, weights_hash=facts["weights_hash"])
                yield chain(of_files, self._extracted(extraction))

    def _extracted(self, extraction: ExtractionRun) -> Iterator[PredictionRow]:
        paths = {source.slide_id: str(absolute(source.path)) for source in self.inputs.sources}
        for outcome in extraction.extract():
            path = paths.get(outcome.slide_id, "")
            if outcome.failed:
                yield PredictionRow.of_failure(outcome, path=path)
            else:
                made = self.features / f"{outcome.slide_id}.zarr"
                file = FeatureInput(slide_id=outcome.slide_id, path=made)
                yield self._predict(file, note=outcome.detail, slide_path=path)

    def _predict(self, given: FeatureInput, *, note: str = "", slide_path: str = "") -> PredictionRow:
        """Predict one slide from its feature file; what ends it is its row, the others go on."""
        try:
            file = open_named(given)
            found = self._of(file)
            notes = [note, self.predictor.note_on(file.meta)]
            if self.config.heatmaps:
                notes.append(self._draw(found, slide_path))
            return PredictionRow.of(found, detail="; ".join(filter(None, notes)))
        except FAULTS as error:
            return failed_row(given.slide_id, error, path=slide_path)

    def _of(self, file: FeatureFile) -> SlidePrediction:
        if not self.config.overwrite:
            there = folder.kept(self.out, file.meta, self.predictor)
            if there is not None:
                return there
        found = self.predictor.predict(file.meta, file.features, file.coords_l0)
        facts = {**folder.facts_of(file.meta, self.predictor), "features": str(file.path.absolute())}
        found.save(folder.patches_path(self.out, found.slide_id), facts=facts)
        return found

    def _draw(self, found: SlidePrediction, slide_path: str) -> str:
        """Draw a heatmap; return a note where none can be drawn, which is no reason to fail the slide."""
        try:
            heatmap = found.heatmap(slide=slide_path or None)
            heatmap.draw(self.out / folder.HEATMAPS)
        except (UsageError, MissingDataError, SlideError) as error:
            return f"no heatmap: {error}"
        return ""


def open_named(given: FeatureInput) -> FeatureFile:
    """Open a feature file as that of the slide it is given for, as training does: a file may have been renamed.

    Raises:
        StoreError: it is missing or damaged.
    """
    file = open_features(given.path)
    return replace(file, meta=replace(file.meta, slide_id=given.slide_id))


def failed_row(slide_id: str, error: BaseException, *, path: str = "") -> PredictionRow:
    """The row of a slide that an error ended."""
    outcome = failure(slide_id, error)
    if isinstance(error, OtherFeaturesError):
        outcome = replace(outcome, remedy="give the slide, not these features of it")
    return PredictionRow.of_failure(outcome, path=path)


def prepare(config: PredictConfig) -> PredictionRun:
    """Load the model and find the slides or their features; nothing is written.

    Raises:
        TrainingError: there is no finished run, or it is damaged.
        UsageError: nothing to predict is there, or no threshold is known.
    """
    # The model first: who gives run and slides the wrong way round is told so.
    model = load_model(
        Path(config.run), trained_on=None if config.trained_on is None else Path(config.trained_on)
    )
    inputs = find_inputs(config.slides, ids_from_path=config.ids_from_path)
    predictor = Predictor(model, threshold=config.threshold)
    if inputs.sources:
        extract = extract_config(model, config, out=Path(config.out) / folder.FEATURES)
        check_sources(extract, inputs.sources)
    return PredictionRun(config=config, predictor=predictor, inputs=inputs)
