"""How a model does at each centre: the shift that a mean over all of them hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.metrics.auc import auc
from wsi_vmamba.metrics.base import Interval
from wsi_vmamba.metrics.classes import macro_auc


@dataclass(frozen=True, kw_only=True)
class SiteAuc:
    """The slides of one centre.

    Attributes:
        site: its name.
        n_slides: how many of it were judged.
        n_labels: how many slides of each label.
        value: ROC AUC, of several classes the macro AUC; None where a class has no slide there.
        ci95: by DeLong, of several classes by the bootstrap.
    """

    site: str
    n_slides: int
    n_labels: tuple[int, ...]
    value: float | None
    ci95: Interval

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {
            "site": self.site, "n_slides": self.n_slides, "n_labels": list(self.n_labels), "auc": self.value,
            "ci95": list(self.ci95),
        }  # fmt: skip


def auc_by_site(slides: ScoredSlides, *, resamples: int, seed: int) -> tuple[SiteAuc, ...]:
    """AUC of the slides of each centre, in the order of their names; none where there are not two centres."""
    names = sorted(set(slides.sites or ()))
    if len(names) < 2:
        return ()
    sites = np.array(slides.sites, dtype=object)
    return tuple(_of_site(slides, name, sites == name, resamples=resamples, seed=seed) for name in names)


def shift(found: tuple[SiteAuc, ...]) -> float | None:
    """Difference between the best and the worst centre; None where fewer than two have an AUC."""
    known = [one.value for one in found if one.value is not None]
    return max(known) - min(known) if len(known) > 1 else None


def _of_site(
    slides: ScoredSlides, name: str, here: NDArray[np.bool_], *, resamples: int, seed: int
) -> SiteAuc:
    n_classes = 2 if slides.classes is None else len(slides.classes)
    counts = np.bincount(slides.labels[here], minlength=n_classes)
    how = {"resamples": resamples, "seed": seed}
    value, ci95 = None, (float("nan"), float("nan"))
    if counts.all():
        labels = slides.labels[here]
        result = (
            auc(labels, slides.scores[here], **how)
            if slides.shares is None
            else macro_auc(labels, slides.shares[here], **how)
        )
        value, ci95 = result.value, result.ci95
    return SiteAuc(
        site=name or "unknown",
        n_slides=int(here.sum()),
        n_labels=tuple(counts.tolist()),
        value=value,
        ci95=ci95,
    )
