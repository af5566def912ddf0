"""Which of several pictures in a TIFF a page is a smaller level of, where the directory says it at all."""

from __future__ import annotations

from collections.abc import Sequence

import tifffile

from wsi_vmamba.slide.tiff.facts import readable_tag_mpp

#: How far the aspect of a level, or the length of its side, may stray: writers round each level's size.
_TOLERANCE = 0.01
#: The bit of NewSubfileType that says mask.
MASK = 4


def owners(
    levels: Sequence[tifffile.TiffPage], bases: Sequence[tifffile.TiffPage]
) -> list[tuple[tifffile.TiffPage, list[tifffile.TiffPage]]]:
    """Each page with the pictures it may be a level of: one where that is known, several where it is not.

    A level stands behind its picture. Where it fits several, its resolution tags tell, or that the file goes picture
    by picture, each followed by its levels. Else it may show any of them, and giving it to one would be a guess.
    """
    found: list[tuple[tifffile.TiffPage, list[tifffile.TiffPage]]] = []
    for page in sorted(levels, key=lambda level: int(level.index)):
        own = {base.index: [level for level, of in found if of == [base]] for base in bases}
        fits = [base for base in bases if base.index < page.index and _fits(page, base)]
        if len(fits) > 1:
            fits = _by_tags(page, fits) or _by_order(page, fits, bases, own)
        found.append((page, fits))
    return found


def is_smaller(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page is smaller than another, and of its aspect."""
    width, height = page.imagewidth, page.imagelength
    if page is base or not 0 < width < base.imagewidth or height <= 0:
        return False
    height_due = base.imagelength * width / base.imagewidth
    return bool(abs(height - height_due) <= max(2.0, _TOLERANCE * height_due))


def shows_the_same_by_tags(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page says that its pixels are larger than another's by as much as it has fewer."""
    mine, its = _um(page), _um(base)
    if mine is None or its is None:
        return False
    return _is_close(page.imagewidth * mine, base.imagewidth * its)


def _fits(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    return not int(page.subfiletype) & MASK and is_smaller(page, base)


def _by_tags(page: tifffile.TiffPage, fits: Sequence[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """The picture that the page's resolution tags point to; none where they may be a copy of some picture's."""
    mine = _um(page)
    copied = any(
        mine is not None and (its := _um(base)) is not None and _is_close(mine, its) for base in fits
    )
    same = [base for base in fits if shows_the_same_by_tags(page, base)]
    return same if len(same) == 1 and not copied else []


def _by_order(
    page: tifffile.TiffPage,
    fits: list[tifffile.TiffPage],
    bases: Sequence[tifffile.TiffPage],
    own: dict[int, list[tifffile.TiffPage]],
) -> list[tifffile.TiffPage]:
    """The last picture before a page where the file goes picture by picture, else all that it fits."""
    last = max((base for base in bases if base.index < page.index), key=lambda base: int(base.index))
    others = [base for base in fits if base is not last]
    if len(others) == len(fits) or any(_may_go_on(page, base, bases, own[base.index]) for base in others):
        return fits
    return [last]


def _may_go_on(
    page: tifffile.TiffPage,
    base: tifffile.TiffPage,
    bases: Sequence[tifffile.TiffPage],
    own: list[tifffile.TiffPage],
) -> bool:
    """Whether a page, behind another picture, may yet be of this one.

    Not where this one's levels stand right behind it and either reach down to the page's size or leave out a step.
    """
    following = min((each.index for each in bases if each.index > base.index), default=page.index)
    before = [level for level in own if level.index < following and level.is_tiled == base.is_tiled]
    if not before:
        return True
    widths = sorted({base.imagewidth, *(level.imagewidth for level in before)})
    if page.imagewidth >= widths[0] * (1 - _TOLERANCE):
        return False
    next_width = widths[0] * widths[0] / widths[1]
    return bool(abs(page.imagewidth - next_width) <= max(2.0, _TOLERANCE * next_width))


def _um(page: tifffile.TiffPage) -> float | None:
    mpp = readable_tag_mpp(page)
    return None if mpp is None else mpp.x


def _is_close(a: float, b: float) -> bool:
    return abs(a - b) <= _TOLERANCE * b
