"""The report of an extraction: which of the slides went wrong, how, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.config import ReportConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.extraction.summary import waiting_shares
from wsi_vmamba.html_report.extracted import Extracted, read_extraction
from wsi_vmamba.html_report.extraction_table import read_outcomes
from wsi_vmamba.html_report.markup import (
    Cell,
    Html,
    cards,
    element,
    facts,
    figure,
    join,
    paragraph,
    section,
    table,
)
from wsi_vmamba.html_report.page import HtmlReport, page
from wsi_vmamba.html_report.pictures import image, picture_file
from wsi_vmamba.html_report.provenance import provenance, record_of
from wsi_vmamba.html_report.suspicions import Cohort, Suspicion, suspicions_of

#: From this weight on a slide has no features that can be used; from the lower one somebody should look at it.
_LOST, _LOOK = 80, 30
#: Pictures in the page, and their long side by how many there are: the file stays small enough to be sent.
_MOST_PICTURES = 600
_SIDES_PX = ((60, 320), (200, 220), (_MOST_PICTURES, 140))

Judged = tuple[Extracted, list[Suspicion]]
_COLUMNS = (
    "slide", "suspicion", "what", "what to do", "outcome", "patches", "left out", "regions", "covered", "mpp",
    "distance", "seconds",
)  # fmt: skip


def report_features(folder: Path, config: ReportConfig, *, progress: ShowProgress) -> HtmlReport:
    """Look at every slide of an extraction, the most suspicious first.

    Raises:
        UsageError: there is no slide.
        StoreError: the table of outcomes is damaged.
    """
    del config
    slides = read_extraction(folder, progress=progress)
    if not slides:
        raise UsageError(f"{folder}: there is no slide in it; extract some first")
    cohort = Cohort.of(slides)
    judged = sorted(
        ((slide, suspicions_of(slide, cohort)) for slide in slides),
        key=lambda one: (-_weight(one), -sum(each.weight for each in one[1]), one[0].slide_id),
    )
    lost = [one for one in judged if _weight(one) >= _LOST]
    odd = [one for one in judged if _LOOK <= _weight(one) < _LOST]
    rows = [_row(one, cohort) for one in judged]
    caption = f"{len(judged)} slides, the most suspicious first"
    return page(
        kind="features", title=folder.resolve().name, lead=_lead(judged, lost, odd),
        sections=[
            section("Failures and what to do", _short(lost)),
            section("Look at these", _short(odd)),
            section("Tissue that was found", _pictures(judged)),
            section("All slides", table(_COLUMNS, rows, caption=caption, sortable=True)),
            section("How slides are judged", _explained(cohort)),
            section("Time and cost", _cost(folder, slides)),
            section("What made it", provenance("extract", record_of(folder, "extract"))),
        ],
    )  # fmt: skip


def _weight(one: Judged) -> int:
    return one[1][0].weight if one[1] else 0


def _lead(judged: Sequence[Judged], lost: Sequence[Judged], odd: Sequence[Judged]) -> list[Html]:
    fine = len(judged) - len(lost) - len(odd)
    names = ", ".join(slide.slide_id for slide, _ in lost[:5]) + (", …" if len(lost) > 5 else "")
    words = (
        f"{len(lost)} of {len(judged)} slides have no usable features ({names}); {len(odd)} more should be looked at."
        if lost
        else f"All {len(judged)} slides have features; {len(odd)} should be looked at."
        if odd
        else f"All {len(judged)} slides have features and none stands out."
    )
    shown = [
        ("Without usable features", str(len(lost)), "first in the table" if lost else ""),
        ("To look at", str(len(odd)), "next in the table" if odd else ""),
        ("Nothing odd", str(fine), f"of {len(judged)} slides"),
        ("Patches", f"{sum(slide.patches for slide, _ in judged):,}", ""),
    ]
    return [paragraph(words, mark="lead"), cards(shown)]


def _short(judged: Sequence[Judged]) -> Html:
    if not judged:
        return paragraph("None.", mark="good")
    rows = [
        (slide.slide_id, Cell(shown=one.what, mark="bad" if one.weight >= _LOST else "odd"), one.remedy)
        for slide, found in judged
        for one in found
        if one.weight >= _LOOK
    ]
    return table(
        ("slide", "what", "what to do"), rows, caption=f"{len(judged)} slides, the most suspicious first"
    )


def _row(one: Judged, cohort: Cohort) -> tuple[object, ...]:
    slide, found = one
    weight = _weight(one)
    distance = cohort.distances.get(slide.slide_id)
    mark = "bad" if weight >= _LOST else "odd" if weight >= _LOOK else ""
    return (
        slide.slide_id,
        Cell(shown=weight, mark=mark),
        Cell(shown="; ".join(each.what for each in found), mark="wide"),
        "; ".join(dict.fromkeys(each.remedy for each in found if each.remedy)),
        slide.outcome or "not recorded",
        slide.patches,
        slide.left_out or "",
        slide.regions,
        "" if slide.covered is None else f"{slide.covered:.1%}".replace("%", " %"),
        "" if slide.mpp is None else f"{slide.mpp:.4g}",
        "" if distance is None else f"{distance:.2f}",
        f"{slide.seconds:.1f}" if slide.seconds else "",
    )


def _pictures(judged: Sequence[Judged]) -> Html:
    """The previews that `extract` drew, in the order of the table."""
    shown = [one for one in judged if one[0].preview is not None][:_MOST_PICTURES]
    side_px = next(side for most, side in _SIDES_PX if len(shown) <= most)
    found = []
    for slide, suspicions in shown:
        pixels = None if slide.preview is None else picture_file(slide.preview, most_px=side_px)
        if pixels is None:
            continue
        words = f"{slide.slide_id}, {slide.patches} patches"
        marks = "; ".join(one.what for one in suspicions if one.weight >= _LOOK)
        alt = f"Tissue of {words}" + (f"; {marks}" if marks else "")
        note = element("span", marks, class_="bad" if suspicions and suspicions[0].weight >= _LOST else "odd")
        found.append(
            figure(image(pixels, alt=alt), join([words, ". " if marks else "", note]), kind="picture")
        )
    without = len(judged) - len(found)
    said = paragraph(f"{without} slides have no preview here.", mark="soft") if without else Html()
    return join([element("div", *found, class_="tiles"), said])


def _explained(cohort: Cohort) -> Html:
    words = [
        "The suspicion of a slide is that of the gravest thing found, 0 to 100; from 80 on there are no features to "
        "use, from 30 on somebody should look."
    ]
    if cohort.distances:
        words.append(
            "Distance: the root mean square, over the features, of how many standard deviations of the other slides "
            f"its mean feature lies from theirs. Usual is up to {cohort.limit:.2f}: the median and five robust "
            "standard deviations (median absolute deviation)."
        )
    else:
        words.append(
            "Distances between slides are not measured: it takes five slides with features that can be read."
        )
    words.append(
        "Covered: the share of the slide under patches. What is odd is not wrong; it is where to look first."
    )
    return join(paragraph(one) for one in words)


def _cost(folder: Path, slides: Sequence[Extracted]) -> Html:
    seconds = sorted(slide.seconds for slide in slides if slide.seconds and slide.patches)
    pairs: dict[str, object] = {
        "All slides": f"{sum(seconds):,.0f} s" if seconds else "not recorded",
        "Median slide": f"{seconds[len(seconds) // 2]:.1f} s" if seconds else "",
        "Slowest slide": f"{seconds[-1]:.1f} s" if seconds else "",
        "Waiting": waiting_shares(read_outcomes(folder)),
    }
    return facts(pairs, caption="As recorded by extract")
