"""Names that differ although they most likely mean the same slide."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from wsi_vmamba.cells import loose
from wsi_vmamba.slide.canvas import slide_id_of
from wsi_vmamba.slide.readers import folder_suffixes, slide_suffixes

#: Endings of slides that are found by their content, or opened when named.
_MORE_ENDINGS = (".zip", ".dcm")


def without_ending(slide_id: str) -> str:
    """A slide's name without an image's ending such as ``.tif`` or ``.ome.tif``, where it has one."""
    endings = (*slide_suffixes(), *folder_suffixes(), *_MORE_ENDINGS)
    return slide_id_of(slide_id) if slide_id.lower().endswith(endings) else slide_id


def _one_blank(slide_id: str) -> str:
    return re.sub(r"\s+", " ", slide_id.strip())


def _unicode(slide_id: str) -> str:
    return unicodedata.normalize("NFC", slide_id)


def _zeros(slide_id: str) -> str:
    """Excel drops zeros at the head of what looks like a number."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", slide_id)


def _decimals(slide_id: str) -> str:
    """Writing a column with gaps, pandas makes 12.0 of 12 in a column with gaps."""
    return re.sub(r"^(\d+)\.0$", r"\1", slide_id)


#: By what two names of one slide differ, and what levels it. The first four make no difference between two slides of
#: one table; the others may, and only help to find what is missing.
ALIKE: Mapping[str, Callable[[str], str]] = {
    "the ending of an image": without_ending,
    "the Unicode form of a letter": _unicode,
    "case": str.casefold,
    "the number of blanks": _one_blank,
}
_NEAR: Mapping[str, Callable[[str], str]] = {
    **ALIKE,
    "zeros at the head of a number": _zeros,
    "the decimals of a number": _decimals,
    "blanks, underscores or hyphens": loose,
}


def alike(slide_ids: Iterable[str]) -> str:
    """Say which two of the names are one but for ending, case, blanks or Unicode form; empty where there are none."""
    seen: dict[str, str] = {}
    for slide_id in slide_ids:
        other = seen.setdefault(_level(slide_id, ALIKE), slide_id)
        if other != slide_id:
            return f"{other!r} and {slide_id!r} differ only in {_difference(other, slide_id, ALIKE)}"
    return ""


def shortened(slide_ids: Iterable[str]) -> str:
    """Say which name a spreadsheet has shortened, and with it lost digits of; empty where it has none."""
    for slide_id in slide_ids:
        if re.fullmatch(r"\d([.,]\d+)?E\+\d+", slide_id):
            return (
                f"{slide_id!r} is how a spreadsheet shortens a long number, and digits of it are lost; make the "
                "column text there before the names come in"
            )
    return ""


def near_names(
    missing: Iterable[str],
    present: Iterable[str],
    *,
    forms: Mapping[str, Callable[[str], str]] = _NEAR,
    limit: int = 3,
) -> str:
    """Say which of the names that are missing are there in another spelling; empty where none is.

    Args:
        missing: names that are looked for.
        present: names that are there.
        forms: by what the two may differ.
        limit: how many are said.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in present:
        spellings[_level(name, forms)].append(name)
    found = [
        f"{name!r} is not {other!r}, they differ in {_difference(name, other, forms)}"
        for name in missing
        for other in spellings.get(_level(name, forms), ())[:1]
    ]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return "; ".join(found[:limit]) + more


def _level(name: str, forms: Mapping[str, Callable[[str], str]]) -> str:
    for form in forms.values():
        name = form(name)
    return name


def _difference(one: str, other: str, forms: Mapping[str, Callable[[str], str]]) -> str:
    """By what two names differ that are the same once levelled."""
    found = []
    for words, form in forms.items():
        levelled = form(one), form(other)
        changed = levelled[0] != one, levelled[1] != other
        # What changes both alike, as case does of "A  b" and "A b", is not what tells them apart.
        if changed[0] != changed[1] or (all(changed) and levelled[0] == levelled[1]):
            found.append(words)
        one, other = levelled
        if one == other:
            break
    return " and ".join(found)
