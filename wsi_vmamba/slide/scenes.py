"""Which of several pictures in one file is the slide: one rule for all formats.

A file may hold a macro of the glass, its label, a snapshot at another magnification, or several scans. The rule takes
the picture with the most pixels that is not one of those by its name or its resolution, and refuses where the file
gives no reason for any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_vmamba.errors import SceneError
from wsi_vmamba.geometry import MPP_RANGE

if TYPE_CHECKING:
    from wsi_vmamba.slide.base import Slide

#: Pictures of the glass, by the names that scanners and converters give them.
_OF_THE_GLASS = re.compile(r"\b(macro|label|thumbnail|overview|barcode|preview)\b", re.IGNORECASE)
#: What an objective of 5x gives, in um per pixel: pictures so coarse, beside a finer one, are for finding one's way.
_OVERVIEW_UM = 2.0
#: Sizes this close are the same but for rounding.
_SAME = 1.01
#: More are counted, not listed.
_LISTED = 8
#: The property in which a reader names what it left out since nothing tells to which scene it belongs.
LEFT_OUT = "left_out"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture of a file.

    Attributes:
        number: what `--scene` calls it; from 0, in the file's own order.
        name: what the file calls it, possibly nothing.
        mpp: micrometres per pixel of its finest level, unchecked; None where the file records none for it.
        stack: the same number for all focal planes of one stack, which stand together from the first to the last; None
            for a picture by itself.
    """

    number: int
    width_px: int
    height_px: int
    name: str = ""
    mpp: float | None = None
    stack: int | None = None

    @property
    def pixels(self) -> int:
        """Pixels of its finest level."""
        return self.width_px * self.height_px

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        mpp = f" at {self.mpp:g} um" if self.mpp is not None else ""
        return f"{self.number}{name} ({self.width_px} x {self.height_px} px{mpp})"


def choose_scene(path: object, scenes: Sequence[Scene], *, asked: int | None) -> Scene:
    """Return the scene that was asked for, else the one that is the slide.

    Raises:
        SceneError: there is no such scene, or nothing tells which of them is the slide.
    """
    if asked is not None:
        for scene in scenes:
            if scene.number == asked:
                return scene
        raise SceneError(path, f"there is no scene {asked}; the file holds {describe(scenes)}")
    planes = choose_stack(path, scenes, asked=None)
    if len(planes) > 1:
        raise SceneError(
            path,
            f"it is a stack of {len(planes)} focal planes, scenes {planes[0].number} to {planes[-1].number}; read one "
            f"with --scene N ({middle_plane(planes).number} is the middle), or `extract` all with --focal-planes all",
        )
    return planes[0]


def choose_stack(path: object, scenes: Sequence[Scene], *, asked: int | None) -> tuple[Scene, ...]:
    """Return the focal planes of the slide, or of the stack that the scene asked for is of; one of an ordinary slide.

    Raises:
        SceneError: there is no such scene, or nothing tells which of several pictures is the slide.
    """
    if asked is not None:
        found = choose_scene(path, scenes, asked=asked)
    else:
        # Every stack counts once: its planes are of one size.
        heads = [each for each in scenes if each is planes_of(each, scenes)[0]]
        candidates = [scene for scene in heads if not _is_of_the_glass(scene)] or heads
        found = max(candidates, key=lambda scene: scene.pixels)
        doubt = next((doubt for other in candidates if (doubt := _doubt(found, other))), "")
        if doubt:
            raise SceneError(path, f"{doubt}; the file holds {describe(scenes)}; choose one with --scene N")
    return planes_of(found, scenes)


def planes_of(scene: Scene, scenes: Sequence[Scene]) -> tuple[Scene, ...]:
    """All focal planes of the stack that a scene is of, itself alone where it is of none."""
    if scene.stack is None:
        return (scene,)
    return tuple(each for each in scenes if each.stack == scene.stack)


def middle_plane(planes: Sequence[Scene]) -> Scene:
    """The focal plane in the middle of a stack; of an even number the one above."""
    return planes[(len(planes) - 1) // 2]


def only_scene(path: object, asked: int | None, *, reader: str) -> None:
    """Refuse any scene but the first where a reader or a file knows of one only.

    Raises:
        SceneError: another was asked for.
    """
    if asked not in {None, 0}:
        raise SceneError(
            path, f"there is no scene {asked}: the reader {reader} sees one picture here, scene 0"
        )


def describe(scenes: Sequence[Scene]) -> str:
    """All scenes in one line."""
    listed = ", ".join(map(str, scenes[:_LISTED]))
    more = f" and {len(scenes) - _LISTED} more" if len(scenes) > _LISTED else ""
    return f"{'scenes' if len(scenes) > 1 else 'scene'} {listed}{more}"


def scene_of(slide: Slide) -> int:
    """The number of the scene that a slide was opened at; 0 where its file holds one picture."""
    return slide.scene.number


def other_scenes(slide: Slide) -> str:
    """The scene that was opened, and what else the file holds; empty where that is nothing."""
    others = [scene for scene in slide.scenes if scene is not slide.scene]
    if not others:
        return ""
    left_out = slide.properties.get(LEFT_OUT, "")
    return (
        f"{slide.scene}; the file also holds {describe(others)}; --scene chooses"
        f"{f'; left out: {left_out}' if left_out else ''}"
    )


def scene_note(slide: Slide) -> str:
    """The same where one of the others may be tissue too, which whoever reads a slide unseen has to be told."""
    others = [scene for scene in slide.scenes if scene is not slide.scene]
    if all(_is_of_the_glass(scene) for scene in others):
        return ""
    return f"read was scene {other_scenes(slide)}"


def _is_of_the_glass(scene: Scene) -> bool:
    too_coarse = scene.mpp is not None and scene.mpp > MPP_RANGE[1]
    return too_coarse or _OF_THE_GLASS.search(scene.name) is not None


def _doubt(largest: Scene, other: Scene) -> str:
    """Why ``other`` and not the largest may be the slide; empty where nothing speaks for it."""
    if other is largest:
        return ""
    if other.pixels == largest.pixels:
        return f"scenes {largest.number} and {other.number} have the same size, and either may be the slide"
    if other.mpp is not None and largest.mpp is None:
        return f"scene {largest.number} has the most pixels, but only smaller ones have a resolution"
    if other.mpp is not None and largest.mpp is not None:
        area, area_largest = other.pixels * other.mpp**2, largest.pixels * largest.mpp**2
        is_overview = other.mpp >= _OVERVIEW_UM > largest.mpp
        if area > _SAME * area_largest and not is_overview:
            return f"scene {largest.number} has the most pixels, scene {other.number} shows a larger area"
    return ""
