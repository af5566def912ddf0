"""The squares of pixels that are looked at: of pictures, of the tissue of slides, or painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.datasets.synthetic import sample_tiles
from wsi_vmamba.errors import NoTissueError, UsageError
from wsi_vmamba.pretraining.tissue_places import TissuePlaces
from wsi_vmamba.regions import RegionPlan, RegionSpec, plan_canvas
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.slide.resolution import resolve_mpp
from wsi_vmamba.stream import read_target
from wsi_vmamba.tissue import segment_tissue
from wsi_vmamba.training.tiles import read_tile

#: Endings of files that are taken as pictures; everything else is opened as a slide.
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
#: Widest square that is painted as one scene; a wider one is mirrored at its edges.
_PAINTED_PX = 2400
_PAINTED = "painted tissue"


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square of pixels.

    Attributes:
        name: the picture or slide and the place, for people.
        pixels: (side, side, 3) uint8 RGB.
        point_px: (x, y) in the square of the pixel that it was asked for: ``at``, or its middle.
        corner_l0: (x, y) of its top left in level-0 pixels of the slide, or pixels of the picture.
        l0_per_px: level-0 pixels per pixel of the square.
    """

    name: str
    pixels: NDArray[np.uint8]
    point_px: tuple[int, int]
    corner_l0: tuple[float, float]
    l0_per_px: float


def find_windows(config: AnalyseConfig, *, side_px: int, count: int) -> tuple[Window, ...]:
    """Read ``count`` squares, shared evenly among what the configuration names, at places drawn from its seed.

    Raises:
        DatasetError: a picture cannot be read.
        UnreadableSlideError: a slide cannot be read, or its resolution is unknown.
        NoTissueError: a slide has none.
        UsageError: a picture is smaller than the square, or ``at`` is outside.
    """
    if not config.pictures:
        return _painted(config.seed, side_px=side_px, count=count)
    shares = [count // len(config.pictures)] * len(config.pictures)
    for place in range(count % len(config.pictures)):
        shares[place] += 1
    found: list[Window] = []
    for place, (path, share) in enumerate(zip(config.pictures, shares, strict=True)):
        rng = np.random.default_rng([config.seed, place])
        if share and Path(path).suffix.lower() in PICTURE_SUFFIXES:
            found += _of_picture(Path(path), _point(config), side_px=side_px, count=share, rng=rng)
        elif share:
            found += _of_slide(path, config, side_px=side_px, count=share, rng=rng)
    return tuple(found)


def stack(windows: Sequence[Window]) -> NDArray[np.uint8]:
    """Pixels of some windows, (B, side, side, 3)."""
    return np.stack([one.pixels for one in windows])


def middle_of(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """The square of ``side_px`` in the middle of a larger one."""
    top, left = (pixels.shape[0] - side_px) // 2, (pixels.shape[1] - side_px) // 2
    return np.ascontiguousarray(pixels[top : top + side_px, left : left + side_px])


def _painted(seed: int, *, side_px: int, count: int) -> tuple[Window, ...]:
    painted_px = min(-(-side_px // 8) * 8, _PAINTED_PX)
    images = sample_tiles(seed, count, painted_px).images
    extra = max(0, side_px - painted_px)
    edges = f", mirrored beyond {painted_px} px" if extra else ""
    if extra:
        # Odd halves go behind, so that the middle of the scene stays in the middle.
        around = (extra // 2, extra - extra // 2)
        images = np.pad(images, ((0, 0), around, around, (0, 0)), mode="symmetric")
    return tuple(
        Window(
            name=f"{_PAINTED} {number}{edges}",
            pixels=middle_of(image, side_px),
            point_px=(side_px // 2, side_px // 2),
            corner_l0=(0.0, 0.0),
            l0_per_px=1.0,
        )
        for number, image in enumerate(images)
    )


def _point(config: AnalyseConfig) -> tuple[int, int] | None:
    return None if config.at is None else (config.at[0], config.at[1])


def _of_picture(
    path: Path, at: tuple[int, int] | None, *, side_px: int, count: int, rng: np.random.Generator
) -> list[Window]:
    """Squares of a picture: around ``at``, else the middle if there is one, else anywhere."""
    whole = read_tile(path)
    height, width = whole.shape[:2]
    if min(height, width) < side_px:
        raise UsageError(
            f"{path} has {width} x {height} px, less than a square of {side_px} px; give a larger picture, or "
            f"--region-px {min(height, width)}"
        )
    if at is not None:
        _require_inside(path, at, width=width, height=height)
        points = [at]
    elif count == 1:
        points = [(width // 2, height // 2)]
    else:
        half = side_px // 2
        points = [
            (half + int(rng.integers(width - side_px + 1)), half + int(rng.integers(height - side_px + 1)))
            for _ in range(count)
        ]
    windows = []
    for point in points:
        x, y = (
            min(max(0, one - side_px // 2), most - side_px)
            for one, most in zip(point, (width, height), strict=True)
        )
        windows.append(
            Window(
                name=f"{path.name} at {x}, {y}",
                pixels=np.ascontiguousarray(whole[y : y + side_px, x : x + side_px]),
                point_px=(point[0] - x, point[1] - y),
                corner_l0=(float(x), float(y)),
                l0_per_px=1.0,
            )
        )
    return windows


def _of_slide(
    path: str, config: AnalyseConfig, *, side_px: int, count: int, rng: np.random.Generator
) -> list[Window]:
    """Squares of a slide around ``at``, else around places of its tissue; white where they leave the slide."""
    with open_slide(path) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override).value
        plan = plan_canvas(
            width_l0=slide.levels[0].width_px,
            height_l0=slide.levels[0].height_px,
            mpp=mpp,
            levels=slide.levels,
            spec=RegionSpec(target_mpp=config.mpp, region_px=side_px, patch_px=side_px),
        )
        at = _point(config)
        if at is not None:
            _require_inside(path, at, width=plan.width_l0, height=plan.height_l0)
            points = [(float(at[0]), float(at[1]))]
        else:
            places = TissuePlaces.of(segment_tissue(slide, mpp=mpp))
            if not places.count:
                raise NoTissueError(slide.path, "no tissue was found to look at; name a place with --at X Y")
            points = [places.draw(rng) for _ in range(count)]
        return [_around(slide, plan, point, side_px=side_px) for point in points]


def _around(slide: Slide, plan: RegionPlan, point_l0: tuple[float, float], *, side_px: int) -> Window:
    x, y = (int(one / plan.l0_per_px) for one in point_l0)
    left, top = max(0, x - side_px // 2), max(0, y - side_px // 2)
    return Window(
        name=f"{slide.slide_id} at {x * plan.l0_per_px:.0f}, {y * plan.l0_per_px:.0f} (level 0)",
        pixels=read_target(slide, plan, x_px=left, y_px=top, width_px=side_px, height_px=side_px),
        point_px=(x - left, y - top),
        corner_l0=(left * plan.l0_per_px, top * plan.l0_per_px),
        l0_per_px=plan.l0_per_px,
    )


def _require_inside(path: object, at: tuple[int, int], *, width: int, height: int) -> None:
    if not (0 <= at[0] < width and 0 <= at[1] < height):
        raise UsageError(
            f"the pixel {at[0]}, {at[1]} is outside {path}, which has {width} x {height} px; x is to be below "
            f"{width} and y below {height}"
        )
