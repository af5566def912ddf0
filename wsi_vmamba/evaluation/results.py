"""The result of an evaluation: figures by attribute, tables, and the content of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_vmamba.errors import MetricError
from wsi_vmamba.evaluation import tables
from wsi_vmamba.evaluation.calls import CallMetrics
from wsi_vmamba.evaluation.sites import shift
from wsi_vmamba.evaluation.slides import SlideMetrics
from wsi_vmamba.metrics.base import Interval, MetricResult, plain
from wsi_vmamba.metrics.panel import SlidePanel
from wsi_vmamba.notebook import table_html

if TYPE_CHECKING:
    from wsi_vmamba.evaluation.lesions import LesionMetrics
    from wsi_vmamba.evaluation.places import PlaceTest
    from wsi_vmamba.evaluation.run_scores import ScoredRun


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` finds.

    Attributes:
        metric: the name that was asked for: of METRICS, of LESION_METRICS, or "all".
        slides: slide-level metrics; None where none were asked for or there are no slide scores.
        lesions: lesion-level metrics; None likewise.
        scored: the run that was judged, with its predictions; None of score files.
        places: what the AUC is worth without the places of patches, where that was asked for.
        notes: what there is to know of how it was computed.
        calls: of calls on a scale, which have no scores; None otherwise.
    """

    metric: str
    slides: SlideMetrics | None
    lesions: LesionMetrics | None
    places: tuple[PlaceTest, ...] = ()
    scored: ScoredRun | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    calls: CallMetrics | None = None

    def __repr__(self) -> str:
        found = self.headline
        low, high = found.ci95
        return f"<Evaluation {self.metric}: {found.value:.4f}, 95 % interval {low:.4f} to {high:.4f}>"

    @property
    def headline(self) -> MetricResult:
        """Result of the metric that was asked for; of "all", that of the AUC where there is one.

        Raises:
            MetricError: nothing was computed.
        """
        if self.calls is not None:
            return self.calls.kappa
        first = self.slides.headline if self.slides else self.lesions.headline if self.lesions else None
        if first is None:
            raise MetricError("nothing was computed; give scores=, or masks= and detections=, or a run=")
        return first

    @property
    def value(self) -> float:
        """Value of the metric that was asked for; NaN where it is not defined."""
        return self.headline.value

    @property
    def ci95(self) -> Interval:
        """Lower and upper end of its 95 % interval; NaN where there is none."""
        return self.headline.ci95

    @property
    def auc(self) -> float:
        """ROC AUC of the slides, of more than two classes the mean of each against the rest.

        Raises:
            MetricError: only lesions were judged.
        """
        if self.slides is None:
            raise MetricError(f"slides were not judged by the metric {self.metric!r}; evaluate metric='auc'")
        return self.slides.panel.auc.value

    @property
    def froc(self) -> float:
        """FROC score as the organisers of CAMELYON16 compute it; NaN where no lesion counts.

        Raises:
            MetricError: it was not computed.
        """
        if self.lesions is None or self.lesions.froc is None:
            raise MetricError(
                f"FROC was not computed for the metric {self.metric!r}; evaluate metric='froc' or 'all', with lesions"
            )
        return self.lesions.froc.value

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should act on."""
        return self.lesions.warnings if self.lesions else ()

    @property
    def tables(self) -> Mapping[str, tuple[dict[str, Any], ...]]:
        """Rows by column name, ready for ``pandas.DataFrame``.

        There are "metrics" and, where judged, "slides", "patients", "stages" and "lesions".
        """
        found = {"metrics": tables.metric_rows(self.slides, self.lesions)}
        if self.slides is not None:
            found["slides"] = tables.as_dicts(
                tables.slide_columns(self.slides.slides), tables.slide_rows(self.slides.slides)
            )
            if self.slides.patients is not None:
                of = self.slides.patients.patients
                found["patients"] = tables.as_dicts(tables.patient_columns(of), tables.patient_rows(of))
            if self.slides.stages is not None:
                found["stages"] = tables.as_dicts(tables.STAGE_COLUMNS, self.slides.stages.rows())
        if self.lesions is not None:
            found["lesions"] = tables.as_dicts(tables.LESION_COLUMNS, tables.lesion_rows(self.lesions))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything found, ready for JSON (NaN as null); what the command writes to metrics.json.

        ``value`` and ``ci95`` are those of the metric that was asked for (of "all", the AUC where there is one);
        ``auc`` and ``froc_score`` are there where they were computed.
        """
        found: dict[str, Any] = {"metric": self.metric}
        if self.slides is not None or self.lesions is not None or self.calls is not None:
            found |= {"value": self.value, "ci95": self.ci95}
        if self.calls is not None:
            found |= self.calls.to_dict()
        if self.slides is not None:
            found |= _slide_content(self.slides)
        if self.lesions is not None:
            found |= _lesion_content(self.lesions)
        if self.places:
            found["places"] = [test.to_dict() for test in self.places]
        content: dict[str, Any] = plain(found)
        return content

    def places_in_words(self) -> tuple[str, ...]:
        """What the AUC is worth without the places of patches, in two lines each."""
        return tuple(line for test in self.places for line in test.in_words())

    def save(self, out: Path | str) -> None:
        """Write metrics.json, slides.csv, lesions.csv and the figures, as far as they were computed, into a folder."""
        from wsi_vmamba.evaluation.files import save

        save(self, Path(out))

    def _repr_html_(self) -> str:
        """The tables that the command prints, for a notebook."""
        notes = (
            *self.warnings,
            *self.notes,
            *tables.notes_of(self.slides, self.lesions),
            *self.places_in_words(),
        )
        parts = [f"<p><b>{escape(tables.headline(self.slides))}</b></p>"] if self.slides else []
        if self.calls is not None:
            parts.append(f"<p><b>{escape(tables.calls_in_words(self.calls))}</b></p>")
        screens = tables.screens(self.slides, self.lesions)
        parts += [table_html(one.columns, one.rows, caption=one.title) for one in screens]
        return "".join([*parts, *(f"<p>{escape(note)}</p>" for note in notes)])


def _slide_content(slides: SlideMetrics) -> dict[str, Any]:
    area = slides.panel.auc
    found: dict[str, Any] = {
        "auc": area.value,
        "auc_ci95": area.ci95,
        "auc_ci95_bootstrap": area.bootstrap.ci95,
        "n_slides": len(slides.slides.labels),
        **_counts(slides),
        "slide_metrics": slides.to_dict(),
    }
    if slides.patients is not None:
        found["patient_metrics"] = slides.patients.to_dict()
    if slides.stages is not None:
        found["patient_stages"] = slides.stages.to_dict()
    if slides.sites:
        found["sites"] = [one.to_dict() for one in slides.sites]
        found["site_shift"] = shift(slides.sites)
    if slides.slides.folds is not None:
        found["folds"] = slides.slides.folds.to_dict()
    return found


def _counts(slides: SlideMetrics) -> dict[str, Any]:
    """How many slides of each label there are."""
    panel = slides.panel
    if isinstance(panel, SlidePanel):
        return {"n_positive": panel.auc.n_positive, "n_negative": panel.auc.n_negative}
    counts = panel.called.counts.sum(axis=1).tolist()
    return {"n_by_class": dict(zip(panel.classes, counts, strict=True))}


def _lesion_content(lesions: LesionMetrics) -> dict[str, Any]:
    details = {name: result.to_dict() for name, result in lesions.results.items()}
    found: dict[str, Any] = {}
    if lesions.froc is not None:
        detail = details["froc"]
        found = {
            "froc_score": detail["froc_score"],
            "froc_score_without_quirks": detail["froc_score_without_quirks"],
            "froc_ci95": detail["ci95"],
            "about": detail["about"],
        }
    return {**found, "lesion_metrics": details}
