"""Which pages of a TIFF are one picture, and which of the pictures is the slide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tifffile

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.lengths import LengthError
from wsi_vmamba.slide.ome_xml import OmeImage, read_ome_images
from wsi_vmamba.slide.scenes import Scene, choose_scene
from wsi_vmamba.slide.tiff.facts import check_one_plane
from wsi_vmamba.slide.tiff.owners import MASK, is_smaller, owners, shows_the_same_by_tags

#: A pyramid has a handful of directories; a longer chain is a stack or a damaged file.
MAX_PAGES = 256
#: The bit of NewSubfileType that says reduced.
_REDUCED = 1
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
        unclear: pages that are a smaller level of it or of another picture, and nothing tells of which.
    """

    scene: Scene
    base: tifffile.TiffPage
    others: Sequence[tifffile.TiffPage]
    ome: OmeImage | None = None
    unclear: Sequence[tifffile.TiffPage] = ()


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
        if belongs and page.samplesperpixel == base.samplesperpixel and is_smaller(page, base):
            found.setdefault(page.imagewidth, page)
    return [found[width] for width in sorted(found, reverse=True)]


def unclear_pages(picture: TiffPicture) -> str:
    """In words, the pages that were left out because nothing tells whose level they are; mostly empty."""
    pages = ", ".join(f"{page.index} ({page.imagewidth} x {page.imagelength} px)" for page in picture.unclear)
    return (
        f"page {pages}: a smaller level of this scene or of another, nothing tells of which" if pages else ""
    )


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
    numbers = [page for image in here for page in image.focal_pages]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise UnreadableSlideError(
            path,
            f"the OME-XML describes {_counted(here)} and does not say which page each of them is (TiffData IFD); "
            "export it again",
        )
    pictures = []
    before = 0
    for image in here:
        first = image.number + before  # focal planes are numbered one by one, and those behind them go on
        depth = len(image.focal_pages)
        before += depth - 1
        for plane, page in enumerate(image.focal_pages):
            number = page or 0
            if number >= len(pages):
                raise UnreadableSlideError(
                    path,
                    f"the OME-XML has image {image.number} at page {number}, the TIFF has {len(pages)} pages; it was "
                    "cut short or is damaged",
                )
            base = pages[number]
            scene = _scene(image.number, base, name=image.name, mpp=_mpp_of(image))
            if depth > 1:
                name = f"{image.name} focal plane {plane + 1} of {depth}".strip()
                scene = replace(scene, number=first + plane, name=name, stack=image.number)
            else:
                scene = replace(scene, number=first)
            pictures.append(TiffPicture(scene=scene, base=base, others=subpages(path, base), ome=image))
    return pictures


def _counted(images: Sequence[OmeImage]) -> str:
    planes = sum(len(image.focal_pages) for image in images)
    return f"{len(images)} images" if planes == len(images) else f"{planes} focal planes"


def _mpp_of(image: OmeImage) -> float | None:
    """For the choice; that it cannot be read is said once the image is chosen."""
    try:
        mpp = image.mpp()
    except LengthError:
        return None
    return None if mpp is None else (mpp.x + mpp.y) / 2


def _plain_pictures(path: str, pages: list[tifffile.TiffPage]) -> list[TiffPicture]:
    """The pages that are not marked as something else's smaller level; marked ones belong to a page before them.

    Only what is marked is a level, as OpenSlide has it, or what its resolution tags make one: a second scan may have
    the very size of a level.
    """
    unmarked = [page for page in pages if not _is_marked(page)]
    whole = [page for page in unmarked if not any(_is_level_by_tags(page, base) for base in unmarked)]
    bases = [page for page in whole if page.is_tiled] or whole or [_largest_tiled(pages)]
    check_one_plane(path, max(bases, key=_pixels), pages)
    levels = [page for page in pages if all(page is not each for each in whole)]
    owned = owners(levels, bases)
    pictures = []
    for number, base in enumerate(bases):
        others = [page for page, of in owned if of == [base]]
        unclear = [page for page, of in owned if len(of) > 1 and any(each is base for each in of)]
        scene = _scene(number, base, name=_kind(base))
        pictures.append(
            TiffPicture(scene=scene, base=base, others=[*others, *subpages(path, base)], unclear=unclear)
        )
    return pictures


def _is_marked(page: tifffile.TiffPage) -> bool:
    return bool(int(page.subfiletype) & (_REDUCED | MASK)) or _kind(page) == "ReducedResolution"


def _is_level_by_tags(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether an unmarked page says that its pixels are larger than another's by as much as it has fewer."""
    behind = page.index > base.index and page.is_tiled == base.is_tiled
    return behind and is_smaller(page, base) and shows_the_same_by_tags(page, base)


def _kind(page: tifffile.TiffPage) -> str:
    """What the description says that a page is; empty where it says nothing of that."""
    found = _KIND.match(page.description[:4096])
    return (found[1] or found[2]) if found else ""


def _largest_tiled(pages: list[tifffile.TiffPage]) -> tifffile.TiffPage:
    return max((page for page in pages if page.is_tiled), key=_pixels, default=pages[0])


def _pixels(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth * page.imagelength)


def _scene(number: int, page: tifffile.TiffPage, *, name: str = "", mpp: float | None = None) -> Scene:
    return Scene(number=number, width_px=page.imagewidth, height_px=page.imagelength, name=name, mpp=mpp)
