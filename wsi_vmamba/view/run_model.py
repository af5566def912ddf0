"""What a trained run says of patches, asked when somebody looks at a slide; torch is loaded then and not before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from wsi_vmamba.errors import MissingDataError, WsiVmambaError
from wsi_vmamba.view.patches import attention_of_classes
from wsi_vmamba.view.row import SlideRow

if TYPE_CHECKING:
    from wsi_vmamba.training import Run


class RunModel:
    """Answers for the patches of slides; may be used from any thread, one at a time.

    Of a cross-validation, a slide that some models were not trained on is asked of those; else all are. Several answers
    are averaged, as `evaluate` does.
    """

    def __init__(self, folder: Path, features: Path) -> None:
        """Keep where the run lies; its models are loaded at the first question."""
        self._folder = folder
        self._features = features
        self._runs: list[Run] | None = None
        self._lock = threading.Lock()  # torch uses all cores for one slide, and loading once is enough

    def __call__(self, row: SlideRow) -> Mapping[str, NDArray[Any]]:
        """Attention and probability of the patches of a slide, as far as the model has them.

        Raises:
            MissingDataError: the slide has no features.
            WsiVmambaError: the run or the features cannot be read, or do not belong together.
        """
        if row.features is None:
            raise MissingDataError(f"{row.name}: there are no features of this slide")
        from wsi_vmamba.bags import load_bag
        from wsi_vmamba.records import SlideRecord
        from wsi_vmamba.training import predict
        from wsi_vmamba.training.model import average

        slide_id = row.features.name.removesuffix(".zarr")
        with self._lock:
            runs = self._load()
            bag = load_bag(SlideRecord(slide_id=slide_id), row.features.parent)
            key = row.patient if runs[0].model.spec.of_patients else slide_id
            unseen = [run for run in runs if run.splits.get(key or slide_id) != "train"]
            said = [predict(run.model, bag) for run in unseen or runs]
            classes = runs[0].model.spec.classes or ()
        together = average(said)
        found: dict[str, NDArray[Any]] = {}
        if together.patches is not None:
            found["probability"] = together.patches
        if together.attention is not None:
            found["attention"] = together.attention
        if together.class_attention is not None:
            found |= attention_of_classes(classes, together.class_attention)
        return found

    def warm_up(self) -> None:
        """Load the models now; what is wrong with them is said to whoever asks."""
        with self._lock, contextlib.suppress(WsiVmambaError):
            self._load()

    def _load(self) -> list[Run]:
        if self._runs is None:
            from wsi_vmamba.evaluation.fold_scores import runs_of

            self._runs = runs_of(self._folder)
        return self._runs
