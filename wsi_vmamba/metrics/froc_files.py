"""Reading the FROC's inputs from two folders: level-5 masks of tumour slides, a CSV of detections a slide."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from wsi_vmamba.errors import MetricError
from wsi_vmamba.metrics.detection_files import read_detections
from wsi_vmamba.metrics.detections import FrocSlide
from wsi_vmamba.metrics.lesions import find_lesions, read_mask

_MASK_SUFFIXES = (".png", ".tif", ".tiff")
_MASK_ENDING = "_mask"


def read_froc_slides(
    *, masks_dir: Path, detections_dir: Path, exclude: Collection[str] = ()
) -> list[FrocSlide]:
    """Read every slide that has a detection file; it is a tumour slide if it has a mask too.

    Args:
        masks_dir: ``<slide>.png`` or ``.tif``, or ``<slide>_mask.tif``, at level 5, tumour slides only;
            where there is no such folder, all slides are normal.
        detections_dir: ``<slide>.csv`` with ``probability,x,y`` in level-0 pixels; empty for a slide without
            any.
        exclude: slides to leave out (for CAMELYON16, test_114), compared without regard to case.

    Returns:
        The slides by name.

    Raises:
        MetricError: there are no detection files, a mask has no detection file, or a file is not as
            described.
    """
    masks = mask_files(masks_dir, exclude=exclude) if masks_dir.is_dir() else {}
    lists = slide_files(detections_dir, (".csv",), exclude=exclude)
    if not lists:
        raise MetricError(
            f"{detections_dir} holds no <slide>.csv; each slide needs one, empty if nothing was found"
        )
    # The organisers' script would pass over such a slide, and with it over its lesions.
    without = sorted(set(masks) - set(lists))
    if without:
        raise MetricError(
            f"{len(without)} slides have a mask in {masks_dir} and no detections in {detections_dir}: "
            f"{_shown(without)}; write an empty <slide>.csv where nothing was found, or exclude the slide"
        )
    return [
        FrocSlide(
            name=name,
            lesions=find_lesions(read_mask(masks[name]), name=name) if name in masks else None,
            detections=read_detections(lists[name]),
        )
        for name in sorted(lists)
    ]


def mask_files(folder: Path, *, exclude: Collection[str] = ()) -> dict[str, Path]:
    """Masks of a folder by slide; the ending ``_mask``, as the organisers name theirs, is no part of the slide's name.

    Raises:
        MetricError: there is no such folder, or a slide has two masks.
    """
    left_out = {name.casefold() for name in exclude}
    found: dict[str, Path] = {}
    for stem, path in slide_files(folder, _MASK_SUFFIXES).items():
        name = stem[: -len(_MASK_ENDING)] if stem.casefold().endswith(_MASK_ENDING) else stem
        if name in found:
            raise MetricError(
                f"{name} is there twice: {found[name].name} and {path.name} in {folder}; keep one"
            )
        if name.casefold() not in left_out:
            found[name] = path
    return found


def slide_files(folder: Path, suffixes: tuple[str, ...], *, exclude: Collection[str] = ()) -> dict[str, Path]:
    """Files of a folder by the slide that their name stands for, without those of ``exclude`` (in any case).

    Raises:
        MetricError: there is no such folder, or a slide has two files.
    """
    left_out = {name.casefold() for name in exclude}
    if not folder.is_dir():
        raise MetricError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.stem.casefold() in left_out:
            continue
        if path.stem in found:
            raise MetricError(
                f"{path.stem} is there twice: {found[path.stem].name} and {path.name} in {folder}; keep one"
            )
        found[path.stem] = path
    return found


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
