"""What the site says that stands in the code: floors and rooms, extension tables, public names; and links in prose.

MkDocs calls `on_page_markdown` and `on_post_page`. Only the standard library is used, and the package is read, not
imported, except for its extension tables, which are cheap.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wsi_vmamba"
DOCS = ROOT / "docs"

#: A comment `<!-- generated: NAME -->` in a page is replaced by what stands here under NAME.
_MARKER = re.compile(r"<!-- generated: ([a-z-]+) -->")
#: Likewise `<!-- readme: TITLE -->` by that section of the README, and `<!-- file: NAME -->` by a file beside it.
_README = re.compile(r"<!-- readme: (.+?) -->")
_FILE = re.compile(r"<!-- file: ([A-Z]+\.md) -->")
#: Prose names pages as files and decisions by number; on the site both are links. Code blocks are left alone.
_PAGE_NAME = re.compile(
    r"(?<![\[`])`(?:docs/)?((?:how-to/|reference/)?[a-z0-9-]+\.md|CHANGELOG\.md|CONTRIBUTING\.md)`(?![\]`])"
)
_ADR_NAME = re.compile(r"(?<![\[\w])ADR (\d{1,4})(?![\]\w])")
_REMOTE = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>", re.IGNORECASE
)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in what is generated and turn the names of pages and decisions into links."""
    text = _MARKER.sub(lambda found: GENERATED[found[1]](), markdown)
    text = _README.sub(lambda found: readme_section(found[1]), text)
    text = _FILE.sub(lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text)
    return link_prose(text, page.file.src_uri)


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Refuse a page that would fetch something from elsewhere when it is read.

    Raises:
        ValueError: naming the page and what it would fetch.
    """
    for found in _REMOTE.finditer(output):
        if 'rel="canonical"' not in found[0]:
            raise ValueError(f"{page.file.src_uri} would load something over the network: {found[0]}")
    return output


def link_prose(markdown: str, src_uri: str) -> str:
    """Link `docs/faults.md` and ADR 6 in the prose of a page to those pages.

    Args:
        markdown: the page; fenced and indented code stays as it is, as does what names no page of the site.
        src_uri: where the page lies under docs/, which links are relative to.
    """
    up = "../" * src_uri.count("/")
    lines, fenced = [], False
    for line in markdown.split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if not (fenced or line.startswith(("    ", "# ", "```"))):
            line = _PAGE_NAME.sub(lambda found: _page_link(found, up, src_uri), line)
            line = _ADR_NAME.sub(lambda found: _adr_link(found, up), line)
        lines.append(line)
    return "\n".join(lines)


def _page_link(found: re.Match[str], up: str, src_uri: str) -> str:
    target = found[1].lower() if found[1] in ("CHANGELOG.md", "CONTRIBUTING.md") else found[1]
    if target == src_uri or not (DOCS / target).is_file():
        return found[0]
    title = _title(ROOT / found[1] if target != found[1] else DOCS / target)
    return f"[{title}]({up}{target})"


def _adr_link(found: re.Match[str], up: str) -> str:
    files = list((DOCS / "adr").glob(f"{int(found[1]):04d}-*.md"))
    return f"[{found[0]}]({up}adr/{files[0].name})" if files else found[0]


def _title(page: Path) -> str:
    return next(
        line.removeprefix("# ")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("# ")
    )


def readme_section(title: str) -> str:
    """What stands below ``## title`` in the README, with links as pages of the site need them.

    Raises:
        ValueError: there is no such section.
    """
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
    )
    if found is None:
        raise ValueError(f"README.md has no section {title!r}")
    return found[1].strip().replace("](docs/", "](")


def floors() -> list[list[str]]:
    """Rooms by floor, top first, as pyproject.toml has them for import-linter; only those that exist."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [[room for room in re.findall(r"\w+", layer) if _module(room)] for layer in layers]
    return [floor for floor in rooms if floor]


def _module(room: str) -> Path | None:
    """The file whose docstring says what a room is for."""
    candidates = (PACKAGE / room / "__init__.py", PACKAGE / f"{room}.py", ROOT / room / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def purpose(path: Path) -> str:
    """First sentence of a module's docstring, one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def floors_table() -> str:
    """A row per room: its floor, counted from the ground, and what it is for."""
    rows = ["| floor | room | what it is for |", "| --- | --- | --- |"]
    house = floors()
    for number, floor in zip(range(len(house), 0, -1), house, strict=True):
        for place, room in enumerate(floor):
            module = _module(room)
            assert module is not None
            rows.append(
                f"| {number if place == 0 else ''} | `{room}` | {purpose(module).replace('|', '&#124;')} |"
            )
    return "\n".join(rows)


def floors_picture() -> str:
    """The floors as an inline SVG in the colours of the page; the rooms of a floor stand side by side."""
    house = [part for floor in floors() for part in _side_by_side(floor)]
    width, step = 760, 34
    parts = [
        f'<svg class="floors" viewBox="0 0 {width} {step * len(house)}" role="img" aria-label="The floors, top first">'
    ]
    for row, floor in enumerate(house):
        room_width = width / len(floor)
        for column, room in enumerate(floor):
            x, y = column * room_width, row * step
            parts.append(
                f'<rect x="{x + 2:.0f}" y="{y + 2}" width="{room_width - 4:.0f}" height="{step - 6}" rx="5"/>'
                f'<text x="{x + room_width / 2:.0f}" y="{y + 21}">{escape(room)}</text>'
            )
    return "".join([*parts, "</svg>"])


def _side_by_side(floor: list[str]) -> list[list[str]]:
    """Divide a floor into rows of at most five rooms, as even as can be, so that their names fit."""
    rows = -(-len(floor) // 5)
    return [floor[len(floor) * row // rows : len(floor) * (row + 1) // rows] for row in range(rows)]


def public_names() -> list[str]:
    """`wsi_vmamba.__all__`, in its order, without dunder names; empty where the package has none."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return [name for name in ast.literal_eval(node.value) if not name.startswith("_")]
    return []


def public_reference() -> str:
    """What mkdocstrings is to render for each public name of the package."""
    names = public_names()
    if not names:
        return "*This version exports nothing at the top; use the rooms below.*"
    functions_first = sorted(names, key=lambda name: name[0].isupper())
    return "\n\n".join(f"::: wsi_vmamba.{name}" for name in functions_first)


def extension_tables() -> str:
    """A row per extension point: where its table stands and the names in it."""
    from wsi_vmamba.registry import TABLES, table

    rows = ["| kind | table | names |", "| --- | --- | --- |"]
    for kind, place in TABLES.items():
        names = ", ".join(f"`{name}`" for name in table(kind))
        rows.append(f"| {kind} | `{place}` | {names} |")
    return "\n".join(rows)


def decisions() -> str:
    """Links to all decisions, in their order."""
    return "\n".join(f"- [{_title(path)}](adr/{path.name})" for path in sorted((DOCS / "adr").glob("*.md")))


GENERATED: Mapping[str, Callable[[], str]] = {
    "decisions": decisions,
    "extension-tables": extension_tables,
    "floors-picture": floors_picture,
    "floors-table": floors_table,
    "public-names": public_reference,
}
