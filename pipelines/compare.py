"""Whether two methods scored on the same slides differ in AUC: DeLong's paired test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_vmamba import console
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.errors import MetricError, UsageError
from wsi_vmamba.metrics.delong import delong_interval, delong_paired
from wsi_vmamba.pipelines.results import write_json
from wsi_vmamba.pipelines.scoring import ScoredSlides, read_scored_slides
from wsi_vmamba.slide.same_name import near_names


def run(config: EvaluateConfig) -> int:
    """Print and write both AUCs, their difference and its p-value; return 0."""
    if config.compare is None:
        raise UsageError("a comparison needs two runs, score files or columns: --compare A B")
    a, b = (_read(config, name) for name in config.compare)
    b = _in_order_of(a, b)
    found = delong_paired(a.labels, a.scores, b.scores)
    content: dict[str, Any] = {
        "metric": "auc",
        "test": "DeLong, paired, two-sided",
        **found.to_dict(),
        "n_slides": len(a.labels),
        "a": {"source": a.source, **delong_interval(a.labels, a.scores).to_dict()},
        "b": {"source": b.source, **delong_interval(b.labels, b.scores).to_dict()},
    }
    console.print_table(
        f"AUC on the same {len(a.labels)} slides", ("", "AUC"),
        [(a.source, f"{found.auc_a:.4f}"), (b.source, f"{found.auc_b:.4f}")],
    )  # fmt: skip
    console.say(
        f"difference {found.difference:+.4f} (95 % interval {found.ci95[0]:+.4f} to {found.ci95[1]:+.4f}), "
        f"z {found.z:.3f}, p {found.p_value:.4g} (DeLong, paired, two-sided)"
    )
    if config.out:
        write_json(Path(config.out) / "comparison.json", content)
    if config.json_out:
        write_json(Path(config.json_out), content)
    return 0


def _read(config: EvaluateConfig, name: str) -> ScoredSlides:
    """A column of the given CSV, a CSV with its column, or a run."""
    if config.scores:
        return read_scored_slides(config, Path(config.scores), name)
    file, _, column = name.partition(".csv:")
    if column:
        return read_scored_slides(config, Path(f"{file}.csv"), column)
    path = Path(name)
    if path.suffix.lower() == ".csv":
        if not config.score_column:
            raise UsageError(f"{name}: say which column holds the scores, as {name}:COLUMN or --score-column")
        return read_scored_slides(config, path, config.score_column)
    from wsi_vmamba.pipelines.scoring_folds import score  # only runs need torch

    # The test compares rankings; a threshold would cost a pass over the validation slides.
    scored: ScoredSlides = score(config.model_copy(update={"threshold": 0.5}), path).slides()
    return scored


def _in_order_of(a: ScoredSlides, b: ScoredSlides) -> ScoredSlides:
    """``b`` with its slides in the order of ``a``.

    Raises:
        MetricError: the two have other slides or other labels.
    """
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
    return replace(b, slide_ids=a.slide_ids, labels=b.labels[order], scores=b.scores[order], groups=None)


def _near(a: ScoredSlides, b: ScoredSlides) -> str:
    """Which slides of one have another spelling in the other."""
    mine, theirs = set(a.slide_ids), set(b.slide_ids)
    near = near_names(sorted(mine - theirs), sorted(theirs - mine))
    return f"; {near}: write the names alike" if near else ""
