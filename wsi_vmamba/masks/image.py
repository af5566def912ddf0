"""A picture as a tissue mask: what is not black is tissue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.errors import MaskError, PictureError
from wsi_vmamba.masks.picture import MaskPicture
from wsi_vmamba.masks.picture_files import read_picture
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask
from wsi_vmamba.tissue.overview import OVERVIEW_MPP


def read_image_mask(path: Path, slide: Slide, *, mpp: float, content: bytes | None = None) -> TissueMask:
    """Read a mask picture of the whole slide, of any resolution.

    Of a pyramid the coarsest level that is still as fine as the segmenters' masks is taken. ``content`` is what the
    file holds, where it has been read.

    Raises:
        MaskError: it cannot be read, is too large, does not say clearly what is marked, or has another aspect than
            the slide.
    """
    picture, downsample = read_fitting(path, slide, mpp=mpp, finest_mpp=OVERVIEW_MPP, content=content)
    return TissueMask(
        mask=picture.marked,
        downsample=downsample,
        mpp=mpp * downsample,
        notes=(*picture.notes, *_notes_on(picture)),
    )


def read_fitting(
    path: Path, slide: Slide, *, mpp: float, finest_mpp: float, content: bytes | None = None
) -> tuple[MaskPicture, float]:
    """Read a picture of the whole slide, with its level-0 pixels per pixel.

    Args:
        path: the picture.
        slide: the open slide, for its size.
        mpp: micrometres per level-0 pixel.
        finest_mpp: of a pyramid the coarsest level is taken that is still as fine as this.
        content: the bytes of the file, where they have been read.

    Raises:
        MaskError: see `read_image_mask`.
    """
    base = slide.levels[0]

    def choose(sizes: Sequence[tuple[int, int]]) -> tuple[int, tuple[str, ...]]:
        return _choose_level(sizes, slide_um=mpp * base.width_px, finest_mpp=finest_mpp)

    try:
        picture = read_picture(path, choose=choose, content=content)
    except PictureError as error:
        raise MaskError(slide.path, f"mask {path}: {error}") from error
    height, width = picture.marked.shape
    across, down = base.width_px / width, base.height_px / height
    # Writers round both sides of a reduced picture, by up to a pixel each.
    if abs(across - down) > max(across / height, down / width) * 1.5:
        raise MaskError(
            slide.path,
            f"mask {path} is {width} x {height} px, the slide {base.width_px} x {base.height_px}: "
            f"{across:.4g} times as wide but {down:.4g} times as high; a mask must show the whole slide",
        )
    return picture, (across + down) / 2


def _notes_on(picture: MaskPicture) -> tuple[str, ...]:
    """Say that nothing is left out, or that shares and probabilities are not cut at one half, as people expect."""
    if picture.marked.all():
        return ("all of the mask is marked, so all of the slide is tissue; what is no tissue must be black",)
    grey = picture.grey
    if grey is None or grey.dtype.kind != "f" or not ((grey > 0) & (grey < 1)).any():
        return ()
    below = float(((grey > 0) & (grey < 0.5)).sum() / (grey > 0).sum())
    return (
        f"the mask has values between 0 and 1; all above 0 are tissue, {below:.0%} of them are below 0.5",
    )


def _choose_level(
    sizes: Sequence[tuple[int, int]], *, slide_um: float, finest_mpp: float
) -> tuple[int, tuple[str, ...]]:
    """The level to read of a file with pictures of these (width, height), and which of them are no levels."""
    width, height = sizes[0]
    # A level's sides are those of the first picture, reduced and rounded.
    levels = [i for i, (w, h) in enumerate(sizes) if abs(w * height - h * width) <= 1.5 * max(width, height)]
    twice = [sizes[i] for i in levels if [sizes[j] for j in levels].count(sizes[i]) > 1]
    if twice:
        raise PictureError(
            f"it holds {len(twice)} pictures of {twice[0][0]} x {twice[0][1]} px; keep the one that is the mask"
        )
    notes = tuple(
        f"the mask file also holds a picture of {w} x {h} px, which is not looked at"
        for i, (w, h) in enumerate(sizes)
        if i not in levels
    )
    um = {i: slide_um / sizes[i][0] for i in levels}
    fine_enough = [i for i in levels if um[i] <= finest_mpp * 1.001]
    index = max(fine_enough, key=lambda i: um[i]) if fine_enough else min(levels, key=lambda i: um[i])
    return index, notes
