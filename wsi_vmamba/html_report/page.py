"""The page around a report: head, style, navigation. It loads nothing, and its policy forbids it to."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from wsi_vmamba import __version__
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.html_report.markup import Html, element, html_of, join

_SECTION = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')


@dataclass(frozen=True, kw_only=True)
class HtmlReport:
    """A report.

    Attributes:
        kind: "run", "probe", "features" or "predictions".
        title: what it is of.
        html: the whole page, which needs nothing else.
    """

    kind: str
    title: str
    html: str

    def __repr__(self) -> str:
        return f"<HtmlReport of the {self.kind} {self.title}: {len(self.html.encode()) / 1e6:.1f} MB>"

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        file = Path(path)
        write_atomic(file, self.html)
        return file


def page(*, kind: str, title: str, lead: Sequence[Html], sections: Sequence[Html]) -> HtmlReport:
    """Put a report together.

    Args:
        kind: what it is of.
        title: the name of that.
        lead: what stands at the top.
        sections: parts made by `markup.section`; empty ones are left out.
    """
    style, script = (
        files(__package__).joinpath(name).read_text("utf-8") for name in ("style.css", "sort.js")
    )
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'"
    body = join(sections)
    links = [
        element("li", element("a", Html(name), href=f"#{place}")) for place, name in _SECTION.findall(body)
    ]
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html_of(f'{title}: {kind} report')}</title><style>{style}</style>"
    )
    top = element(
        "header", element("p", f"wsi-vmamba: {kind}", class_="kind"), element("h1", title), *lead,
        element("nav", element("ul", *links), aria_label="Parts of this report"),
    )  # fmt: skip
    foot = element("footer", f"Made by wsi-vmamba {__version__}. For research use; not for diagnosis.")
    whole = (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{top}\n<main>{body}</main>\n{foot}'
        f"<script>{script}</script></body></html>\n"
    )
    return HtmlReport(kind=kind, title=title, html=whole)
