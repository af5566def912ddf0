"""The report of predictions of slides without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.config import ReportConfig
from wsi_vmamba.errors import StoreError, UsageError
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.extraction.outcomes import DONE
from wsi_vmamba.html_report.markup import (
    Cell,
    Html,
    anchor,
    cards,
    element,
    join,
    paragraph,
    section,
    table,
    without_folders,
)
from wsi_vmamba.html_report.page import HtmlReport, page
from wsi_vmamba.html_report.pictures import SLIDE_PX, Seen, SlidePlaces, draw_slide, image, picture_file
from wsi_vmamba.html_report.provenance import provenance
from wsi_vmamba.prediction.folder import HEATMAPS, TABLE, patches_path, read_record
from wsi_vmamba.prediction.heatmaps.layers import layer_of
from wsi_vmamba.prediction.likeness import NOT_CHECKED
from wsi_vmamba.prediction.slide_prediction import read_prediction
from wsi_vmamba.slide.location import place_of
from wsi_vmamba.table import Row, read_table

_COLUMNS = (
    "slide", "probability", "decision", "spread", "unlike the training slides", "patches", "mpp", "outcome", "note",
)  # fmt: skip


def report_predictions(folder: Path, config: ReportConfig, *, progress: ShowProgress) -> HtmlReport:
    """Write down what was predicted, and show the slides with the highest probabilities.

    Raises:
        StoreError: the table or the record is damaged.
    """
    record = read_record(folder)
    rows = _read(folder)
    done = sorted(
        (row for row in rows if _is_done(row)), key=lambda row: (-_number(row, "probability"), _name(row))
    )
    failed = [row for row in rows if not _is_done(row)]
    odd = [row for row in done if row.get("unlike") not in ("", NOT_CHECKED)]
    decisions = Counter(row.get("decision") for row in done)
    threshold, names = record.get("threshold"), record.get("classes", ["negative", "positive"])[::-1]
    from_ = f"from {threshold:.4g} on" if isinstance(threshold, float) else ""
    lead = [
        paragraph(f"{len(done)} of {len(rows)} slides have a prediction; none of them needs a label.", mark="lead"),
        cards(
            [
                *(
                    (_title(name), str(decisions[name]), "" if place else from_)
                    for place, name in enumerate(names)
                ),
                ("Unlike the training slides", str(len(odd)), "judge these with care"),
                ("Failed", str(len(failed)), "see below" if failed else ""),
            ]
        ),
    ]  # fmt: skip
    places = SlidePlaces(Path(config.slides) if config.slides else None)
    sections = [
        section("Failures and what to do", _failures(failed)),
        section("Unlike the training slides", _unlike(odd)),
        section("All slides", table(_COLUMNS, [_row(row) for row in [*done, *failed]], caption=_caption(rows),
                                    sortable=True)),
        _top(folder, done[: 3 * config.examples], places, progress),
        section("Threshold", _threshold(record.get("threshold"), record.get("threshold_source"))),
        section("What made it", provenance("predict", record)),
    ]  # fmt: skip
    return page(kind="predictions", title=folder.resolve().name, lead=lead, sections=sections)


def _title(name: str) -> str:
    """The name of a class as the head of a card; only those of labels 0 and 1 are words of ours."""
    return name.capitalize() if name in ("positive", "negative") else name


def _read(folder: Path) -> list[Row]:
    path = folder / TABLE
    if not path.is_file():
        raise StoreError(f"{path} is not there: no slide was predicted yet; run the same `predict` again")
    read = read_table(path, expects=("slide_id", "probability", "outcome"), error=StoreError)
    read.require(("slide_id", "probability", "decision", "outcome"))
    return list(read.rows)


def _is_done(row: Row) -> bool:
    return row["outcome"] == DONE


def _name(row: Row) -> str:
    return row["slide_id"]


def _number(row: Row, column: str) -> float:
    try:
        return float(row[column])
    except ValueError as error:
        raise StoreError(
            f"{row.where}: {column} is {row[column]!r}, expected a number; predict again"
        ) from error


def _caption(rows: Sequence[Row]) -> str:
    several = any(row.get("probability_sd") for row in rows)
    words = f"{len(rows)} slides, highest probability first"
    return (
        f"{words}; spread: standard deviation over the models of the cross-validation" if several else words
    )


def _row(row: Row) -> tuple[object, ...]:
    done = _is_done(row)
    unlike, notes = row.get("unlike"), filter(None, [row.get("unlike_why"), row.get("detail")])
    return (
        row["slide_id"],
        f"{_number(row, 'probability'):.4f}" if done else "",
        row["decision"],
        f"{_number(row, 'probability_sd'):.4f}" if row.get("probability_sd") else "",
        Cell(shown=unlike, mark="odd" if unlike not in ("", NOT_CHECKED) else ""),
        row.get("patches"),
        f"{_number(row, 'mpp'):.4g}" if row.get("mpp") else "",
        Cell(shown=row["outcome"], mark="" if done else "bad"),
        Cell(shown=without_folders("; ".join(notes)), mark="wide"),
    )


def _failures(failed: Sequence[Row]) -> Html:
    if not failed:
        return paragraph("None.", mark="good")
    rows = [
        (row["slide_id"], row["outcome"], without_folders(row.get("detail")), row.get("remedy"))
        for row in failed
    ]
    return table(("slide", "outcome", "cause", "what to do"), rows, caption="Slides without a prediction")


def _unlike(odd: Sequence[Row]) -> Html:
    if not odd:
        return Html()
    words = paragraph(
        "A model says nothing sensible of what it never saw. Of slides that are like the training slides about one in "
        "a hundred is flagged; look at these before their decision is used."
    )
    rows = [
        (
            row["slide_id"],
            row["unlike"],
            row.get("unlike_why"),
            row.get("feature_distance"),
            row.get("feature_limit"),
        )
        for row in odd
    ]
    columns = ("slide", "what", "why", "distance", "limit")
    return join([words, table(columns, [_short(row) for row in rows], caption=f"{len(rows)} slides")])


def _short(row: Sequence[str]) -> tuple[str, ...]:
    return (*row[:3], *(f"{float(cell):.3f}" if cell else "" for cell in row[3:]))


def _threshold(value: object, source: object) -> Html:
    if not isinstance(value, float):
        return Html()
    return paragraph(
        f"A slide is called positive from a probability of {value:.4g} on. The threshold is: {source}."
    )


def _top(folder: Path, rows: Sequence[Row], places: SlidePlaces, progress: ShowProgress) -> Html:
    parts = []
    with progress("pictures", len(rows)) as task:
        for row in rows:
            name = row["slide_id"]
            words = f"Probability {_number(row, 'probability'):.4f}, {row['decision']}"
            head = element("h4", name, id=f"slide-{anchor(name)}")
            shown = _shown(folder, name, places)
            parts.append(
                element(
                    "article",
                    head,
                    paragraph(words),
                    shown,
                    class_="slide",
                    aria_labelledby=f"slide-{anchor(name)}",
                )
            )
            task.step(name)
    return section("Slides with the highest probabilities", *parts)


def _shown(folder: Path, name: str, places: SlidePlaces) -> Html:
    path = patches_path(folder, name)
    if not path.is_file():
        return paragraph("The values of its patches are not there any more.", mark="soft")
    found = read_prediction(path)
    place = places.find(name, place_of(found.slide_path))
    drawn = picture_file(folder / HEATMAPS / f"{name}.png", most_px=2 * SLIDE_PX) if place is None else None
    if drawn is not None:
        alt = f"{name}: the slide and its heatmap, as predict drew them; probability {found.probability:.4f}"
        return join(
            [
                image(drawn, alt=alt),
                paragraph("As `predict` drew it; the slide is no longer there.", mark="soft"),
            ]
        )
    try:
        values = layer_of(found, None)[1]
    except UsageError:  # the aggregator says nothing of patches
        values = None
    size = None
    if found.width_l0 is not None and found.height_l0 is not None:
        size = (found.width_l0, found.height_l0)
    return draw_slide(
        Seen(slide_id=name, place=place, scene=found.scene, mpp=found.mpp, size_l0=size, patches=values)
    )
