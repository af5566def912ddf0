"""Results as HTML for notebooks: plain tables, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from wsi_vmamba.evaluation.tables import Screen


def page(title: str, screens: Iterable[Screen], notes: Iterable[str] = ()) -> str:
    """A heading, tables one below the other, and notes."""
    parts = [f"<p><b>{escape(title)}</b></p>"] if title else []
    parts += [table(one.title, one.columns, one.rows) for one in screens]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    return "<div>" + "".join(parts) + "</div>"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """One table with its title as the caption."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    caption = f"<caption>{escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
