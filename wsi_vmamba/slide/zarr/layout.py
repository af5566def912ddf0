"""What a zarr image says about itself: its arrays, finest first, their axes and the resolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zarr

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.channels import check_channels
from wsi_vmamba.slide.resolution import MPP_NOTE, MPP_PROBLEM
from wsi_vmamba.slide.scenes import Scene, choose_scene, only_scene
from wsi_vmamba.slide.zarr.pictures import (
    MAX_PICTURES,
    ZarrPicture,
    axes_of,
    facts_of,
    find_pictures,
    scale_of,
)

_CHANNELS = (1, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class ZarrLevel:
    """One array of the pyramid.

    Attributes:
        array: the zarr array, uint8.
        axes: a letter per dimension, of "tczyx"; t and z have length 1.
    """

    array: zarr.Array[Any]
    axes: str

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.array.shape[self.axes.index("x")], self.array.shape[self.axes.index("y")]

    @property
    def chunk_px(self) -> tuple[int, int]:
        """(width, height) of a chunk."""
        return self.array.chunks[self.axes.index("x")], self.array.chunks[self.axes.index("y")]


@dataclass(frozen=True, kw_only=True)
class ZarrLayout:
    """Everything the metadata say that reading needs."""

    levels: tuple[ZarrLevel, ...]
    mpp: RecordedMpp | None
    properties: Mapping[str, str]
    scene: Scene | None = None
    scenes: tuple[Scene, ...] = ()


def read_layout(path: str, root: zarr.Group | zarr.Array[Any], *, scene: int | None = None) -> ZarrLayout:
    """Read the metadata of an OME-Zarr group (0.4 or 0.5), a plain group of levels, or one array.

    Args:
        path: for messages.
        root: the group or array.
        scene: which of its pictures; None for the one that is the slide.

    Raises:
        SceneError: there is no such scene, or nothing tells which of them is the slide.
        UnreadableSlideError: no picture in it, or not one RGB or grey plane of 8 bits.
        UnsupportedSlideError: its channels are not the red, green and blue of one picture.
    """
    form = f"zarr v{root.metadata.zarr_format}"
    if isinstance(root, zarr.Array):
        only_scene(path, scene, reader="zarr")
        return ZarrLayout(
            levels=(_level(path, root, _guess_axes(path, root)),), mpp=None, properties={"format": form}
        )
    pictures = find_pictures(path, root)
    if not pictures:
        only_scene(path, scene, reader="zarr")
        levels = _plain_group(path, root)
        return ZarrLayout(levels=levels, mpp=None, properties={"format": f"{form} group"})
    scenes = [picture.scene for picture in pictures]
    chosen = choose_scene(path, scenes, asked=scene)
    picture = next(picture for picture in pictures if picture.scene is chosen)
    axes = axes_of(picture.multiscale)
    levels = tuple(_level(path, stored.array, axes) for stored in picture.levels)
    _check_pyramid(path, levels)
    check_channels(path, picture.channels, samples=_samples(levels[0]))
    properties = {
        "format": f"OME-Zarr ({form})",
        MPP_PROBLEM: picture.problem,
        MPP_NOTE: _contradiction(picture, levels),
    }
    return ZarrLayout(
        levels=levels,
        mpp=picture.mpp,
        properties={key: text for key, text in properties.items() if text},
        scene=chosen,
        scenes=tuple(scenes),
    )


def _check_pyramid(path: str, levels: Sequence[ZarrLevel]) -> None:
    """Refuse arrays that are not one picture at smaller and smaller sizes.

    Raises:
        UnreadableSlideError: naming two of them.
    """
    width, height = levels[0].size_px
    for finer, level in itertools.pairwise(levels):
        w, h = level.size_px
        same_aspect = abs(h - height * w / width) <= max(2.0, 0.01 * h)
        no_smaller = w >= finer.size_px[0] and h >= finer.size_px[1]
        if not same_aspect or no_smaller or _samples(level) != _samples(levels[0]):
            raise UnreadableSlideError(
                path,
                f"arrays {finer.array.path!r} {finer.array.shape} and {level.array.path!r} {level.array.shape} are not "
                "levels of one pyramid; name the one that is the slide, or add OME-Zarr multiscales",
            )


def _samples(level: ZarrLevel) -> int:
    return int(level.array.shape[level.axes.index("c")]) if "c" in level.axes else 1


def _contradiction(picture: ZarrPicture, levels: Sequence[ZarrLevel]) -> str:
    """Where the scale of a level contradicts its size; empty where none does.

    Only the scale of the finest level is used. Converters are known to get the others wrong, so it may well be right.
    """
    axes = axes_of(picture.multiscale)
    first = scale_of(picture.levels[0].facts, axes)
    for stored, level in zip(picture.levels, levels, strict=True):
        scale = scale_of(stored.facts, axes)
        if first is None or scale is None or not first[axes.index("x")]:
            continue
        factor = scale[axes.index("x")] / first[axes.index("x")]
        width, width_l0 = level.size_px[0], levels[0].size_px[0]
        if abs(width * factor - width_l0) > 1.5 * factor + 0.02 * width_l0:
            return (
                f"the scales of OME-Zarr level {stored.facts['path']!r} say that its pixels are {factor:g} times as "
                f"wide as those of level 0, its size ({width} of {width_l0} px) says {width_l0 / width:g}"
            )
    return ""


def _plain_group(path: str, group: zarr.Group) -> tuple[ZarrLevel, ...]:
    """Arrays of a group without OME metadata, as levels, largest first."""
    arrays = [array for _, array in group.arrays() if array.ndim >= 2]
    if not arrays:
        raise UnreadableSlideError(
            path, f"expected a picture, the zarr group has neither multiscales nor arrays{_where_else(group)}"
        )
    levels = [_level(path, array, _guess_axes(path, array)) for array in arrays]
    levels.sort(key=lambda level: math.prod(level.size_px), reverse=True)
    _check_pyramid(path, levels)
    return tuple(levels)


def _where_else(group: zarr.Group) -> str:
    """Where below a group without a picture of its own the pictures are, as far as it says so."""
    facts = facts_of(group)
    if "plate" in facts or "well" in facts:
        return "; it is a plate of many pictures, name one of them, such as A/1/0 below it"
    inside = [
        name
        for name, child in itertools.islice(group.groups(), MAX_PICTURES)
        if "multiscales" in facts_of(child)
    ]
    return (
        f"; there are pictures in {', '.join(sorted(inside)[:8])} below it, name one of them"
        if inside
        else ""
    )


def _guess_axes(path: str, array: zarr.Array[Any]) -> str:
    """Axes by their recorded names, else by the one axis that can be the colours."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if isinstance(names, Sequence) and all(isinstance(name, str) for name in names):
        return "".join(name[0].lower() for name in names)
    if array.ndim == 2:
        return "yx"
    if array.ndim == 3 and array.shape[2] == 3:
        return "yxc"
    if array.ndim == 3 and array.shape[0] == 3:
        return "cyx"
    raise UnreadableSlideError(
        path, f"expected (height, width, 3), (3, height, width) or named axes, found shape {array.shape}"
    )


def _level(path: str, array: zarr.Array[Any], axes: str) -> ZarrLevel:
    """Check that an array is one 8-bit RGB or grey plane."""
    sizes = dict(zip(axes, array.shape, strict=False))
    if len(axes) != array.ndim or len(sizes) != array.ndim or not set("yx") <= set(axes) <= set("tczyx"):
        raise UnreadableSlideError(
            path, f"expected axes out of t, c, z, y, x, found {axes!r} for shape {array.shape}"
        )
    if array.dtype != "uint8":
        raise UnsupportedSlideError(path, f"expected 8-bit pixels, found {array.dtype}; convert to uint8")
    if sizes.get("c", 1) not in _CHANNELS or sizes.get("t", 1) != 1 or sizes.get("z", 1) != 1:
        raise UnsupportedSlideError(
            path, f"expected one RGB or grey plane, found {sizes}; export one plane as RGB"
        )
    if min(*array.shape, *array.chunks) <= 0:
        raise UnreadableSlideError(
            path, f"the picture is empty, shape {array.shape} in chunks of {array.chunks}"
        )
    return ZarrLevel(array=array, axes=axes)
