"""Curves of slide and lesion metrics: ROC, precision-recall, reliability and FROC, each as PNG with its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from wsi_vmamba.metrics.auc import average_precision, precision_recall_points, roc_auc, roc_points
from wsi_vmamba.metrics.base import Interval, check_binary, plain
from wsi_vmamba.metrics.bootstrap import DEFAULT_SEED, FEWEST, cumulative_counts, resample, smaller_class
from wsi_vmamba.metrics.calibration import DEFAULT_BINS, brier, ece, reliability_bins
from wsi_vmamba.metrics.classes import check_classes
from wsi_vmamba.metrics.delong import delong_interval
from wsi_vmamba.metrics.froc import RATES, FrocCurve, FrocResult
from wsi_vmamba.report.style import BLUE, GREY, ORANGE, PALE, FigureFiles, house_style, new_figure, save

_BAND_RESAMPLES = 1_000
_BAND_GRID = 101
#: Left end of the FROC's axis; the first rate of the score is 1/4.
_FROC_START = 1 / 8
#: Frames are drawn at 2.5; a curve that runs along one must not vanish under it.
_ABOVE_FRAME = 3
_NOTE = {"fontsize": 8, "fontweight": "normal"}

Floats = NDArray[np.float64]


def plot_roc(
    labels: ArrayLike,
    scores: ArrayLike,
    folder: Path,
    *,
    name: str = "roc",
    title: str = "ROC",
    seed: int = DEFAULT_SEED,
) -> FigureFiles:
    """Draw the ROC curve with DeLong's interval of the AUC and a pointwise 95 % bootstrap band.

    Where a class has a single slide there is neither interval nor band.

    Raises:
        MetricError: labels or scores are not usable.
    """
    label, score = check_binary(labels, scores)
    curve, value, interval = roc_points(label, score), roc_auc(label, score), None
    grid = low = high = np.empty(0)
    if smaller_class(label) >= FEWEST:
        interval = delong_interval(label, score)
        grid, low, high = _roc_band(label, score, seed=seed)
    n_positive, n_negative = int(label.sum()), int((1 - label).sum())
    with house_style():
        figure = new_figure(width_in=3.9, height_in=3.9)
        axes = _unit_square(figure, title=title, x="1 − specificity", y="Sensitivity")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        if interval:
            axes.fill_between(
                grid, low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % band, pointwise"
            )
        text = _with_interval(f"AUC {value:.3f}", interval.ci95 if interval else (np.nan, np.nan))
        axes.plot(curve.x, curve.y, color=BLUE, label=text, clip_on=False, zorder=_ABOVE_FRAME)
        axes.set_title(f"{n_positive} positive, {n_negative} negative slides", loc="right", **_NOTE)
        axes.legend(loc="lower right")
        data = {
            "auc": interval.to_dict() if interval else {"auc": value},
            "n_positive": n_positive, "n_negative": n_negative,
            "curve": {"false_positive_rate": curve.x, "true_positive_rate": curve.y, "threshold":
            curve.thresholds}, "band95": {"false_positive_rate": grid, "low": low, "high": high, "resamples":
            _BAND_RESAMPLES, "seed": seed},
        }  # fmt: skip
        return save(figure, plain(data), folder=folder, name=name)


def plot_roc_by_class(
    labels: ArrayLike,
    shares: ArrayLike,
    folder: Path,
    *,
    classes: Sequence[str],
    name: str = "roc",
    title: str = "ROC, each class against the rest",
) -> FigureFiles:
    """Draw the ROC curve of each of several classes against the rest.

    Raises:
        MetricError: labels or probabilities are not usable.
    """
    label, share = check_classes(labels, shares)
    with house_style():
        figure = new_figure(width_in=3.9, height_in=3.9)
        axes = _unit_square(figure, title=title, x="1 − specificity", y="Sensitivity")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        data = {}
        for number, each in enumerate(classes):
            curve = roc_points(label == number, share[:, number])
            value = roc_auc(label == number, share[:, number])
            text = f"{each}: AUC {value:.3f}"
            axes.plot(
                curve.x, curve.y, color=f"C{number % 10}", label=text, clip_on=False, zorder=_ABOVE_FRAME
            )
            data[each] = {
                "auc": value, "curve": {"false_positive_rate": curve.x, "true_positive_rate": curve.y, "threshold":
                curve.thresholds},
            }  # fmt: skip
        axes.legend(loc="lower right")
        return save(figure, plain(data), folder=folder, name=name)


def plot_precision_recall(
    labels: ArrayLike, scores: ArrayLike, folder: Path, *, name: str = "pr", title: str = "Precision–recall",
    seed: int = DEFAULT_SEED,
) -> FigureFiles:  # fmt: skip
    """Draw the precision-recall steps with the average precision and its bootstrap interval."""
    result = average_precision(labels, scores, resamples=_BAND_RESAMPLES, seed=seed)
    curve = precision_recall_points(labels, scores)
    prevalence = result.settings["prevalence"]
    with house_style():
        figure = new_figure(width_in=3.9, height_in=3.9)
        axes = _unit_square(figure, title=title, x="Recall", y="Precision")
        chance = f"chance {prevalence:.3f}"
        axes.axhline(prevalence, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label=chance)
        text = _with_interval(f"AP {result.value:.3f}", result.ci95)
        # Recall falls along the curve; a precision holds from the recall before up to its own.
        axes.step(
            curve.x[::-1],
            curve.y[::-1],
            where="pre",
            color=BLUE,
            label=text,
            clip_on=False,
            zorder=_ABOVE_FRAME,
        )
        axes.legend(loc="best")
        points = {"recall": curve.x, "precision": curve.y, "threshold": curve.thresholds}
        return save(
            figure, plain({"average_precision": result.to_dict(), "curve": points}), folder=folder, name=name
        )


def plot_reliability(
    labels: ArrayLike, scores: ArrayLike, folder: Path, *, name: str = "reliability", title: str =
        "Calibration",
    n_bins: int = DEFAULT_BINS, seed: int = DEFAULT_SEED,
) -> FigureFiles:  # fmt: skip
    """Draw the share of positives against the predicted probability, with Wilson intervals and a histogram.

    Raises:
        MetricError: labels or scores are not usable, or a score is no probability.
    """
    label, score = check_binary(labels, scores)
    bins = reliability_bins(label, score, n_bins=n_bins)
    error = ece(label, score, n_bins=n_bins, resamples=_BAND_RESAMPLES, seed=seed)
    squared = brier(label, score, resamples=_BAND_RESAMPLES, seed=seed)
    x, y = np.array([b.mean_probability for b in bins]), np.array([b.positive_share for b in bins])
    ends = np.array([b.positive_share_ci95 for b in bins])
    with house_style():
        figure = new_figure(width_in=3.9, height_in=4.9)
        top, bottom = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        _frame_unit(top, title=title, x="", y="Share of positive slides (95 % interval)")
        top.set_title(f"ECE {error.value:.3f}, Brier {squared.value:.3f}", loc="right", **_NOTE)
        top.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        bars = {"yerr": np.abs(ends.T - y), "elinewidth": 1.0, "capsize": 2}
        top.errorbar(x, y, fmt="o", color=BLUE, markersize=4.5, clip_on=False, zorder=_ABOVE_FRAME, **bars)
        _histogram(bottom, label, score, n_bins=n_bins)
        data = {"ece": error.to_dict(), "brier": squared.to_dict(), "bins": [one.to_dict() for one in bins]}
        return save(figure, plain(data), folder=folder, name=name)


def plot_froc(result: FrocResult, folder: Path, *, name: str = "froc", title: str = "FROC") -> FigureFiles:
    """Draw the organisers' FROC curve, the one without the script's quirks, and the six points of the score.

    Between and beyond the points of the curve the lines run as the score reads them: straight, then level.
    """
    with house_style():
        figure = new_figure(width_in=4.4, height_in=3.9)
        axes = figure.subplots()
        grid = np.geomspace(_FROC_START, RATES[-1], 400)
        for curve, score, ci95, colour, line, what in (
            (result.curve_without_quirks, result.value_without_quirks, result.ci95_without_quirks, ORANGE,
             (0, (4, 2)), "without quirks"),
            (result.curve, result.value, result.ci95, BLUE, "-", "as the organisers score"),
        ):  # fmt: skip
            text = _with_interval(f"{what}: {score:.3f}", ci95)
            axes.plot(grid, read_froc(curve, grid), color=colour, linestyle=line, label=text)
        axes.plot(
            RATES,
            result.curve.sensitivity_at_rates,
            "o",
            color=BLUE,
            markersize=4.5,
            clip_on=False,
            zorder=_ABOVE_FRAME,
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator([_FROC_START, *RATES]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlim=(_FROC_START, RATES[-1]), ylim=(0, 1.0), title=title,
                 xlabel="Mean false positives per slide", ylabel="Sensitivity (lesions)")  # fmt: skip
        axes.grid(visible=True)
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], texts[::-1], loc="best")
        axes.set_title(f"{result.n_lesions} lesions, {result.n_slides} slides", loc="right", **_NOTE)
        data = {key: value for key, value in result.to_dict().items() if key != "slides"}
        return save(figure, data, folder=folder, name=name)


def _roc_band(labels: NDArray[np.int64], scores: Floats, *, seed: int) -> tuple[Floats, Floats, Floats]:
    """False positive rates and the 2.5 and 97.5 % points of the sensitivity there, each of shape (grid,)."""
    grid = np.linspace(0, 1, _BAND_GRID)
    rows: list[Floats] = []
    for weights in resample(labels, resamples=_BAND_RESAMPLES, seed=seed):
        true, false = cumulative_counts(labels, scores, weights)
        start = np.zeros((len(true), 1))
        x = np.hstack([start, false / false[:, -1:]])
        y = np.hstack([start, true / true[:, -1:]])
        rows.extend(np.interp(grid, x_row, y_row) for x_row, y_row in zip(x, y, strict=True))
    low, high = np.percentile(np.array(rows), [2.5, 97.5], axis=0)
    return grid, low, high


def _with_interval(text: str, ci95: Interval) -> str:
    """A value with its interval, where it has one."""
    return text if np.isnan(ci95[0]) else f"{text} ({ci95[0]:.3f}–{ci95[1]:.3f})"


def read_froc(curve: FrocCurve, rates: Floats) -> Floats:
    """Sensitivity at rates of false positives, straight between the points of a curve and level beyond them."""
    read: Floats = np.interp(rates, curve.fps_per_slide[::-1], curve.sensitivity[::-1])
    return read


def _histogram(axes: Any, labels: NDArray[np.int64], scores: Floats, *, n_bins: int) -> None:
    """Slides per bin, the positive ones on top."""
    edges = np.linspace(0, 1, n_bins + 1)
    counts = [np.histogram(scores[labels == wanted], bins=edges)[0] for wanted in (0, 1)]
    middle, width = edges[:-1] + 0.5 / n_bins, 0.92 / n_bins
    axes.bar(middle, counts[0], width=width, color=PALE, label="negative")
    axes.bar(middle, counts[1], width=width, bottom=counts[0], color=ORANGE, label="positive")
    axes.set(xlabel="Predicted probability", ylabel="Slides")
    axes.legend(loc="upper center", ncols=2)
    axes.margins(y=0.45)


def _unit_square(figure: Any, *, title: str, x: str, y: str) -> Any:
    axes = figure.subplots()
    _frame_unit(axes, title=title, x=x, y=y)
    axes.set_aspect("equal")
    return axes


def _frame_unit(axes: Any, *, title: str, x: str, y: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=x, ylabel=y, title=title)
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.grid(visible=True)
