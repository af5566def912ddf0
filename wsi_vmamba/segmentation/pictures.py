"""Squares from plain pictures with label masks: images/<split>/NAME.jpg and annotations/<split>/NAME.png."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError, MissingDataError, PictureError
from wsi_vmamba.masks.picture_files import read_picture
from wsi_vmamba.segmentation.classes import OUTSIDE, UNKNOWN, ClassTable
from wsi_vmamba.segmentation.squares import Square
from wsi_vmamba.segmentation.truth import numbers_of
from wsi_vmamba.training.tiles import TILE_SUFFIXES, read_tile

IMAGES, ANNOTATIONS = "images", "annotations"
#: What a split may be called; the second name is that of ADE20K.
SPLITS = {"train": ("train", "training"), "validation": ("validation", "val")}
#: Colour of what lies beyond a picture: the middle of those that backbones were trained with.
_BEYOND = (124, 116, 104)


@dataclass(frozen=True, kw_only=True)
class LabelledPicture:
    """A picture and its label mask, of one size."""

    picture: Path
    mask: Path

    def made_of(self) -> str:
        """What it is, so that it shows when that changes: the bytes of the mask, size and time of the picture.

        Raises:
            DatasetError: one of the two cannot be read.
        """
        try:
            facts = self.picture.stat()
            mask = hashlib.sha256(self.mask.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise DatasetError(f"{error.filename} cannot be read ({error.strerror})") from error
        return f"{self.picture.name} {facts.st_size} {int(facts.st_mtime)} {mask}"


def holds_pictures(folder: Path) -> bool:
    """Whether a folder is one of pictures with label masks."""
    return (folder / IMAGES).is_dir() and (folder / ANNOTATIONS).is_dir()


def find_pictures(folder: Path, split: str) -> list[LabelledPicture]:
    """List the pictures of a split with their masks; none is read.

    Raises:
        MissingDataError: there is no such split.
        DatasetError: a picture has no mask, or there is no picture.
    """
    name = next((name for name in SPLITS[split] if (folder / IMAGES / name).is_dir()), None)
    if name is None:
        raise MissingDataError(
            f"no folder {folder / IMAGES / SPLITS[split][0]}; expected {IMAGES}/<split>/ and {ANNOTATIONS}/<split>/ "
            f"with the splits {' and '.join(SPLITS)}"
        )
    pictures = sorted(
        path
        for path in (folder / IMAGES / name).iterdir()
        if path.suffix.lower() in TILE_SUFFIXES and path.name[0] != "."
    )
    found = [
        LabelledPicture(picture=path, mask=folder / ANNOTATIONS / name / f"{path.stem}.png")
        for path in pictures
    ]
    missing = [one.mask.name for one in found if not one.mask.is_file()]
    if missing or not found:
        what = (
            f"{len(missing)} pictures have no mask ({', '.join(missing[:3])})"
            if found
            else "it holds no pictures"
        )
        raise DatasetError(
            f"{folder / ANNOTATIONS / name}: {what}; expected a PNG of the same name for each picture"
        )
    return found


def largest_number(pictures: Sequence[LabelledPicture]) -> int:
    """The largest number of a class in the masks of some pictures.

    Raises:
        DatasetError: a mask cannot be read or has colours.
    """
    largest = 0
    for one in pictures:
        grey = _grey(one.mask)
        known = grey[grey != UNKNOWN]
        largest = max(largest, int(known.max()) if known.size else 0)
    return largest


class PictureSquares:
    """Squares of pictures, see `Squares`: each picture is as likely as another; they are judged whole."""

    def __init__(
        self,
        pictures: Sequence[LabelledPicture],
        classes: ClassTable,
        *,
        side_px: int,
        scale: tuple[float, float],
        short_side_px: int | None,
    ) -> None:
        """Keep what pictures there are.

        Args:
            pictures: with masks.
            classes: what is told apart.
            side_px: of the squares.
            scale: least and greatest factor by which a picture is resized before a square is cut from it.
            short_side_px: pictures are first resized to have this; None leaves them.
        """
        self._pictures = pictures
        self._classes = classes
        self._side_px = side_px
        self._scale = scale
        self._short_side_px = short_side_px

    def draw(self, rng: np.random.Generator) -> Square:
        """See `Squares`; what lies beyond a picture is grey and unknown."""
        square = self._read(int(rng.integers(len(self._pictures))))
        low, high = self._scale
        square = _scaled(square, factor=low + (high - low) * float(rng.random()))
        height, width = square.labels.shape
        side = self._side_px
        top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in (height, width))
        pixels = np.full((side, side, 3), _BEYOND, np.uint8)
        labels = np.full((side, side), UNKNOWN, np.uint8)
        here = square.pixels[top : top + side, left : left + side]
        pixels[: here.shape[0], : here.shape[1]] = here
        labels[: here.shape[0], : here.shape[1]] = square.labels[top : top + side, left : left + side]
        return Square(pixels=pixels, labels=labels, source=square.source)

    def judged(self, count: int) -> int:
        """See `Squares`: all pictures."""
        del count
        return len(self._pictures)

    def judge(self, index: int) -> Square:
        """See `Squares`."""
        return self._read(index)

    def describe(self) -> str:
        """See `Squares`.

        Raises:
            DatasetError: a file cannot be read.
        """
        return self._description

    @cached_property
    def _description(self) -> str:
        text = "\n".join(one.made_of() for one in self._pictures)
        return f"{len(self._pictures)}, {hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _read(self, index: int) -> Square:
        one = self._pictures[index]
        pixels = read_tile(one.picture)
        try:
            labels = numbers_of(_grey(one.mask), self._classes)
        except ValueError as error:
            raise DatasetError(f"{one.mask}: {error}") from error
        if labels.shape != pixels.shape[:2]:
            raise DatasetError(
                f"{one.mask} has {labels.shape[1]} x {labels.shape[0]} px, its picture {pixels.shape[1]} x "
                f"{pixels.shape[0]}; a mask must be as large as its picture"
            )
        if self._classes.outside == "unknown":
            labels[labels == OUTSIDE] = UNKNOWN
        square = Square(pixels=pixels, labels=labels, source=str(one.picture))
        if self._short_side_px is not None:
            square = _scaled(square, factor=self._short_side_px / min(labels.shape))
        return square


def _grey(mask: Path) -> NDArray[np.uint8]:
    """The values of a label mask.

    Raises:
        DatasetError: it cannot be read, or its values are no numbers of classes.
    """
    try:
        grey = read_picture(mask, choose=lambda sizes: (0, ())).grey
    except PictureError as error:
        raise DatasetError(f"{mask}: {error}") from error
    if grey is None or grey.dtype != np.uint8:
        found = "colours" if grey is None else str(grey.dtype)
        raise DatasetError(f"{mask}: expected an 8-bit grey PNG with numbers of classes, got {found}")
    return grey


def _scaled(square: Square, *, factor: float) -> Square:
    height, width = (max(1, round(length * factor)) for length in square.labels.shape)
    if (height, width) == square.labels.shape:
        return square
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(square.pixels, (width, height), interpolation=how)
    labels = cv2.resize(square.labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return Square(
        pixels=np.asarray(pixels, np.uint8), labels=np.asarray(labels, np.uint8), source=square.source
    )
