"""Runs side by side: AUC of each, and DeLong's test of the difference from the first."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_vmamba.evaluation.compare import Comparison
from wsi_vmamba.evaluation.scores import ScoredSlides
from wsi_vmamba.html_report.curves import roc_figure, with_interval
from wsi_vmamba.html_report.markup import Html, element, section, table
from wsi_vmamba.metrics.classes_paired import MacroPaired
from wsi_vmamba.metrics.delong import DelongPaired

_COLUMNS = ("run", "AUC", "95 % interval", "difference from the first", "95 % interval", "p")


def comparison_section(found: Sequence[Comparison], *, names: Sequence[str]) -> Html:
    """A table and the curves; empty where nothing is compared.

    Args:
        found: of each other run, its comparison with the first.
        names: of the first and of the others.
    """
    if not found:
        return Html()
    first = found[0].to_dict()["a"]
    rows = [(names[0], f"{first['auc']:.4f}", _ends(first["ci95"]), "", "", "")]
    slides: list[tuple[str, ScoredSlides]] = [(names[0], found[0].a)]
    said = [f"AUC {with_interval(first['auc'], tuple(first['ci95']), 3)}"]
    for name, one in zip(names[1:], found, strict=True):
        other, test = one.to_dict()["b"], one.test
        # The test is of the first minus the other; people read it the other way round.
        difference, ends = -test.difference, (-test.ci95[1], -test.ci95[0])
        rows.append((name, f"{other['auc']:.4f}", _ends(other["ci95"]), f"{difference:+.4f}",
                     f"{ends[0]:+.4f} to {ends[1]:+.4f}", _p_value(test)))  # fmt: skip
        slides.append((name, one.b))
        said.append(f"AUC {with_interval(other['auc'], tuple(other['ci95']), 3)}")
    several = isinstance(found[0].test, MacroPaired)
    how = "paired bootstrap, stratified by class" if several else "DeLong's test, paired, two-sided"
    caption = f"{'Macro AUC' if several else 'AUC'} on the same {len(found[0].a.labels)} slides; {how}"
    more = (
        "" if several or len(found) == 1 else " Several tests find a small p by chance more easily than one."
    )
    return section(
        "Runs side by side",
        table(_COLUMNS, rows, caption=caption + more),
        Html() if several else element("div", roc_figure(slides, said), class_="charts"),
    )


def _p_value(test: DelongPaired | MacroPaired) -> str:
    return "" if isinstance(test, MacroPaired) else f"{test.p_value:.4g}"


def _ends(ci95: Sequence[float]) -> str:
    return f"{ci95[0]:.4f}-{ci95[1]:.4f}"
