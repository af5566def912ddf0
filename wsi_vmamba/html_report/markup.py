"""Pieces of HTML. Whatever is put into one is escaped, unless it is a piece itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from wsi_vmamba.text import printable

#: The folders at the head of an absolute path.
_FOLDERS = re.compile(r"""(?<![\w.:/])/(?:[^\s/:;,'"()]+/)+""")
#: A value with what is around it: ``0.91 (0.88–0.94)``, ``0.88-0.94``, ``0.91 ± 0.02``.
_RANGE = re.compile(r"[+-]?[\d.]+ ?(\(.*\)|± .*|to .*|[-–][\d.]+)")
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell that is not sorted by what it shows.

    Attributes:
        shown: what stands in it.
        key: what it is sorted by.
        mark: class of the cell: "bad", "odd" or "good".
    """

    shown: object
    key: float | str = ""
    mark: str = ""


def html_of(value: object) -> Html:
    """A value as HTML; text is escaped, with control characters and lone bytes as escapes."""
    return value if isinstance(value, Html) else Html(escape(printable(str(value))))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """An element; an attribute that is None is left out, ``class_`` is class, ``data_key`` is data-key."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(printable(str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{named}>{join(content)}</{tag}>")


def empty_element(tag: str, **attributes: object) -> Html:
    """An element that holds nothing, such as a picture."""
    return Html(str(element(tag, **attributes)).removesuffix(f"</{tag}>"))


def join(parts: Iterable[object]) -> Html:
    """Pieces one after the other."""
    return Html("".join(html_of(part) for part in parts))


def anchor(title: str) -> str:
    """A name that links can lead to."""
    return _NOT_IN_IDS.sub("-", title.lower()).strip("-") or "part"


def section(title: str, *content: object) -> Html:
    """A part of the page under a heading of the second level; empty where it has no content."""
    if not join(content):
        return Html()
    head = element("h2", title, id=anchor(title))
    return element("section", head, *content, aria_labelledby=anchor(title))


def paragraph(*content: object, mark: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *content, class_=mark)


def listed(items: Iterable[object]) -> Html:
    """A list with bullets; empty without items."""
    found = [element("li", item) for item in items]
    return element("ul", *found) if found else Html()


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str, sortable: bool = False
) -> Html:
    """Rows under named columns; each row begins with what it is of. Numbers are set to the right."""
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = (element("tr", _head_cell(row[0]), *map(_cell, row[1:])) for row in rows)
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body),
        class_="sortable" if sortable else None,
    )  # fmt: skip
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Mapping[str, object], *, caption: str) -> Html:
    """Names on the left, values on the right; pairs without a value are left out."""
    rows = [(name, value) for name, value in pairs.items() if value not in (None, "")]
    body = (element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows)
    whole = element("table", element("caption", caption), element("tbody", *body), class_="facts")
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *content: object, open_: bool = False) -> Html:
    """Something to be opened."""
    head = element("summary", summary)
    return Html(f"<details{' open' if open_ else ''}>{head}{join(content)}</details>")


def figure(picture: Html, caption: object, *more: object, kind: str = "chart") -> Html:
    """A picture with its caption, and its numbers beneath."""
    return element("figure", picture, element("figcaption", caption), *more, class_=kind)


def cards(pairs: Sequence[tuple[str, str, str]]) -> Html:
    """What matters most, large: (name, value, remark)."""
    found = [
        element(
            "div", element("dt", name), element("dd", element("strong", value), " ", element("span", remark))
        )
        for name, value, remark in pairs
    ]
    return element("dl", *found, class_="cards")


def shown_number(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of decimals, as `evaluate` shows it."""
    return "not defined" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def without_folders(text: str) -> str:
    """Text in which absolute paths are cut to the names of their files: a report is for people elsewhere."""
    return _FOLDERS.sub("", text)


def _head_cell(value: object) -> Html:
    shown = value.shown if isinstance(value, Cell) else value
    return element("th", shown, scope="row")


def _cell(value: object) -> Html:
    cell = value if isinstance(value, Cell) else Cell(shown=value)
    form = "number" if _is_number(cell.shown) else "range" if _RANGE.fullmatch(str(cell.shown)) else ""
    classes = " ".join(filter(None, [cell.mark, form]))
    return element("td", cell.shown, class_=classes or None, data_key=cell.key if cell.key != "" else None)


def _is_number(value: object) -> bool:
    if isinstance(value, Html):
        return False
    try:
        float(str(value).replace(",", "").removesuffix(" %"))
    except ValueError:
        return False
    return True
