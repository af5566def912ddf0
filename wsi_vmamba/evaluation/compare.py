"""Whether two methods scored on the same slides differ in AUC: DeLong's paired test, or the paired bootstrap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import MetricError, UsageError
from wsi_vmamba.evaluation.json_file import write_json
from wsi_vmamba.evaluation.scores import ScoredSlides, read_scored_slides
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.metrics.classes_paired import MacroPaired, macro_auc_paired
from wsi_vmamba.metrics.delong import DelongPaired, delong_interval, delong_paired
from wsi_vmamba.notebook import table_html
from wsi_vmamba.slide.same_name import near_names


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two methods on the same slides.

    Attributes:
        a: the slides as the first scored them.
        b: the same slides, in the same order, as the second did.
        test: both AUCs, their difference, its 95 % interval and, of two classes, p-value. Of more they are macro AUCs.
    """

    a: ScoredSlides
    b: ScoredSlides
    test: DelongPaired | MacroPaired

    def __repr__(self) -> str:
        return f"<Comparison of {self.a.source} and {self.b.source} on {len(self.a.labels)} slides>"

    def to_dict(self) -> dict[str, Any]:
        """Everything found, ready for JSON; what the command writes to comparison.json."""
        if isinstance(self.test, MacroPaired):
            return {
                "metric": "auc",
                "test": "paired bootstrap of the macro AUC, stratified by class",
                **self.test.to_dict(),
                "n_slides": len(self.a.labels),
                "classes": list(self.a.classes or ()),
                "a": {"source": self.a.source, "auc": self.test.auc_a, "ci95": list(self.test.ci95_a)},
                "b": {"source": self.b.source, "auc": self.test.auc_b, "ci95": list(self.test.ci95_b)},
            }
        return {
            "metric": "auc",
            "test": "DeLong, paired, two-sided",
            **self.test.to_dict(),
            "n_slides": len(self.a.labels),
            "a": {"source": self.a.source, **delong_interval(self.a.labels, self.a.scores).to_dict()},
            "b": {"source": self.b.source, **delong_interval(self.b.labels, self.b.scores).to_dict()},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Source and AUC of both, for people."""
        return [(self.a.source, f"{self.test.auc_a:.4f}"), (self.b.source, f"{self.test.auc_b:.4f}")]

    def in_words(self) -> str:
        """The difference, its interval and the test, in a line."""
        test = self.test
        if isinstance(test, MacroPaired):
            return (
                f"difference of macro AUCs {test.difference:+.4f} (95 % interval {test.ci95[0]:+.4f} to "
                f"{test.ci95[1]:+.4f}; paired bootstrap, {test.bootstrap.resamples:,} resamples)"
            )
        return (
            f"difference {test.difference:+.4f} (95 % interval {test.ci95[0]:+.4f} to {test.ci95[1]:+.4f}), "
            f"z {test.z:.3f}, p {test.p_value:.4g} (DeLong, paired, two-sided)"
        )

    def save(self, config: EvaluateConfig) -> None:
        """Write comparison.json into ``config.out`` and the same into ``config.json_out``, where they are given."""
        if config.out:
            write_json(Path(config.out) / "comparison.json", self.to_dict())
        if config.json_out:
            write_json(Path(config.json_out), self.to_dict())

    def _repr_html_(self) -> str:
        table = table_html(("", "AUC"), self.rows(), caption=f"AUC on the same {len(self.a.labels)} slides")
        return f"{table}<p>{escape(self.in_words())}</p>"


def compare(config: EvaluateConfig, *, progress: ShowProgress = unseen) -> Comparison:
    """Compare the two that ``config.compare`` names: runs, score files, or columns of ``config.scores``.

    Raises:
        UsageError: there are no two, or a file is given without a column.
        MetricError: the two have other slides or other labels.
    """
    if config.compare is None:
        raise UsageError("a comparison needs two runs, score files or columns: --compare A B")
    a, b = (_read(config, name, progress) for name in config.compare)
    b = _in_order_of(a, b)
    test: DelongPaired | MacroPaired
    if a.shares is not None and b.shares is not None:
        test = macro_auc_paired(a.labels, a.shares, b.shares, resamples=config.bootstrap, seed=config.seed)
    else:
        test = delong_paired(a.labels, a.scores, b.scores)
    return Comparison(a=a, b=b, test=test)


def _read(config: EvaluateConfig, name: str, progress: ShowProgress) -> ScoredSlides:
    """A column of the given CSV, a CSV with its column, or a run."""
    if config.scores:
        return read_scored_slides(config, Path(config.scores), [name])
    file, _, column = name.partition(".csv:")
    if column:
        return read_scored_slides(config, Path(f"{file}.csv"), [column])
    path = Path(name)
    if path.suffix.lower() == ".csv":
        if not config.score_column:
            raise UsageError(f"{name}: say which column holds the scores, as {name}:COLUMN or --score-column")
        return read_scored_slides(config, path, config.score_column)
    from wsi_vmamba.evaluation.fold_scores import score  # only runs need torch

    # The test compares rankings; a threshold would cost a pass over the validation slides.
    return score(config.model_copy(update={"threshold": 0.5}), path, progress=progress).slides()


def _in_order_of(a: ScoredSlides, b: ScoredSlides) -> ScoredSlides:
    """``b`` with its slides in the order of ``a``.

    Raises:
        MetricError: the two have other classes, other slides or other labels.
    """
    if (a.shares is None) != (b.shares is None) or (a.shares is not None and a.classes != b.classes):
        told = [", ".join(one.classes) if one.classes else "two classes" for one in (a, b)]
        raise MetricError(
            f"{a.source} and {b.source} tell different classes apart: {told[0]}; and {told[1]}. Compare runs of the "
            "same classes in the same order"
        )
    places = {slide_id: place for place, slide_id in enumerate(b.slide_ids)}
    if set(places) != set(a.slide_ids):
        odd = sorted(set(places) ^ set(a.slide_ids))
        raise MetricError(
            f"a paired test needs the same slides; {len(odd)} are in only one of {a.source} and {b.source}: "
            f"{', '.join(odd[:5])}{_near(a, b)}"
        )
    order = np.array([places[slide_id] for slide_id in a.slide_ids])
    differing = np.flatnonzero(b.labels[order] != a.labels)
    if len(differing):
        named = ", ".join(a.slide_ids[index] for index in differing[:5])
        raise MetricError(
            f"{len(differing)} slides have another label in {b.source} than in {a.source}: {named}"
        )
    shares = None if b.shares is None else b.shares[order]
    return replace(
        b, slide_ids=a.slide_ids, labels=b.labels[order], scores=b.scores[order], shares=shares, groups=None
    )


def _near(a: ScoredSlides, b: ScoredSlides) -> str:
    """Which slides of one have another spelling in the other."""
    mine, theirs = set(a.slide_ids), set(b.slide_ids)
    near = near_names(sorted(mine - theirs), sorted(theirs - mine))
    return f"; {near}: write the names alike" if near else ""
