"""Focal stacks: all planes of a slide that was scanned at several depths, as one slide with its planes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.base import DamagedArea, Slide
from wsi_vmamba.slide.location import Location, is_url
from wsi_vmamba.slide.opening import open_slide
from wsi_vmamba.slide.scenes import choose_stack, describe, middle_plane
from wsi_vmamba.slide.through import SlideThrough

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FocalStack(SlideThrough):
    """A slide whose pixels are those of its middle plane; ``planes`` are all of them, the first depth first.

    Tissue, thumbnail and whatever else wants one picture are of the middle plane.
    """

    def __init__(self, planes: Sequence[Slide]) -> None:
        """Take over open slides, the focal planes of one picture.

        Raises:
            UnreadableSlideError: their pyramids are not of one size.
        """
        self.planes = tuple(planes)
        scenes = {plane.scene.number: plane for plane in planes}
        super().__init__(scenes[middle_plane([plane.scene for plane in planes]).number])
        for plane in planes:
            if plane.levels != self._slide.levels:
                raise UnreadableSlideError(
                    plane.path,
                    f"focal planes must have pyramids of the same sizes; scene {plane.scene.number} has another than "
                    f"scene {self._slide.scene.number}",
                )

    @property
    def note(self) -> str:
        """How many planes were read, and what else the file holds."""
        own = {plane.scene.number for plane in self.planes}
        others = [scene for scene in self.scenes if scene.number not in own]
        read = f"read were {len(self.planes)} focal planes" if len(own) > 1 else "it has one focal plane"
        return f"{read}; the file also holds {describe(others)}; --scene chooses" if others else read

    def read_region(
        self,
        *,
        x_l0: int,
        y_l0: int,
        level: int,
        width_px: int,
        height_px: int,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read the middle plane; see `Slide`."""
        return self._slide.read_region(
            x_l0=x_l0, y_l0=y_l0, level=level, width_px=width_px, height_px=height_px, out=out
        )

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Of the middle plane; see `Slide`."""
        return self._slide.thumbnail(max_px)

    def damage(self, level: int) -> tuple[DamagedArea, ...]:
        """Of every plane; see `Slide`."""
        return tuple(area for plane in self.planes for area in plane.damage(level))

    def close(self) -> None:
        """Close every plane."""
        for plane in self.planes:
            plane.close()


def open_focal_stack(path: Location, *, reader: str | None = None, scene: int | None = None) -> FocalStack:
    """Open all focal planes of a slide; a slide of one plane is a stack of one.

    Args:
        path: the file.
        reader: as for `open_slide`.
        scene: any plane of the stack, or a picture by itself; None for the one that is the slide.

    Raises:
        SceneError: there is no such scene, or nothing tells which of several pictures is the slide.
        UnreadableSlideError: as `open_slide`; or the planes do not fit each other.
        UnsupportedSlideError: the file has focal planes that no reader reads.
    """
    with open_slide(path, reader=reader, scene=0 if scene is None else scene) as any_scene:
        planes = choose_stack(path, any_scene.scenes, asked=scene)
        _refuse_unread_planes(any_scene)
    with ExitStack() as opened:
        slides = [
            opened.enter_context(open_slide(path, reader=reader, scene=plane.number)) for plane in planes
        ]
        stack = FocalStack(slides)
        opened.pop_all()
    return stack


def _refuse_unread_planes(slide: Slide) -> None:
    """Refuse an NDPI of several focal planes: OpenSlide reads the one at offset 0 and leaves the others out."""
    if slide.properties.get("vendor") != "hamamatsu":
        return
    if is_url(slide.path):
        raise UnsupportedSlideError(
            slide.path,
            "how many focal planes an NDPI has is not known from afar; download it to encode all of them",
        )
    from wsi_vmamba.slide.tiff.layout import ndpi_focal_offsets

    offsets = ndpi_focal_offsets(slide.path)
    if len(offsets) > 1:
        raise UnsupportedSlideError(
            slide.path,
            f"it has {len(offsets)} focal planes (offsets {', '.join(map(str, offsets))}), and of an NDPI only the one "
            "at 0 is read; convert it to an OME-TIFF with a SizeZ, or leave out --focal-planes",
        )
