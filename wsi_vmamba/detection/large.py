"""A detector over what is larger than it can see at once: a picture, or the tissue of a slide, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.detection.examples import image_of
from wsi_vmamba.detection.model import Detector
from wsi_vmamba.detection.objects import Objects
from wsi_vmamba.detection.windows import Window, cover, merge, whole_objects
from wsi_vmamba.errors import UsageError
from wsi_vmamba.regions import RegionPlan, RegionSpec, plan_canvas
from wsi_vmamba.slide import Slide
from wsi_vmamba.stream import read_target
from wsi_vmamba.tissue import TissueMask

Read = Callable[[Window], NDArray[np.uint8]]
Report = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class SlideObjects:
    """The objects of a slide.

    Attributes:
        objects: in pixels of the detector's resolution, from the highest score down.
        l0_per_px: level-0 pixels per such pixel.
        n_windows: how many windows were looked at.
        n_full: in how many of them the detector found as many objects as it can: more may be there.
    """

    objects: Objects
    l0_per_px: float
    n_windows: int
    n_full: int


def find_in_picture(
    detector: Detector, pixels: NDArray[np.uint8], *, window_px: int, overlap_px: int, least_score: float
) -> Objects:
    """The objects of RGB pixels (H, W, 3) of any size, from the highest score down.

    Args:
        detector: in evaluation mode.
        pixels: at the resolution that the detector learned from.
        window_px: side of what it sees at once.
        overlap_px: what neighbouring windows share; longer objects may be lost.
        least_score: of what is found.

    A window holds at most ``detector.spec.most_objects``; take one that is small enough for them.
    """
    height, width = pixels.shape[:2]
    windows = cover(width_px=width, height_px=height, window_px=window_px, overlap_px=overlap_px)
    found, _ = _find(
        detector,
        windows,
        lambda one: pixels[one.y_px : one.y_px + one.height_px, one.x_px : one.x_px + one.width_px],
        width_px=width, height_px=height, least_score=least_score, report=lambda _: None,
    )  # fmt: skip
    return found


def find_in_slide(
    detector: Detector,
    slide: Slide,
    tissue: TissueMask,
    *,
    mpp: float,
    window_px: int,
    overlap_px: int,
    least_score: float,
    report: Report = lambda _: None,
) -> SlideObjects:
    """The objects in the tissue of a slide.

    Args:
        detector: in evaluation mode.
        slide: an open slide.
        tissue: windows without any are not looked at.
        mpp: um per level-0 pixel.
        window_px: side of a window at the resolution of the detector.
        overlap_px: what neighbouring windows share.
        least_score: of what is found.
        report: called with 1 after each window.

    Raises:
        UsageError: the detector learned from photographs, or the slide is coarser than its pictures.
        UnreadableSlideError: a part of the slide cannot be read.
    """
    plan = plan_canvas(
        width_l0=slide.levels[0].width_px,
        height_l0=slide.levels[0].height_px,
        mpp=mpp,
        levels=slide.levels,
        spec=RegionSpec(target_mpp=require_resolution(detector)),
    )
    width, height = plan.width_px, plan.height_px
    windows = tissue_windows(plan, tissue, window_px=window_px, overlap_px=overlap_px)
    objects, n_full = _find(
        detector,
        windows,
        lambda one: read_target(
            slide, plan, x_px=one.x_px, y_px=one.y_px, width_px=one.width_px, height_px=one.height_px
        ),
        width_px=width, height_px=height, least_score=least_score, report=report,
    )  # fmt: skip
    return SlideObjects(objects=objects, l0_per_px=plan.l0_per_px, n_windows=len(windows), n_full=n_full)


def require_resolution(detector: Detector) -> float:
    """The um per pixel at which a detector reads slides.

    Raises:
        UsageError: it learned from photographs.
    """
    if detector.spec.target_mpp is None:
        raise UsageError(
            "this detector learned from pictures without a resolution (target_mpp null), so it has none to read slides "
            "at; train it with target_mpp"
        )
    return detector.spec.target_mpp


def tissue_windows(
    plan: RegionPlan, tissue: TissueMask, *, window_px: int, overlap_px: int
) -> tuple[Window, ...]:
    """The windows of a canvas that hold any tissue."""
    every = cover(
        width_px=plan.width_px, height_px=plan.height_px, window_px=window_px, overlap_px=overlap_px
    )
    scale = plan.l0_per_px / tissue.downsample

    def holds(one: Window) -> bool:
        rows, columns = (
            slice(int(start * scale), max(int(np.ceil((start + length) * scale)), int(start * scale) + 1))
            for start, length in ((one.y_px, one.height_px), (one.x_px, one.width_px))
        )
        return bool(tissue.mask[rows, columns].any())

    return tuple(one for one in every if holds(one))


def _find(
    detector: Detector,
    windows: Iterable[Window],
    read: Read,
    *,
    width_px: int,
    height_px: int,
    least_score: float,
    report: Report,
) -> tuple[Objects, int]:
    """The objects of all windows, and in how many of them there were as many as the detector can find."""
    device = next(detector.parameters()).device
    parts: list[Objects] = []
    n_full = 0
    for one in windows:
        objects = detector.find([image_of(read(one)).to(device)], least_score=least_score)[0]
        n_full += len(objects) >= detector.spec.most_objects
        parts.append(whole_objects(objects, one, width_px=width_px, height_px=height_px))
        report(1)
    return merge(parts), n_full
