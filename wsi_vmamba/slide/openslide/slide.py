"""Slides through OpenSlide: the vendors' formats and DICOM."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL.ImageCms import PyCMSError

from wsi_vmamba.errors import BadTileError, SceneError, UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.geometry import level_to_l0_px
from wsi_vmamba.slide.aperio import aperio_contradiction
from wsi_vmamba.slide.base import Level, VendorLayoutError
from wsi_vmamba.slide.canvas import CanvasSlide, RecordedMpp, pyramid
from wsi_vmamba.slide.compose import lay_over_white
from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.lengths import read_number, um_per_unit
from wsi_vmamba.slide.openslide.dicom import describe, is_dicom, read_header, remedy
from wsi_vmamba.slide.openslide.frames import DicomFrames
from wsi_vmamba.slide.openslide.limits import check_limits, check_size
from wsi_vmamba.slide.openslide.pixels import check_pixels
from wsi_vmamba.slide.openslide.series import check_series
from wsi_vmamba.slide.resolution import MPP_NOTE, MPP_PROBLEM, disagreement
from wsi_vmamba.slide.scenes import Scene, only_scene
from wsi_vmamba.slide.tiff.layout import scenes_for_openslide

#: What OpenSlide calls a TIFF without a vendor.
GENERIC_TIFF = "generic-tiff"
#: Rows decoded at a time, so that the RGBA copy stays small beside the result.
_STRIP_ROWS = 1024


class OpenSlideSlide(CanvasSlide):
    """A slide opened by OpenSlide; transparent pixels are laid over white.

    Level 0, and levels whose ratio to it is a whole number, give the stored pixels. On other levels OpenSlide
    interpolates by up to half a level-0 pixel, except where a read begins at the slide's corner; `TiffSlide`
    always gives the stored pixels.
    """

    def __init__(self, path: str | Path, *, scene: int | None = None) -> None:
        """Open the file.

        Args:
            path: the file.
            scene: 0 or None: OpenSlide shows every file as one picture.

        Raises:
            SceneError: another scene was asked for, or the file is a TIFF of several pictures, which OpenSlide mixes.
            UnreadableSlideError: OpenSlide does not know the format, or the file is damaged.
            UnsupportedSlideError: OpenSlide opens it, but would give wrong pixels.
        """
        only_scene(path, scene, reader="openslide")
        check_limits(path)
        series = check_series(path)
        self._handle: openslide.OpenSlide | None = _open(path)
        width_px, height_px = self._handle.dimensions
        check_size(path, width_px=width_px, height_px=height_px)
        self._lock = threading.Lock()
        recorded = _properties(self._handle)
        self._native_downsamples = tuple(self._handle.level_downsamples)
        vendor = recorded.get("openslide.vendor", "unknown")
        check_pixels(path, vendor)
        scene_found, scenes = _scenes(path) if vendor == GENERIC_TIFF else (None, ())
        mpp = _recorded_mpp(recorded)
        super().__init__(
            path,
            reader="openslide",
            levels=_with_tiles(pyramid(list(self._handle.level_dimensions)), recorded),
            mpp=mpp,
            properties={
                "format": f"OpenSlide {vendor}",
                "vendor": vendor,
                **recorded,
                **_contradiction(vendor, recorded, (width_px, height_px)),
                **_note(mpp, _other_mpp(vendor, recorded, scene_found)),
            },
            scene=scene_found,
            scenes=scenes,
        )
        self._frames = DicomFrames(self.path, series, self.levels)

    @cached_property
    def icc_profile(self) -> bytes | None:
        """The colour profile as the file records it; None where it has none or it cannot be read."""
        handle = self._handle
        try:
            profile = None if handle is None else handle.color_profile
        except (openslide.OpenSlideError, PyCMSError):
            return None
        return None if profile is None else bytes(profile.tobytes())

    @property
    def tile_overlap_px(self) -> int:
        """No pixels are shared: 0."""
        return 0

    def has_encoded_tiles(self, level: int) -> bool:
        """Whether frames of a level may be handed out, of DICOM alone; see `EncodedTiles`."""
        return self._frames.has_level(level)

    def encoded_tile(self, *, level: int, column: int, row: int) -> bytes | None:
        """A frame as a JPEG file; see `EncodedTiles`."""
        try:
            return self._frames.jpeg(level=level, column=column, row=row, icc_profile=self.icc_profile)
        except DamagedTileError as error:
            width, height = self.levels[level].stored_px or (0, 0)
            raise BadTileError(
                self.path,
                f"level {level}, tile (col, row) ({column}, {row}): {error}",
                box_px=(column * width, row * height, width, height),
            ) from error

    def _read_into(self, out: NDArray[np.uint8], *, level: int, x_px: int, y_px: int) -> None:
        downsample = self._native_downsamples[level]
        # Cut into strips only where a strip starts on a whole level-0 pixel, or the seams would be visible.
        rows = _STRIP_ROWS if downsample.is_integer() else out.shape[0]
        for top in range(0, out.shape[0], rows):
            strip = out[top : top + rows]
            corner_l0 = (
                level_to_l0_px(x_px, downsample=downsample),
                level_to_l0_px(y_px + top, downsample=downsample),
            )
            rgba = self._read_rgba(corner_l0, level, (strip.shape[1], strip.shape[0]), (x_px, y_px + top))
            lay_over_white(strip, rgba)

    def _read_rgba(
        self, corner_l0: tuple[int, int], level: int, size_px: tuple[int, int], corner_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        handle = self._handle
        if handle is None:
            raise UnreadableSlideError(self.path, "the slide is closed; open it again to read")
        try:
            return np.asarray(handle.read_region(corner_l0, level, size_px))
        except openslide.OpenSlideError as error:
            self._replace(handle)
            where, box_px = self._tiles_at(level, corner_px, size_px)
            raise BadTileError(
                self.path, f"level {level}, {where}: OpenSlide cannot decode it ({error})", box_px=box_px
            ) from error

    def _tiles_at(
        self, level: int, corner_px: tuple[int, int], size_px: tuple[int, int]
    ) -> tuple[str, tuple[int, int, int, int] | None]:
        """Name the tiles under a rectangle, and place them if it is one; OpenSlide does not say which is bad."""
        recorded = [
            self.properties.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height")
        ]
        if None in recorded:
            return f"rectangle {corner_px} + {size_px} px", None
        sides = [int(side or 1) for side in recorded]
        first = tuple(start // side for start, side in zip(corner_px, sides, strict=True))
        last = tuple(
            (start + size - 1) // side for start, size, side in zip(corner_px, size_px, sides, strict=True)
        )
        if first != last:
            return f"one of the tiles (col, row) {first} to {last}", None
        box_px = (first[0] * sides[0], first[1] * sides[1], sides[0], sides[1])
        return f"tile (col, row) {first}", box_px

    def _replace(self, failed: openslide.OpenSlide) -> None:
        """Open afresh: an OpenSlide handle refuses everything after its first error.

        The failed handle is left to the garbage collector, since other threads may still be inside it.
        """
        with self._lock:
            if self._handle is failed:
                self._handle = _open(self.path)

    def close(self) -> None:
        """Release the file once running reads are done with it; further reads are errors."""
        with self._lock:
            self._handle = None
        self._frames.close()


def _with_tiles(levels: tuple[Level, ...], recorded: Mapping[str, str]) -> tuple[Level, ...]:
    """The levels with the size of their tiles, where OpenSlide knows it."""
    found = []
    for number, level in enumerate(levels):
        sides = [recorded.get(f"openslide.level[{number}].tile-{side}", "") for side in ("width", "height")]
        known = all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides)
        found.append(replace(level, stored_px=(int(sides[0]), int(sides[1]))) if known else level)
    return tuple(found)


def _open(path: str | Path) -> openslide.OpenSlide:
    if not Path(path).exists():
        raise UnreadableSlideError(path, "no such file")
    try:
        return openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise UnreadableSlideError(path, "not a format that OpenSlide knows") from error
    except openslide.OpenSlideError as error:
        raise _refusal(path, error) from error


def _refusal(path: str | Path, error: openslide.OpenSlideError) -> UnreadableSlideError:
    """What to say of a file that OpenSlide knows and does not open; of DICOM also what it is and what to do."""
    words = f"OpenSlide cannot open it ({error})"
    if not is_dicom(Path(path)):
        return UnreadableSlideError(path, words)
    header = read_header(Path(path))
    kind = UnsupportedSlideError if header.is_whole else UnreadableSlideError
    return kind(path, f"{words}; {describe(header)}; {remedy(header)}")


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    """What OpenSlide knows, but for names that are no UTF-8: they are listed, and then not found."""
    found = {}
    for name in handle.properties:
        with contextlib.suppress(KeyError):
            found[name] = handle.properties[name]
    return found


def _scenes(path: str | Path) -> tuple[Scene | None, tuple[Scene, ...]]:
    """Which picture of a TIFF without a vendor is read, and all it holds; see `scenes_for_openslide`.

    Raises:
        SceneError: as there.
        UnsupportedSlideError: as there, or it bears the marks of a vendor, and OpenSlide does not see them.
    """
    try:
        return scenes_for_openslide(str(path))
    except SceneError:
        raise
    except VendorLayoutError as error:
        raise UnsupportedSlideError(
            path,
            "it does not recognise this variant, and read as an ordinary TIFF its pixels would be wrong; export it as "
            "OME-TIFF or DICOM with the vendor's software",
        ) from error
    except UnsupportedSlideError:
        raise
    except UnreadableSlideError:  # what the directory cannot be read for natively; OpenSlide has read it
        return None, ()


def _contradiction(vendor: str, recorded: dict[str, str], size_px: tuple[int, int]) -> dict[str, str]:
    """How the text of an SVS contradicts its picture, as the native reader says it too."""
    if vendor != "aperio":
        return {}
    text = recorded.get("tiff.ImageDescription", "")
    problem = aperio_contradiction(text, width_px=size_px[0], height_px=size_px[1])
    return {MPP_PROBLEM: problem} if problem else {}


def _note(mpp: RecordedMpp | None, other: RecordedMpp | None) -> dict[str, str]:
    note = disagreement(mpp, other)
    return {MPP_NOTE: note} if note else {}


def _other_mpp(vendor: str, recorded: dict[str, str], scene: Scene | None) -> RecordedMpp | None:
    """The resolution that OpenSlide does not go by: the tags of an SVS, the OME-XML of a TIFF without a vendor."""
    if vendor == GENERIC_TIFF:
        um = None if scene is None else scene.mpp
        return None if um is None else RecordedMpp(x=um, y=um, source="the OME-XML")
    if vendor != "aperio":
        return None
    unit_um = um_per_unit(recorded.get("tiff.ResolutionUnit", ""))
    per_unit = [read_number(recorded.get(f"tiff.{axis}Resolution", "")) for axis in "XY"]
    if unit_um is None or not per_unit[0] or not per_unit[1]:
        return None
    return RecordedMpp(x=unit_um / per_unit[0], y=unit_um / per_unit[1], source="TIFF resolution tags")


def _recorded_mpp(properties: dict[str, str]) -> RecordedMpp | None:
    values = [properties.get(key) for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
    known = [number for value in values if value is not None and (number := read_number(value)) is not None]
    return RecordedMpp(x=known[0], y=known[-1], source="OpenSlide's openslide.mpp-x") if known else None
