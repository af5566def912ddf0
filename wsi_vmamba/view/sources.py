"""What can be opened: one slide or a folder of slides. Each source lists its slides anew whenever it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide import find_slides
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.text import printable
from wsi_vmamba.view.row import SlideRow

if TYPE_CHECKING:  # loads zarr
    from wsi_vmamba.view.patches import PatchModel


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was opened.

    Attributes:
        kind: "slide", "folder", "features", "run" or "prediction".
        title: for people, without the folders that lead to it.
        rows: lists the slides as they are now, by name.
        drawings: folder for what is drawn, unless another one is given.
        threshold: from which score on a slide is called positive; None where there are no scores.
        model: what the run says of the patches of a slide; None where nothing can be asked.
    """

    kind: str
    title: str
    rows: Callable[[], Sequence[SlideRow]]
    drawings: Path
    threshold: float | None = None
    model: PatchModel | None = None


def folder_source(folder: Path, *, follow_links: bool) -> Source:
    """All slides at or below a folder.

    Args:
        folder: the folder.
        follow_links: whether to show files outside the folder that links inside it lead to.
    """

    def rows() -> list[SlideRow]:
        problems: list[UnreadableSlideError] = []
        found = find_slides(folder, problems=problems)
        names = Counter(slide_id_of(path) for path in found)
        listed = [
            SlideRow(
                name=printable(_name(path, folder, is_unique=names[slide_id_of(path)] == 1)),
                place=path,
                problem="" if follow_links else leaves(path, folder),
            )
            for path in found
        ]
        listed += [
            SlideRow(
                name=printable(f"{_inside(Path(each.slide), folder)}/"), place=None, problem=each.message
            )
            for each in problems
        ]
        return sorted(listed, key=lambda row: row.name)

    return Source(kind="folder", title=title_of(folder), rows=rows, drawings=folder / "drawings")


def slide_source(path: Path) -> Source:
    """One slide."""
    row = SlideRow(name=printable(slide_id_of(path)), place=path)
    return Source(kind="slide", title=title_of(path), rows=lambda: [row], drawings=path.parent / "drawings")


def leaves(path: Path, folder: Path) -> str:
    """Say that a path leads out of a folder by a link; empty where it does not. Compared by parts, not by letters."""
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return "it is a link that leads nowhere"
    return "" if is_inside else "it is a link that leads out of the folder; give --follow-links to show it"


def title_of(path: Path) -> str:
    """The last two parts of a path: enough to know it again, and nothing of whose machine it is."""
    return printable("/".join(path.absolute().parts[-2:]).lstrip("/"))


def _name(path: Path, folder: Path, *, is_unique: bool) -> str:
    """The slide's name; after the folders that lead to it where another has the same."""
    name: str = slide_id_of(path)
    return name if is_unique else "__".join([*_inside(path, folder).parent.parts, path.name])


def _inside(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
