"""What a zarr image says about itself: its arrays, finest first, their axes and the resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zarr

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.canvas import RecordedMpp

_UM_PER_UNIT = {
    "micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6, "um": 1.0, "µm": 1.0
}  # fmt: skip
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


def read_layout(path: str, root: zarr.Group | zarr.Array[Any]) -> ZarrLayout:
    """Read the metadata of an OME-Zarr group (0.4 or 0.5), a plain group of levels, or one array.

    Raises:
        UnreadableSlideError: no picture in it, or not one RGB or grey plane of 8 bits.
    """
    form = f"zarr v{root.metadata.zarr_format}"
    if isinstance(root, zarr.Array):
        return ZarrLayout(
            levels=(_level(path, root, _guess_axes(path, root)),), mpp=None, properties={"format": form}
        )
    multiscale, group = _multiscale(path, root)
    if multiscale is None:
        levels = _plain_group(path, group)
        return ZarrLayout(levels=levels, mpp=None, properties={"format": f"{form} group"})
    axes = _axes(multiscale)
    datasets = multiscale["datasets"]
    levels = tuple(_level(path, _array(path, group, dataset["path"]), axes) for dataset in datasets)
    return ZarrLayout(
        levels=levels, mpp=_recorded_mpp(multiscale, axes), properties={"format": f"OME-Zarr ({form})"}
    )


def _multiscale(path: str, root: zarr.Group) -> tuple[Mapping[str, Any] | None, zarr.Group]:
    """The multiscales entry (under "ome" since 0.5) and the group that has it; bioformats2raw puts it in "0"."""
    facts: dict[str, Any] = dict(root.attrs)
    facts = {**facts, **facts.get("ome", {})}
    if "multiscales" in facts:
        return facts["multiscales"][0], root
    if "bioformats2raw.layout" in facts:
        first = root.get("0")
        if isinstance(first, zarr.Group):
            return _multiscale(path, first)
        raise UnreadableSlideError(
            path, 'expected a picture in group "0" of the bioformats2raw layout, found none'
        )
    return None, root


def _axes(multiscale: Mapping[str, Any]) -> str:
    """A letter per dimension; 0.3 and older knew only "tczyx" in full or as plain names."""
    axes = multiscale.get("axes", "tczyx")
    return "".join(axis["name"] if isinstance(axis, Mapping) else axis for axis in axes)


def _plain_group(path: str, group: zarr.Group) -> tuple[ZarrLevel, ...]:
    """Arrays of a group without OME metadata, as levels, largest first."""
    arrays = [array for _, array in group.arrays() if array.ndim >= 2]
    if not arrays:
        raise UnreadableSlideError(
            path, "expected a picture, the zarr group has neither multiscales nor arrays"
        )
    levels = [_level(path, array, _guess_axes(path, array)) for array in arrays]
    levels.sort(key=lambda level: math.prod(level.size_px), reverse=True)
    width, height = levels[0].size_px
    for level in levels:
        w, h = level.size_px
        if abs(h - height * w / width) > max(2.0, 0.01 * h):
            raise UnreadableSlideError(
                path,
                f"arrays of {width} x {height} and {w} x {h} px are not one pyramid; add OME-Zarr multiscales",
            )
    return tuple(levels)


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


def _array(path: str, group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise UnreadableSlideError(path, f"level {name!r} is listed but not there; the copy is incomplete")
    return found


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


def _recorded_mpp(multiscale: Mapping[str, Any], axes: str) -> RecordedMpp | None:
    """Scale of level 0 along y and x, where the axes name a unit of length."""
    units = {
        axis["name"]: axis.get("unit") for axis in multiscale.get("axes", []) if isinstance(axis, Mapping)
    }
    scale = [1.0] * len(axes)
    found = False
    for owner in (multiscale["datasets"][0], multiscale):
        for transformation in owner.get("coordinateTransformations", []):
            if transformation.get("type") == "scale":
                found = True
                scale = [a * float(b) for a, b in zip(scale, transformation["scale"], strict=True)]
    um = [_UM_PER_UNIT.get(str(units.get(axis))) for axis in "xy"]
    if not found or um[0] is None or um[1] is None:
        return None
    x, y = scale[axes.index("x")] * um[0], scale[axes.index("y")] * um[1]
    if not (0 < x < math.inf and 0 < y < math.inf):
        return None
    return RecordedMpp(x=x, y=y, source="OME-Zarr scale")
