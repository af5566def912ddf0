"""Which pages of a TIFF are one picture, and which of the pictures is the slide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tifffile

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.lengths import LengthError
from wsi_vmamba.slide.ome_xml import OmeImage, read_ome_images
from wsi_vmamba.slide.scenes import Scene, choose_scene
from wsi_vmamba.slide.tiff.facts import check_one_plane, tag_mpp

#: A pyramid has a handful of directories; a longer chain is a stack or a damaged file.
MAX_PAGES = 256
#: Bits of NewSubfileType.
_REDUCED, _MASK = 1, 4
#: How far the aspect of a level may stray: writers round each level's size.
_ASPECT_TOLERANCE = 0.01
#: What scanners write at the head of a page's description.
_KIND = re.compile(r"\s*(label|macro|thumbnail|overview)\b|.*?<ImageType>\s*(\w+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffPicture:
    """One picture of a TIFF.

    Attributes:
        scene: its number, name and size.
        base: the page of its finest level.
        others: pages among which its smaller levels are.
        ome: what the OME-XML says of it, where there is one.
    """

    scene: Scene
    base: tifffile.TiffPage
    others: Sequence[tifffile.TiffPage]
    ome: OmeImage | None = None


def find_pictures(path: str, tif: tifffile.TiffFile, pages: list[tifffile.TiffPage]) -> list[TiffPicture]:
    """List the pictures of a TIFF that may be the slide, in the file's order.

    Raises:
        UnreadableSlideError: the OME-XML is damaged, or does not say which page is what.
    """
    if tif.is_svs:
        base = _largest_tiled(pages)
        check_one_plane(path, base, pages)
        others = [*(page for page in pages if page is not base), *subpages(path, base)]
        return [TiffPicture(scene=_scene(0, base), base=base, others=others)]
    images = read_ome_images(path, tif.ome_metadata, file_name=Path(path).name) if tif.is_ome else []
    if images:
        return _ome_pictures(path, images, pages)
    return _plain_pictures(path, pages)


def choose_picture(path: str, pictures: Sequence[TiffPicture], *, asked: int | None) -> TiffPicture:
    """Return the picture that was asked for, else the one that is the slide.

    Raises:
        SceneError: there is no such picture, or nothing tells which of them is the slide.
    """
    chosen = choose_scene(path, [picture.scene for picture in pictures], asked=asked)
    return next(picture for picture in pictures if picture.scene is chosen)


def is_first_alone(picture: TiffPicture, pages: Sequence[tifffile.TiffPage]) -> bool:
    """Whether a picture begins at the first page and every page marked as reduced is of it."""
    marked = [page for page in pages if int(page.subfiletype) & _REDUCED]
    return picture.base is pages[0] and all(any(page is own for own in picture.others) for page in marked)


def reduced_pages(picture: TiffPicture) -> list[tifffile.TiffPage]:
    """Pages that show the same picture smaller, finest first.

    Labels and macros have another aspect; thumbnails are stripped where the slide is tiled, and not marked as
    reduced resolution where it is not.
    """
    base = picture.base
    found: dict[int, tifffile.TiffPage] = {}
    for page in picture.others:
        belongs = page.is_tiled if base.is_tiled else not page.is_tiled and page.subfiletype == _REDUCED
        if belongs and page.samplesperpixel == base.samplesperpixel and _is_smaller(page, base):
            found.setdefault(page.imagewidth, page)
    return [found[width] for width in sorted(found, reverse=True)]


def subpages(path: str, page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    """The directories inside a page's own."""
    found = list(page.pages)[:MAX_PAGES] if page.subifds else []
    check_numbers(path, found)
    return found


def check_numbers(path: str, pages: Sequence[tifffile.TiffPage]) -> None:
    """Refuse sizes that are no numbers: a flipped bit in a tag's type makes them texts or tuples."""
    names = ("imagewidth", "imagelength", "tilewidth", "tilelength", "samplesperpixel", "bitspersample")
    for page in pages:
        for name in names:
            value = getattr(page, name)
            if not isinstance(value, int) or not 0 <= value < 2**31:
                raise UnreadableSlideError(
                    path, f"the TIFF directory is damaged ({name} is {str(value)[:40]})"
                )


def _ome_pictures(path: str, images: list[OmeImage], pages: list[tifffile.TiffPage]) -> list[TiffPicture]:
    """The images of an OME-TIFF whose planes are in this file; only directories inside their own are their levels."""
    here = [image for image in images if image.page is not None]
    if not here:
        names = ", ".join(dict.fromkeys(image.elsewhere or "unnamed" for image in images))
        raise UnreadableSlideError(
            path,
            f"the OME-XML says that its picture is in other files ({names}); name that one, or export the picture "
            "into one OME-TIFF",
        )
    numbers = [image.page for image in here]
    if len(set(numbers)) < len(numbers):
        raise UnreadableSlideError(
            path,
            f"the OME-XML describes {len(here)} images and does not say which page each of them is (TiffData IFD); "
            "export it again",
        )
    pictures = []
    for image in here:
        number = image.page or 0
        if number >= len(pages):
            raise UnreadableSlideError(
                path,
                f"the OME-XML has image {image.number} at page {number}, the TIFF has {len(pages)} pages; it was cut "
                "short or is damaged",
            )
        base = pages[number]
        scene = _scene(image.number, base, name=image.name, mpp=_mpp_of(image))
        pictures.append(TiffPicture(scene=scene, base=base, others=subpages(path, base), ome=image))
    return pictures


def _mpp_of(image: OmeImage) -> float | None:
    """For the choice; that it cannot be read is said once the image is chosen."""
    try:
        mpp = image.mpp()
    except LengthError:
        return None
    return None if mpp is None else (mpp.x + mpp.y) / 2


def _plain_pictures(path: str, pages: list[tifffile.TiffPage]) -> list[TiffPicture]:
    """The pages that are not marked as something else's smaller level; marked ones belong to the page before them.

    Only what is marked is a level, as OpenSlide has it, or what its resolution tags make one: a second scan may have
    the very size of a level.
    """
    unmarked = [page for page in pages if not _is_marked(page)]
    whole = [page for page in unmarked if not any(_is_level_by_tags(page, base) for base in unmarked)]
    bases = [page for page in whole if page.is_tiled] or whole or [_largest_tiled(pages)]
    check_one_plane(path, max(bases, key=_pixels), pages)
    levels = [page for page in pages if all(page is not each for each in whole)]
    pictures = []
    for number, base in enumerate(bases):
        others = [page for page in levels if _owner(page, bases) is base]
        scene = _scene(number, base, name=_kind(base))
        pictures.append(TiffPicture(scene=scene, base=base, others=[*others, *subpages(path, base)]))
    return pictures


def _owner(page: tifffile.TiffPage, bases: list[tifffile.TiffPage]) -> tifffile.TiffPage | None:
    """The last of the pictures before a page that it can be a smaller level of."""
    if int(page.subfiletype) & _MASK:
        return None
    before = [base for base in bases if base.index < page.index and _is_smaller(page, base)]
    return before[-1] if before else None


def _is_marked(page: tifffile.TiffPage) -> bool:
    return bool(int(page.subfiletype) & (_REDUCED | _MASK)) or _kind(page) == "ReducedResolution"


def _is_level_by_tags(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether an unmarked page says that its pixels are larger than another's by as much as it has fewer."""
    if page.index <= base.index or page.is_tiled != base.is_tiled or not _is_smaller(page, base):
        return False
    try:
        mine, its = (tag_mpp(each) for each in (page, base))
    except LengthError:
        return False
    if mine is None or its is None:
        return False
    width, width_base = page.imagewidth * mine.x, base.imagewidth * its.x
    return bool(abs(width - width_base) <= _ASPECT_TOLERANCE * width_base)


def _kind(page: tifffile.TiffPage) -> str:
    """What the description says that a page is; empty where it says nothing of that."""
    found = _KIND.match(page.description[:4096])
    return (found[1] or found[2]) if found else ""


def _is_smaller(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page is smaller than another, and of its aspect."""
    width, height = page.imagewidth, page.imagelength
    if page is base or not 0 < width < base.imagewidth or height <= 0:
        return False
    height_due = base.imagelength * width / base.imagewidth
    return bool(abs(height - height_due) <= max(2.0, _ASPECT_TOLERANCE * height_due))


def _largest_tiled(pages: list[tifffile.TiffPage]) -> tifffile.TiffPage:
    return max((page for page in pages if page.is_tiled), key=_pixels, default=pages[0])


def _pixels(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth * page.imagelength)


def _scene(number: int, page: tifffile.TiffPage, *, name: str = "", mpp: float | None = None) -> Scene:
    return Scene(number=number, width_px=page.imagewidth, height_px=page.imagelength, name=name, mpp=mpp)
