"""What a probe found of several encoders, as tables, JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from wsi_vmamba.errors import UnknownNameError
from wsi_vmamba.notebook import table_html
from wsi_vmamba.probing.encoders import EncoderFacts
from wsi_vmamba.probing.features import TileFeatures
from wsi_vmamba.probing.folds import Indices, Task
from wsi_vmamba.probing.intervals import Comparison, Estimate
from wsi_vmamba.probing.judge import Judged
from wsi_vmamba.probing.linear import LinearProbe, fit_probe, spread_of
from wsi_vmamba.probing.saved import ProbeFacts, SavedProbe
from wsi_vmamba.probing.scores import class_aucs, confusion, once

SCHEMA = 1
COLUMNS = (
    "encoder", "AUC", "minus the first", "AUC within groups", "balanced accuracy", "kNN accuracy", "robustness index",
    "width", "parameters", "CPU-ms per tile",
)  # fmt: skip
#: Points of a ROC curve that are kept.
_ROC_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class EncoderResult:
    """Everything about one encoder."""

    facts: EncoderFacts
    features: TileFeatures
    judged: Judged
    comparison: Comparison

    @property
    def auc(self) -> Estimate:
        """Macro AUC of the linear probe, pooled over folds."""
        return self.comparison.metrics["auc"]

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """All of it, ready for JSON."""
        judged = self.judged
        labels, linear = judged.predictions.labels, judged.predictions.linear
        of_classes = class_aucs(labels, linear, once(len(labels)))[:, 0]
        defined = [value for value in judged.fold_aucs if value is not None]
        mean, deviation = spread_of(defined) if defined else (None, None)
        return {
            **asdict(self.facts),
            "width": self.features.values.shape[1],
            "cpu_ms_per_tile": self.features.cpu_ms,
            "wall_ms_per_tile": self.features.wall_ms,
            "tile_sizes_px": [
                {"width": w, "height": h, "tiles": n} for (w, h), n in self.features.sizes_px.items()
            ],
            "metrics": {name: asdict(one) for name, one in self.comparison.metrics.items()},
            "minus_first": {name: asdict(one) for name, one in self.comparison.differences.items()},
            "resamples_used": self.comparison.used,
            "auc_mean_over_folds": mean,
            "auc_sd_over_folds": deviation,
            "class_auc": {
                name: float(value) if np.isfinite(value) else None
                for name, value in zip(classes, of_classes, strict=True)
            },
            "confusion": {
                "linear": confusion(labels, linear),
                "neighbours": confusion(labels, judged.predictions.neighbours),
            },
            "roc": {name: _roc(labels == one, linear[:, one]) for one, name in enumerate(classes)},
            "folds": [
                {"auc": value, "c": c, "c_chosen_by": by, "classes_not_learned": list(absent)}
                for value, (c, by), absent in zip(
                    judged.fold_aucs, judged.penalties, judged.missing, strict=True
                )
            ],
            "few_shot": [asdict(point) for point in judged.few_shot],
            "leakage": asdict(judged.leakage),
        }


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was found; ``wv.probe`` returns it.

    Attributes:
        task: tiles, classes, groups and folds.
        files: of the tiles, as the records name them.
        encoders: the result of each, in the order given; the others are compared with the first.
        drawn: what was drawn for the intervals.
        settings: of the run.
        notes: what a reader of the numbers should know.
    """

    task: Task
    files: tuple[str, ...]
    encoders: tuple[EncoderResult, ...]
    drawn: str
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def fitted(self, label: str | None = None) -> SavedProbe:
        """The probe of one encoder (the first), fitted on all tiles that are learned from.

        Raises:
            UsageError: there is no such encoder.
        """
        one = self.encoders[0] if label is None else self[label]
        task = self.task
        learned = np.unique(np.concatenate([fold.train for fold in task.folds]))
        linear = fit_probe(
            one.features.values[learned],
            task.labels[learned],
            task.groups[learned],
            n_classes=len(task.classes),
            seed=self.settings["seed"],
        )
        return SavedProbe(linear=linear, facts=self._facts(one, learned, linear))

    def save(self, path: str | Path, *, encoder: str | None = None) -> None:
        """Write the probe of one encoder (the first) to a file, for `load_probe`; see `fitted`."""
        self.fitted(encoder).save(path)

    def _facts(self, one: EncoderResult, learned: Indices, linear: LinearProbe) -> ProbeFacts:
        mpp, shrunk = self.settings["mpp"], one.features.shrunk
        sides = [side for size in one.features.sizes_px for side in size]
        return ProbeFacts(
            classes=self.task.classes,
            encoder=one.facts.name,
            weights_hash=one.facts.weights_hash,
            precision=one.facts.precision,
            mpp=mpp * shrunk if mpp and shrunk else None,
            tile_px=(min(sides), max(sides)),
            tiles=len(learned),
            groups=len(np.unique(self.task.groups[learned])),
            auc=one.auc.value,
            penalty_c=linear.penalty_c,
        )

    def __getitem__(self, label: str) -> EncoderResult:
        for one in self.encoders:
            if label in (one.facts.label, one.facts.spec):
                return one
        raise UnknownNameError("judged encoder", label, [one.facts.label for one in self.encoders])

    def rows(self) -> list[tuple[str, ...]]:
        """A line for each encoder, under `COLUMNS`."""
        return [_row(one) for one in self.encoders]

    def few_shot_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and a line for each encoder: AUC by tiles of each class."""
        shots = [point.shots for point in self.encoders[0].judged.few_shot]
        rows = [
            (one.facts.label, *(f"{p.auc:.3f} ± {p.auc_sd:.3f}" for p in one.judged.few_shot))
            for one in self.encoders
        ]
        return ("encoder", *map(str, shots)), rows

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; what is not a number is None."""
        task = self.task
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "classes": list(task.classes),
            "tiles": len(task.labels),
            "tiles_judged": len(task.judged),
            "tiles_by_class": dict(
                zip(task.classes, np.bincount(task.labels, minlength=len(task.classes)).tolist(), strict=True)
            ),
            "groups": len(np.unique(task.groups)),
            "scheme": task.scheme,
            "interval": f"95 %, percentiles of a bootstrap over {self.drawn}",
            "folds": [
                {"name": fold.name, "learned": len(fold.train), "judged": len(fold.test)}
                for fold in task.folds
            ],
            "encoders": [one.to_dict(task.classes) for one in self.encoders],
            "notes": list(self.notes),
        }

    def predictions(self) -> tuple[tuple[str, ...], Iterator[tuple[object, ...]]]:
        """Columns and lines of predictions.csv: one for each encoder and tile that is judged."""
        shares = [f"p_{name}" for name in self.task.classes]
        return ("encoder", "file", "group", "class", "fold", "predicted", *shares), self._prediction_rows()

    def _prediction_rows(self) -> Iterator[tuple[object, ...]]:
        task = self.task
        fold_of = {int(place): fold.name for fold in task.folds for place in fold.test}
        for one in self.encoders:
            for place, shares in zip(task.judged.tolist(), one.judged.predictions.linear, strict=True):
                yield (
                    one.facts.label,
                    self.files[place],
                    task.groups[place],
                    task.classes[task.labels[place]],
                    fold_of[place],
                    task.classes[int(shares.argmax())],
                    *(f"{share:.6g}" for share in shares),
                )

    def _repr_html_(self) -> str:
        return table_html(COLUMNS, self.rows(), caption=f"probe: {self.task.scheme}")


def _row(one: EncoderResult) -> tuple[str, ...]:
    metrics, differences = one.comparison.metrics, one.comparison.differences
    index, parameters = one.judged.leakage.robustness_index, one.facts.parameters
    return (
        one.facts.label,
        in_words(metrics["auc"]),
        in_words(differences["auc"], signed=True) if differences else "",
        in_words(metrics["group_auc"]),
        in_words(metrics["balanced_accuracy"]),
        in_words(metrics["neighbour_accuracy"]),
        "" if index is None else f"{index:.3f}",
        str(one.features.values.shape[1]),
        "" if parameters is None else f"{parameters:,}",
        f"{one.features.cpu_ms:.1f}",
    )


def in_words(one: Estimate, *, signed: bool = False) -> str:
    """As ``0.912 (0.880–0.940)``."""
    form = "+.3f" if signed else ".3f"
    if one.value is None:
        return "not defined"
    if one.low is None or one.high is None:
        return f"{one.value:{form}}"
    between = " to " if signed else "–"
    return f"{one.value:{form}} ({one.low:{form}}{between}{one.high:{form}})"


def _roc(positive: np.ndarray[Any, np.dtype[np.bool_]], shares: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Points of the curve of one class against all others, at most some hundreds; empty where it has none."""
    if positive.all() or not positive.any():
        return {"false": [], "true": []}
    false, true, _ = roc_curve(positive, shares)
    kept = np.unique(np.linspace(0, len(false) - 1, min(len(false), _ROC_POINTS)).round().astype(int))
    return {"false": false[kept].round(6).tolist(), "true": true[kept].round(6).tolist()}
