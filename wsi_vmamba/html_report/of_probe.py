"""The report of a probe: encoders side by side, as `results.json` has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_vmamba.config import ReportConfig
from wsi_vmamba.errors import StoreError
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.html_report.charts import Curve, chart, doubling_axis, interval_chart, unit_axis
from wsi_vmamba.html_report.markup import (
    Html,
    cards,
    details,
    element,
    facts,
    figure,
    join,
    listed,
    paragraph,
    section,
    shown_number,
    table,
    without_folders,
)
from wsi_vmamba.html_report.page import HtmlReport, page
from wsi_vmamba.html_report.probe_tiles import worst_tiles
from wsi_vmamba.html_report.provenance import provenance, read_json, record_of
from wsi_vmamba.probing.intervals import Estimate
from wsi_vmamba.probing.results import SCHEMA, in_words

Found = Mapping[str, Any]
_METRICS = {
    "auc": "AUC",
    "group_auc": "AUC within groups",
    "balanced_accuracy": "balanced accuracy",
    "neighbour_accuracy": "kNN accuracy",
}


def report_probe(folder: Path, config: ReportConfig, *, progress: ShowProgress) -> HtmlReport:
    """Write down what a probe found.

    Raises:
        StoreError: its results are damaged or of another version.
    """
    del progress
    found = read_json(folder / "results.json")
    if found.get("schema") != SCHEMA:
        raise StoreError(
            f"{folder / 'results.json'}: expected results of version {SCHEMA}, got {found.get('schema')!r}; "
            "make them anew with `wsi-vmamba probe`"
        )
    try:
        return _report(folder, found, config)
    except (KeyError, TypeError, IndexError) as error:
        raise StoreError(
            f"{folder / 'results.json'} is damaged ({type(error).__name__}: {error}); make it anew with "
            "`wsi-vmamba probe`"
        ) from error


def _report(folder: Path, found: Found, config: ReportConfig) -> HtmlReport:
    encoders = found["encoders"]
    lead = [
        paragraph(
            f"{found['tiles_judged']} labelled tiles of {found['groups']} groups judge {len(encoders)} encoders by a "
            "linear classifier on their frozen features.",
            mark="lead",
        ),
        cards(
            [
                (one["label"], in_words(_estimate(one, "auc")).split(" ")[0], _between(one))
                for one in encoders[:6]
            ]
        ),
    ]
    sections = [
        section("Encoders side by side", _table(found), _intervals(found), _differences(found)),
        section("Notes", listed(without_folders(note) for note in found["notes"])),
        section("Few tiles", _few_shot(encoders)),
        section("Does it know the slide", _leakage(encoders)),
        section(
            "Confusion",
            element("div", *(_confusion(one, found["classes"]) for one in encoders), class_="charts"),
        ),
        section("ROC of each class", _roc(encoders, found["classes"])),
        section(
            "Tiles it gets most wrong",
            worst_tiles(
                folder, found["settings"].get("tiles"), encoders[0]["label"], count=3 * config.examples
            ),
        ),
        section("Tiles", _tiles(found)),
        section("Cost", _cost(encoders)),
        section("What made it", _encoders(encoders), provenance("probe", record_of(folder, "probe"))),
    ]
    return page(kind="probe", title=folder.resolve().name, lead=lead, sections=sections)


def _estimate(one: Found, metric: str, part: str = "metrics") -> Estimate:
    return Estimate(**one[part][metric])


def _between(one: Found) -> str:
    words = in_words(_estimate(one, "auc"))
    return f"AUC {words.partition(' ')[2]}".strip()


def _table(found: Found) -> Html:
    rows = []
    for one in found["encoders"]:
        minus = in_words(_estimate(one, "auc", "minus_first"), signed=True) if one["minus_first"] else ""
        rows.append(
            (one["label"], in_words(_estimate(one, "auc")), minus,
             *(in_words(_estimate(one, name)) for name in _METRICS if name != "auc"),
             shown_number(one["leakage"]["robustness_index"], 3), one["width"])
        )  # fmt: skip
    columns = ("encoder", "AUC", "minus the first", *list(_METRICS.values())[1:], "robustness index", "width")
    return table(columns, rows, caption=f"In brackets: {found['interval']}, paired")


def _intervals(found: Found) -> Html:
    rows = [(one["label"], *_ends(_estimate(one, "auc"))) for one in found["encoders"]]
    says = "; ".join(f"{one['label']} {in_words(_estimate(one, 'auc'))}" for one in found["encoders"])
    return figure(interval_chart(rows, title="AUC", says=says, name="AUC"), "AUC with interval.", kind="wide")


def _differences(found: Found) -> Html:
    """What decides: paired differences, each with its interval."""
    others = found["encoders"][1:]
    if not others:
        return Html()
    first = found["encoders"][0]["label"]
    rows = [(one["label"], *_ends(_estimate(one, "auc", "minus_first"))) for one in others]
    says = "; ".join(
        f"{one['label']} {in_words(_estimate(one, 'auc', 'minus_first'), signed=True)}" for one in others
    )
    drawn = interval_chart(
        rows, title="Difference of AUC", says=says, name=f"AUC minus that of {first}", zero=0.0
    )
    return figure(
        drawn, "Difference from the first, on the same draws. A line that crosses zero: no difference shown.",
        kind="wide",
    )  # fmt: skip


def _ends(one: Estimate) -> tuple[float | None, float | None, float | None]:
    return one.value, one.low, one.high


def _few_shot(encoders: Sequence[Found]) -> Html:
    shots = [point["shots"] for point in encoders[0]["few_shot"]]
    if not shots:
        return paragraph("Not asked for; `probe --few-shot` does.")
    curves = [
        Curve(
            name=one["label"], colour=place % 6 + 1, dots=True,
            points=tuple((math.log2(p["shots"]), p["auc"]) for p in one["few_shot"]),
        )
        for place, one in enumerate(encoders)
    ]  # fmt: skip
    rows = [
        (one["label"], *(f"{p['auc']:.3f} ± {p['auc_sd']:.3f}" for p in one["few_shot"])) for one in encoders
    ]
    says = f"{len(encoders)} encoders at {shots[0]} to {shots[-1]} tiles of each class"
    drawn = chart(
        curves, title="AUC by tiles of each class", says=says, x=doubling_axis("Tiles of each class", shots),
        y=unit_axis("AUC"),
    )  # fmt: skip
    numbers = table(("encoder", *map(str, shots)), rows, caption="AUC by tiles of each class, ± over draws")
    return element("div", figure(drawn, f"AUC of a classifier that learns from few tiles: {says}.", numbers),
                   class_="charts")  # fmt: skip


def _leakage(encoders: Sequence[Found]) -> Html:
    words = paragraph(
        "Of which group and class the nearest other tile is. Where it is often of the same group, features know the "
        "slide. A robustness index above 0.5 says that tissue outweighs origin."
    )
    rows = [
        (one["label"], *(shown_number(one["leakage"][name], 3) for name in (
            "nearest_same_group", "chance_same_group", "nearest_same_class_other_group", "robustness_index",
            "site_robustness_index")))
        for one in encoders
    ]  # fmt: skip
    columns = (
        "encoder",
        "same group",
        "by chance",
        "same class, other group",
        "robustness index",
        "of sites",
    )
    k = encoders[0]["leakage"]["k"]
    return join([words, table(columns, rows, caption=f"Nearest tile, and {k} nearest for the index")])


def _confusion(one: Found, classes: Sequence[str]) -> Html:
    columns = ("truth", *(f"called {name}" for name in classes))
    found = one["confusion"]["linear"]
    rows = [(name, *counts) for name, counts in zip(classes, found, strict=True)]
    return table(columns, rows, caption=f"{one['label']}: tiles by class, linear probe")


def _roc(encoders: Sequence[Found], classes: Sequence[str]) -> Html:
    drawn = []
    for name in classes:
        curves = [Curve(name="", points=((0, 0), (1, 1)), colour=0, dashed=True)]
        rows = []
        for place, one in enumerate(encoders):
            points = one["roc"][name]
            pairs = tuple(zip(points["false"], points["true"], strict=True))
            value = shown_number(one["class_auc"][name], 3)
            curves.append(Curve(name=f"{one['label']} {value}", points=pairs, colour=place % 6 + 1))
            rows.append((one["label"], value))
        says = "; ".join(" ".join(row) for row in rows)
        picture = chart(
            curves,
            title=f"ROC of {name}",
            says=says,
            x=unit_axis("1 − specificity"),
            y=unit_axis("Sensitivity"),
        )
        numbers = details("Numbers", table(("encoder", "AUC"), rows, caption=f"{name} against all others"))
        drawn.append(figure(picture, f"{name} against all others.", numbers))
    return element("div", *drawn, class_="charts")


def _tiles(found: Found) -> Html:
    rows = list(found["tiles_by_class"].items())
    by_class = table(("class", "tiles"), rows, caption=f"{found['tiles']} tiles, {found['groups']} groups")
    folds = [(one["name"], one["learned"], one["judged"]) for one in found["folds"]]
    more = details("Folds", table(("fold", "learned from", "judged"), folds, caption=str(found["scheme"])))
    return join([paragraph(f"Folds: {found['scheme']}."), by_class, more])


def _cost(encoders: Sequence[Found]) -> Html:
    rows = [
        (one["label"], "" if one["parameters"] is None else f"{one['parameters']:,}", f"{one['cpu_ms_per_tile']:.1f}",
         f"{one['wall_ms_per_tile']:.1f}")
        for one in encoders
    ]  # fmt: skip
    return table(
        ("encoder", "parameters", "CPU-ms per tile", "ms per tile"), rows, caption="As measured by the probe"
    )


def _encoders(encoders: Sequence[Found]) -> Html:
    keys = ("spec", "name", "weights", "weights_hash", "precision", "device", "resize_px")
    parts = [
        facts({key: one.get(key) for key in keys}, caption=f"Encoder {one['label']}") for one in encoders
    ]
    return join(parts)
