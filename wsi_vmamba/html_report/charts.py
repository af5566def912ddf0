"""Small charts as inline SVG: colours come from the page's style, so that they follow light, dark and paper.

A curve stands in the units of its axes, ``points="0,0 0.125,1"``, under a transform that brings it to the picture, so
that the numbers in the file are the numbers of the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from wsi_vmamba.html_report.markup import Html, element

#: Pixels of the picture, and of the room around the axes.
WIDTH, HEIGHT = 380, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 46
#: Colours that the style knows.
COLOURS = 6


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        name: what it shows.
        low: where it begins.
        high: where it ends.
        ticks: (place, text), in its units.
    """

    name: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line through points, in the units of the axes.

    Attributes:
        name: in the legend; empty for none.
        points: (x, y).
        colour: 1 to `COLOURS`, or 0 for grey.
        dashed: whether it is.
        dots: whether each point is marked.
        line: whether they are joined.
        bars: of each point, both ends of its interval.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 1
    dashed: bool = False
    dots: bool = False
    line: bool = True
    bars: tuple[tuple[float, float], ...] = field(default=())


def unit_axis(name: str) -> Axis:
    """From 0 to 1."""
    return Axis(name=name, low=0.0, high=1.0, ticks=tuple((n / 5, f"{n / 5:g}") for n in range(6)))


def count_axis(name: str, high: float) -> Axis:
    """From 0 to a number, with round ticks."""
    return span_axis(name, 0.0, high)


def span_axis(name: str, low: float, high: float) -> Axis:
    """From one number to another, with round ticks."""
    if not high > low:
        high = low + 1.0
    step = _round_step((high - low) / 4)
    first = math.ceil(low / step - 1e-9)
    places = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(name=name, low=low, high=high, ticks=tuple((place, f"{place:.6g}") for place in places))


def doubling_axis(name: str, values: Sequence[float]) -> Axis:
    """The logarithm to base 2 of numbers, with a tick at each; curves along it are drawn at their logarithms."""
    places = [(math.log2(value), f"{value:g}") for value in values]
    low, high = places[0][0], places[-1][0]
    return Axis(name=name, low=low, high=high if high > low else low + 1, ticks=tuple(places))


def chart(
    curves: Sequence[Curve], *, title: str, says: str, x: Axis, y: Axis, marks: Sequence[float] = ()
) -> Html:
    """A chart of curves.

    Args:
        curves: the first is drawn first.
        title: for screen readers.
        says: what it shows, with numbers, in place of the picture.
        x: axis to the right.
        y: axis upwards.
        marks: places on the x axis at which a line stands.
    """
    frame = _Frame(x=x, y=y)
    drawn = [*_grid(frame), *(_mark(frame, place) for place in marks)]
    for curve in curves:
        drawn += _draw(frame, curve)
    return _svg(
        [*drawn, *_legend([one for one in curves if one.name])], title=title, says=says, height=HEIGHT
    )


def confusion_chart(*, tp: int, fp: int, tn: int, fn: int) -> Html:
    """Truth in rows, calls in columns; the darker a cell, the more of its row it holds."""
    cells = []
    for row, (label, counts) in enumerate((("negative", (tn, fp)), ("positive", (fn, tp)))):
        for column, count in enumerate(counts):
            share = count / max(sum(counts), 1)
            x, y = 110 + 110 * column, 40 + 90 * row
            right = row == column
            cells += [
                element("rect", x=x, y=y, width=106, height=86, rx=4, class_="fill-1" if right else "fill-2",
                        fill_opacity=f"{0.12 + 0.6 * share:.3f}"),
                element("text", count, x=x + 53, y=y + 44, class_="big", text_anchor="middle"),
                element("text", f"{share:.0%} of {label}", x=x + 53, y=y + 66, text_anchor="middle"),
            ]  # fmt: skip
        cells.append(element("text", f"{label}", x=102, y=40 + 90 * row + 48, text_anchor="end"))
    heads = [
        element("text", f"called {name}", x=163 + 110 * column, y=28, text_anchor="middle")
        for column, name in enumerate(("negative", "positive"))
    ]
    says = f"{tp} positive slides called positive, {fn} not; {tn} negative slides not called, {fp} called positive"
    return _svg([*heads, *cells], title="Confusion matrix", says=says, height=226, width=338)


def interval_chart(
    rows: Sequence[tuple[str, float | None, float | None, float | None]], *, title: str, says: str, name: str,
    zero: float | None = None,
) -> Html:  # fmt: skip
    """One line a row: a value as a dot, its interval as a line. (name, value, low, high)."""
    numbers = [n for _, *three in rows for n in three if n is not None] + ([] if zero is None else [zero])
    if not numbers:
        return Html()
    pad = 0.06 * ((max(numbers) - min(numbers)) or 0.1)
    axis = span_axis(name, min(numbers) - pad, max(numbers) + pad)
    left, right, line_px = 196, 600, 26
    height = line_px * len(rows) + 56

    def at(value: float) -> str:
        return _px(left + (value - axis.low) / (axis.high - axis.low) * (right - left))

    bottom = line_px * len(rows) + 8
    drawn = [
        element("line", x1=at(place), x2=at(place), y1=4, y2=bottom, class_="grid") for place, _ in axis.ticks
    ]
    drawn += [
        element("text", text, x=at(place), y=bottom + 16, text_anchor="middle") for place, text in axis.ticks
    ]
    if zero is not None:
        drawn.append(element("line", x1=at(zero), x2=at(zero), y1=4, y2=bottom, class_="axis"))
    drawn.append(element("text", name, x=(left + right) / 2, y=bottom + 36, text_anchor="middle"))
    for place, (label, value, low, high) in enumerate(rows):
        y = line_px * place + 20
        drawn.append(element("text", _short(label, 26), x=left - 10, y=y + 4, text_anchor="end"))
        if low is not None and high is not None:
            drawn.append(element("line", x1=at(low), x2=at(high), y1=y, y2=y, class_="stroke-1 thick"))
        if value is not None:
            drawn.append(element("circle", cx=at(value), cy=y, r=5, class_="fill-1"))
    return _svg(drawn, title=title, says=says, height=height, width=620)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    x: Axis
    y: Axis

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels per unit of each axis."""
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return wide / (self.x.high - self.x.low), tall / (self.y.high - self.y.low)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across, up = self.scale
        return LEFT + (x - self.x.low) * across, HEIGHT - BOTTOM - (y - self.y.low) * up

    @property
    def transform(self) -> str:
        """From the units of the axes to pixels."""
        across, up = self.scale
        x0, y0 = self.at(0.0, 0.0)
        return f"matrix({across:.6f} 0 0 {-up:.6f} {x0:.4f} {y0:.4f})"


def _draw(frame: _Frame, curve: Curve) -> list[Html]:
    drawn = []
    stroke = f"stroke-{curve.colour}" + (" dashed" if curve.dashed else "")
    if curve.line and len(curve.points) > 1:
        points = " ".join(f"{_unit(x)},{_unit(y)}" for x, y in curve.points)
        line = element("polyline", points=points, class_=f"curve {stroke}")
        drawn.append(element("g", line, transform=frame.transform))
    for (x, _), (low, high) in zip(curve.points, curve.bars, strict=False):
        (x1, y1), (_, y2) = frame.at(x, low), frame.at(x, high)
        drawn.append(
            element("line", x1=_px(x1), x2=_px(x1), y1=_px(y1), y2=_px(y2), class_=f"{stroke} thick")
        )
    if curve.dots:
        for x, y in curve.points:
            cx, cy = frame.at(x, y)
            drawn.append(element("circle", cx=_px(cx), cy=_px(cy), r=4, class_=f"fill-{curve.colour}"))
    return drawn


def _grid(frame: _Frame) -> list[Html]:
    (x0, y0), (x1, y1) = frame.at(frame.x.low, frame.y.low), frame.at(frame.x.high, frame.y.high)
    drawn = []
    for place, text in frame.x.ticks:
        at = _px(frame.at(place, 0)[0])
        drawn.append(element("line", x1=at, x2=at, y1=_px(y0), y2=_px(y1), class_="grid"))
        drawn.append(element("text", text, x=at, y=_px(y0 + 16), text_anchor="middle"))
    for place, text in frame.y.ticks:
        y = frame.at(0, place)[1]
        drawn.append(element("line", x1=_px(x0), x2=_px(x1), y1=_px(y), y2=_px(y), class_="grid"))
        drawn.append(element("text", text, x=_px(x0 - 7), y=_px(y + 4), text_anchor="end"))
    corner = " ".join(f"{_px(x)},{_px(y)}" for x, y in ((x0, y1), (x0, y0), (x1, y0)))
    drawn.append(element("polyline", points=corner, class_="axis"))
    drawn.append(element("text", frame.x.name, x=_px((x0 + x1) / 2), y=_px(y0 + 36), text_anchor="middle"))
    middle = f"rotate(-90 14 {_px((y0 + y1) / 2)})"
    drawn.append(
        element("text", frame.y.name, x=14, y=_px((y0 + y1) / 2), text_anchor="middle", transform=middle)
    )
    return drawn


def _mark(frame: _Frame, place: float) -> Html:
    x, low = frame.at(place, frame.y.low)
    return element("line", x1=_px(x), x2=_px(x), y1=_px(low), y2=TOP, class_="mark")


def _legend(curves: Sequence[Curve]) -> list[Html]:
    drawn = []
    for place, curve in enumerate(curves):
        y = HEIGHT - BOTTOM - 14 - 18 * (len(curves) - 1 - place)
        stroke = f"stroke-{curve.colour} thick" + (" dashed" if curve.dashed else "")
        drawn.append(element("line", x1=WIDTH - RIGHT - 34, x2=WIDTH - RIGHT - 8, y1=y, y2=y, class_=stroke))
        drawn.append(element("text", _short(curve.name, 44), x=WIDTH - RIGHT - 40, y=y + 4, text_anchor="end",
                             class_="legend"))  # fmt: skip
    return drawn


def _svg(drawn: Sequence[Html], *, title: str, says: str, height: float, width: float = WIDTH) -> Html:
    return element(
        "svg", element("title", title), element("desc", says), *drawn, viewBox=f"0 0 {_px(width)} {_px(height)}",
        role="img", aria_label=f"{title}: {says}",
    )  # fmt: skip


def steps(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Points with the corners of a staircase between them: a height holds from the x before up to its own."""
    found = list(points[:1])
    for (x0, _), (x1, y1) in pairwise(points):
        found += [(x0, y1), (x1, y1)]
    return tuple(found)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))


def _unit(value: float) -> str:
    return f"{value:.6g}"


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
