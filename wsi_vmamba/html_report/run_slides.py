"""Single slides of a run: the worst, the most uncertain and the best, as pictures; all of them in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_vmamba.bags import load_bag
from wsi_vmamba.datasets import FEATURE_TABLES
from wsi_vmamba.evaluation.run_scores import Scored, ScoredRun
from wsi_vmamba.evaluation.watch import ShowProgress
from wsi_vmamba.html_report.markup import Cell, Html, anchor, element, paragraph, section, table
from wsi_vmamba.html_report.pictures import Seen, SlidePlaces, draw_slide
from wsi_vmamba.report.heatmap import PatchValues, attention_patches, probability_patches
from wsi_vmamba.slide.location import place_of
from wsi_vmamba.store import open_features

#: Where a slide is most uncertain if no threshold was chosen.
_MIDDLE = 0.5


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some slides that have something in common."""

    title: str
    words: str
    slides: tuple[Scored, ...]


def pick(run: ScoredRun, *, examples: int) -> list[Group]:
    """The slides that are worth looking at; each is in one group.

    Args:
        run: what was judged.
        examples: how many of each group; never more than a third of the slides, rounded up.
    """
    threshold = run.threshold.value if run.threshold else _MIDDLE
    nearest = f"Nearest to {threshold:.4g}, {'the threshold' if run.threshold else 'the middle'}."
    several = any(item.prediction.shares is not None for item in run.scored)
    most = min(examples, -(-len(run.scored) // 3))
    wanted: tuple[tuple[str, str, Callable[[Scored], float]], ...] = (
        ("Worst", "Furthest from their label.", lambda item: -_error(item)),
        (
            "Most uncertain",
            "The class that is called is least probable." if several else nearest,
            lambda item: (
                item.prediction.probability if several else abs(item.prediction.probability - threshold)
            ),
        ),
        ("Best", "Nearest to their label.", _error),
    )
    taken: set[str] = set()
    groups = []
    for title, words, key in wanted:
        left = [item for item in run.scored if item.record.slide_id not in taken]
        chosen = sorted(left, key=lambda item: (key(item), item.record.slide_id))[:most]
        taken |= {item.record.slide_id for item in chosen}
        groups.append(Group(title=title, words=words, slides=tuple(chosen)))
    return [group for group in groups if group.slides]


def _error(item: Scored) -> float:
    """How far the probability of a slide's own class is from 1."""
    said, label = item.prediction, item.record.label or 0
    return abs(said.probability - label) if said.shares is None else 1 - said.probability_of(label)


def slides_section(run: ScoredRun, *, examples: int, places: SlidePlaces, progress: ShowProgress) -> Html:
    """The groups, each slide with thumbnail, heatmap and the patches that count most."""
    groups = pick(run, examples=examples)
    pictures = run.train_config.dataset not in FEATURE_TABLES and run.train_config.bag == "slide"
    parts: list[Html] = []
    with progress("pictures", sum(len(group.slides) for group in groups)) as task:
        for group in groups:
            parts += [element("h3", group.title), paragraph(group.words, mark="soft")]
            for item in group.slides:
                shown = draw_slide(_seen(item, run, places)) if pictures else Html()
                parts.append(_slide(item, run, shown))
                task.step(item.record.slide_id)
    return section("Slides worth a look", *parts)


def _slide(item: Scored, run: ScoredRun, shown: Html) -> Html:
    record = item.record
    place = f"slide-{anchor(record.slide_id)}"
    return element(
        "article", element("h4", record.slide_id, id=place), paragraph(_said(item, run)), shown, class_="slide",
        aria_labelledby=place,
    )  # fmt: skip


def _said(item: Scored, run: ScoredRun) -> str:
    names, called = _names(run), _called(item, run)
    words = f"Label {names[item.record.label or 0]}, score {item.prediction.probability:.4f}"
    if called is not None:
        words += f", called {names[called]}: {'right' if called == item.record.label else 'wrong'}"
    return f"{words}; {item.patches} patches"


def _names(run: ScoredRun) -> tuple[str, ...]:
    return run.classes or ("negative", "positive")


def _called(item: Scored, run: ScoredRun) -> int | None:
    """The class that a slide is called; None where no threshold says it."""
    if item.prediction.called is not None or run.threshold is None:
        return item.prediction.called
    return int(item.prediction.probability >= run.threshold.value)


def _seen(item: Scored, run: ScoredRun, places: SlidePlaces) -> Seen:
    record = item.record
    meta = open_features(run.features / f"{record.slide_id}.zarr").meta
    size = (meta.plan.get("width_l0"), meta.plan.get("height_l0"))
    return Seen(
        slide_id=record.slide_id,
        place=places.find(record.slide_id, record.path, place_of(meta.slide_path)),
        scene=meta.scene,
        mpp=meta.mpp,
        size_l0=None if None in size else (int(size[0]), int(size[1])),  # type: ignore[arg-type]
        patches=_values(item, run.features),
    )


def _values(item: Scored, features: Path) -> PatchValues | None:
    """What the model says of patches: their probability where it gives one, else its attention."""
    said = item.prediction
    if said.patches is None and said.attention is None:
        return None
    bag = load_bag(item.record, features)
    if said.patches is not None:
        return probability_patches(said.patches.astype(np.float64), bag)
    return None if said.attention is None else attention_patches(said.attention, bag)


def slides_table(run: ScoredRun) -> Html:
    """Every slide that was judged, wrongly called ones marked, the furthest from its label first."""
    order: Sequence[Scored] = sorted(run.scored, key=lambda item: (-_error(item), item.record.slide_id))
    rows = [_row(item, run) for item in order]
    columns = ("slide", "patient", "label", "score", "called", "off by", "patches")
    return table(
        columns, rows, caption=f"{len(rows)} slides, the furthest from its label first", sortable=True
    )


def _row(item: Scored, run: ScoredRun) -> tuple[object, ...]:
    score, record, names = item.prediction.probability, item.record, _names(run)
    called, shown = _called(item, run), Cell(shown="")
    if called is not None:
        wrong = called != record.label
        shown = Cell(shown=f"{names[called]}{', wrong' if wrong else ''}", mark="bad" if wrong else "")
    return (
        record.slide_id, record.patient_id, names[record.label or 0], f"{score:.4f}", shown,
        f"{_error(item):.4f}", item.patches,
    )  # fmt: skip
