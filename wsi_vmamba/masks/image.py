"""A picture as a mask: what is not 0 is tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsi_vmamba.errors import MaskError
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.tissue.mask import TissueMask
from wsi_vmamba.tissue.overview import OVERVIEW_MPP

#: Pixels of the largest mask that is read; 8 um per pixel needs a hundredth of it.
_MAX_PX = 1 << 28
_COLOUR_MODES = {"RGBA": 3, "LA": 1, "PA": 1}


def read_image_mask(path: Path, slide: Slide, *, mpp: float) -> TissueMask:
    """Read a mask picture of the whole slide, of any resolution.

    Of a pyramid the coarsest level that is still as fine as the segmenters' masks is taken.

    Raises:
        MaskError: it cannot be read, is too large, or has another aspect than the slide.
    """
    try:
        mask = _read_tiff(path, slide, mpp) if path.suffix.lower() in {".tif", ".tiff"} else _read_other(path)
    # tifffile and Pillow raise these on damaged files; Pillow's bomb error is an Exception of its own.
    except (OSError, ValueError, LookupError, RuntimeError, SyntaxError, tifffile.TiffFileError) as error:
        raise MaskError(slide.path, f"mask {path} cannot be read as a picture ({error})") from error
    except Image.DecompressionBombError as error:
        raise MaskError(
            slide.path, f"mask {path}: {error}; save it at about {OVERVIEW_MPP:g} um per pixel"
        ) from error
    base = slide.levels[0]
    height, width = mask.shape
    across, down = base.width_px / width, base.height_px / height
    # Writers round both sides of a reduced picture, by up to a pixel each.
    if abs(across - down) > max(across / height, down / width) * 1.5:
        raise MaskError(
            slide.path,
            f"mask {path} is {width} x {height} px, the slide {base.width_px} x {base.height_px}: "
            f"{across:.4g} times as wide but {down:.4g} times as high; a mask must show the whole slide",
        )
    downsample = (across + down) / 2
    return TissueMask(mask=mask, downsample=downsample, mpp=mpp * downsample)


def _read_tiff(path: Path, slide: Slide, mpp: float) -> NDArray[np.bool_]:
    with tifffile.TiffFile(path) as tif:
        levels = tif.series[0].levels
        # um per pixel of each level, from its width; pages are finest first.
        um = [mpp * slide.levels[0].width_px / _width(level) for level in levels]
        fine_enough = [i for i, value in enumerate(um) if value <= OVERVIEW_MPP * 1.001]
        level = levels[max(fine_enough, default=0)]
        _check_size(level.shape)
        return _as_mask(level.asarray(), alpha=level.keyframe.samplesperpixel in (2, 4))


def _width(level: Any) -> int:
    return int(level.shape[level.axes.index("X")])


def _read_other(path: Path) -> NDArray[np.bool_]:
    with Image.open(path) as picture:
        _check_size(picture.size)
        pixels = np.asarray(picture)
        return _as_mask(pixels, alpha=picture.mode in _COLOUR_MODES)


def _check_size(shape: tuple[int, ...]) -> None:
    if np.prod(shape, dtype=np.float64) > _MAX_PX:
        raise ValueError(f"{shape} values are too many; save it at about {OVERVIEW_MPP:g} um per pixel")


def _as_mask(pixels: NDArray[Any], *, alpha: bool) -> NDArray[np.bool_]:
    """True where any colour is not 0; opacity says nothing about tissue."""
    if pixels.ndim == 3:
        if alpha:
            pixels = pixels[..., :-1]
        pixels = np.asarray(pixels.any(axis=-1))
    if pixels.ndim != 2:
        raise ValueError(f"expected one picture, got an array of shape {pixels.shape}")
    return np.ascontiguousarray(pixels != 0)
