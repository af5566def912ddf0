"""What a notebook shows of a result: plain HTML tables; whatever stands in them is text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def table_html(columns: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> str:
    """Rows under named columns."""
    head = _row(columns, "th")
    body = "".join(_row(row, "td") for row in rows)
    return f"<table>{_caption(caption)}<thead>{head}</thead><tbody>{body}</tbody></table>"


def facts_html(caption: str, facts: Mapping[str, object]) -> str:
    """Names on the left, values on the right."""
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items()
    )
    return f"<table>{_caption(caption)}<tbody>{body}</tbody></table>"


def _row(cells: Sequence[object], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


def _caption(text: str) -> str:
    return f"<caption>{escape(text)}</caption>" if text else ""
