"""The figures of the analyses, in the house style, as PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_vmamba.analysis.directions_of_scan import SCANS, name_of
from wsi_vmamba.analysis.turns import TURNS
from wsi_vmamba.report.style import BLUE, GREY, ORANGE, PALE, house_style, new_figure, png_bytes

if TYPE_CHECKING:
    from wsi_vmamba.analysis.activation import Activation
    from wsi_vmamba.analysis.directions import Directions
    from wsi_vmamba.analysis.erf import Erf
    from wsi_vmamba.analysis.scan_order import ScanOrder

_MAP = "viridis"
#: Pixels along a side of a map in a figure; a larger one is averaged over blocks.
_MOST_PX = 512
#: Decades of a map that are shown.
_DECADES = 4
_LINES = ("-", (0, (5, 2)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7")


def draw_erf(found: Erf) -> bytes:
    """A map of each size on a logarithmic scale, and the share of the gradient by distance."""
    from wsi_vmamba.analysis.erf import profile

    with house_style():
        figure = new_figure(width_in=3.1 * (len(found.regions) + 1), height_in=3.2)
        axes = np.atleast_1d(figure.subplots(1, len(found.regions) + 1))
        for place, (panel, one) in enumerate(zip(axes[:-1], found.regions, strict=True)):
            _log_map(figure, panel, _averaged(one.density), extent_px=one.side_px, title=f"{one.side_px} px")
            rows = np.array(profile(one))
            axes[-1].plot(
                rows[:, 0], rows[:, 2], color=_COLOURS[place % 4], linestyle=_LINES[place // 4 % 4],
                label=f"{one.side_px} px",
            )  # fmt: skip
        axes[-1].set(xlabel="Distance from the token (px)", ylabel="Share of the gradient", ylim=(0, 1),
                     title="Within a distance")  # fmt: skip
        axes[-1].grid(visible=True)
        axes[-1].legend(loc="lower right")
        return png_bytes(figure)


def draw_activation(found: Activation) -> bytes:
    """The square with the token marked, and the response of each scan and of all four."""
    from wsi_vmamba.analysis.activation import OF

    side = found.window.pixels.shape[0]
    with house_style():
        figure = new_figure(width_in=9.0, height_in=6.0)
        axes = figure.subplots(2, 3).ravel()
        axes[0].imshow(found.window.pixels, extent=(0, side, side, 0))
        axes[0].set_title(found.window.name, fontsize=7)
        top = found.response.max()
        for panel, name, values in zip(axes[1:], OF, found.response, strict=True):
            _log_map(figure, panel, _averaged(values), extent_px=side, title=name, top=top)
        row, column = found.token
        for panel in axes:
            x, y = (column + 0.5) * found.pixels_per_token, (row + 0.5) * found.pixels_per_token
            panel.plot([x], [y], marker="+", markersize=9, markeredgewidth=1.4, color=ORANGE)
            panel.set(xlim=(0, side), ylim=(side, 0))
        figure.suptitle(f"Mean absolute weight of each token in the marked one, {found.block}", fontsize=9)
        return png_bytes(figure)


def draw_directions(found: Directions) -> bytes:
    """How far tokens move without some scans, and what the AUC of a probe loses."""
    shown = found.changes[1:]
    places = np.arange(len(shown))[::-1]
    with house_style():
        figure = new_figure(width_in=8.0 if found.judged else 5.0, height_in=3.6)
        axes = np.atleast_1d(figure.subplots(1, 2 if found.judged else 1, sharey=True))
        axes[0].barh(places, [1 - one.token_cosine.mean() for one in shown], color=BLUE)
        axes[0].set_yticks(places, [name_of(one.removed) for one in shown])
        axes[0].set_xscale("log")
        axes[0].set(xlabel="1 - cosine with the whole (tokens)", title="Features without scans")
        if found.judged:
            _differences(axes[1], found.judged.comparisons[1:], places)
        return png_bytes(figure)


def _differences(panel: Any, comparisons: Any, places: Any) -> None:
    for place, one in zip(places, comparisons, strict=True):
        estimate = one.differences["auc"]
        if estimate.value is None:
            continue
        if estimate.low is not None and estimate.high is not None:
            panel.plot([estimate.low, estimate.high], [place, place], color=GREY, linewidth=1.2)
        panel.plot(
            [estimate.value], [place], "o", color=ORANGE if estimate.excludes_zero else BLUE, markersize=4
        )
    panel.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    panel.set(xlabel="AUC minus that of the whole (95 %, paired)", title="Linear probe")


def draw_scan_order(found: ScanOrder) -> bytes:
    """Unlikeness by the difference of angles, each scan's answers by angle, and the cosines of the turns."""
    with house_style():
        figure = new_figure(width_in=10.0, height_in=3.4)
        first, second, third = figure.subplots(1, 3)
        steps = len(found.angles_deg)
        apart = np.arange(steps // 2 + 1)
        for place, (wavelength, matrix) in enumerate(
            zip(found.wavelengths_px, found.unlikeness, strict=True)
        ):
            by_step = [np.mean([matrix[a, (a + step) % steps] for a in range(steps)]) for step in apart]
            first.plot(
                apart * 180 / steps, by_step, color=_COLOURS[place % 4], linestyle=_LINES[place // 4 % 4],
                label=f"{wavelength:g} px",
            )  # fmt: skip
        first.set(xlabel="Difference of angle (°); 0: two shifts", ylabel="1 - cosine", title="Gratings")
        first.legend(loc="best")
        shares = found.answers / found.answers.mean(axis=(1, 3), keepdims=True)
        for place, (name, values) in enumerate(zip(SCANS, shares.mean(axis=(0, 2)).T, strict=True)):
            second.plot(found.angles_deg, values, color=_COLOURS[place], linestyle=_LINES[place], label=name)
        second.set(xlabel="Angle of the stripes (°)", ylabel="Answer over the block's mean", title="Scans")
        second.legend(loc="best")
        names = list(TURNS)[1:]
        places = np.arange(len(names))[::-1]
        third.barh(places, 1 - found.token_cosine[1:].mean(axis=1), color=BLUE, label="tokens")
        third.barh(places, 1 - found.mean_cosine[1:].mean(axis=1), height=0.4, color=PALE, label="mean")
        third.set_yticks(places, names)
        third.set(xlabel="1 - cosine", title="Turned squares")
        third.legend(loc="best")
        return png_bytes(figure)


def _log_map(
    figure: Any, panel: Any, values: Any, *, extent_px: int, title: str, top: float | None = None
) -> None:
    from matplotlib.colors import LogNorm

    largest = float(values.max()) if top is None else top
    largest = largest if largest > 0 else 1.0
    shown = np.maximum(values, largest * 10.0**-_DECADES)
    drawn = panel.imshow(
        shown, extent=(0, extent_px, extent_px, 0), cmap=_MAP, norm=LogNorm(largest * 10.0**-_DECADES, largest),
        interpolation="nearest",
    )  # fmt: skip
    panel.set_title(title)
    figure.colorbar(drawn, ax=panel, shrink=0.8)


def _averaged(values: Any) -> Any:
    """A map small enough for a figure."""
    factor = -(-max(values.shape) // _MOST_PX)
    if factor == 1:
        return values
    height, width = (side // factor * factor for side in values.shape)
    return (
        values[:height, :width].reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))
    )
