"""The confusion matrix at one threshold, or of several classes, as PNG with its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_vmamba.metrics.classes import Confusion
from wsi_vmamba.metrics.thresholds import ThresholdResult
from wsi_vmamba.report.style import FigureFiles, house_style, new_figure, save


def plot_class_confusion(
    result: Confusion,
    folder: Path,
    *,
    classes: Sequence[str],
    name: str = "confusion",
    title: str = "Confusion",
) -> FigureFiles:
    """Draw how many slides of each class were called what, with their share of the true class."""
    counts, n_classes = result.counts, len(classes)
    shares = counts / counts.sum(axis=1, keepdims=True)
    side = max(3.9, 1.2 + 0.75 * n_classes)
    with house_style():
        figure = new_figure(width_in=side, height_in=side)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.4)
        for row, column in np.ndindex(counts.shape):
            text = f"{counts[row, column]}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9)
        axes.set_xticks(range(n_classes), classes, rotation=45, ha="right")
        axes.set_yticks(range(n_classes), classes)
        axes.set_title(title)
        axes.set_xlabel("called (the most probable class)", fontsize=8)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return save(figure, {**result.to_dict(), "classes": list(classes)}, folder=folder, name=name)


def plot_confusion(
    result: ThresholdResult, folder: Path, *, source: str, name: str = "confusion", title: str = "Confusion"
) -> FigureFiles:
    """Draw the four counts with their share of the true class; ``source`` says where the threshold is from."""
    counts = np.array(
        [[result.true_negative, result.false_positive], [result.false_negative, result.true_positive]]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    with house_style():
        figure = new_figure(width_in=3.9, height_in=3.9)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.4)
        for row in range(2):
            for column in range(2):
                text = f"{counts[row, column]}\n{shares[row, column]:.1%}"
                axes.text(column, row, text, ha="center", va="center", fontsize=11)
        axes.set_xticks([0, 1], ["called negative", "called positive"])
        axes.set_yticks([0, 1], ["negative", "positive"], rotation=90, va="center")
        axes.set_title(title)
        axes.set_xlabel(f"called from a score of {result.threshold:.4g} on\n({source})", fontsize=8)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return save(figure, {**result.to_dict(), "threshold_source": source}, folder=folder, name=name)
