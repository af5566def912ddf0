"""What a zarr image says about itself: its arrays, finest first, their axes and the resolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from wsi_vmamba.errors import UnreadableSlideError, UnsupportedSlideError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.lengths import LengthError, length_um
from wsi_vmamba.slide.ome_xml import read_ome_images
from wsi_vmamba.slide.resolution import MPP_NOTE, MPP_PROBLEM
from wsi_vmamba.slide.scenes import Scene, choose_scene, only_scene, scene_properties
from wsi_vmamba.slide.zarr_guard import OME_XML

#: Groups of a bioformats2raw folder; a plate may have thousands, a slide has a handful.
_MAX_PICTURES = 256
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Picture:
    """One entry of some group's multiscales: the group, the entry, its arrays, finest first, and its resolution."""

    group: zarr.Group
    multiscale: Mapping[str, Any]
    levels: tuple[_Stored, ...]
    scene: Scene
    mpp: RecordedMpp | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stored:
    """One array of a multiscales entry, not looked at further, and what the entry says of it."""

    array: zarr.Array[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_layout(path: str, root: zarr.Group | zarr.Array[Any], *, scene: int | None = None) -> ZarrLayout:
    """Read the metadata of an OME-Zarr group (0.4 or 0.5), a plain group of levels, or one array.

    Args:
        path: for messages.
        root: the group or array.
        scene: which of its pictures; None for the one that is the slide.

    Raises:
        SceneError: there is no such scene, or nothing tells which of them is the slide.
        UnreadableSlideError: no picture in it, or not one RGB or grey plane of 8 bits.
    """
    form = f"zarr v{root.metadata.zarr_format}"
    if isinstance(root, zarr.Array):
        only_scene(path, scene, reader="zarr")
        return ZarrLayout(
            levels=(_level(path, root, _guess_axes(path, root)),), mpp=None, properties={"format": form}
        )
    pictures = _pictures(path, root)
    if not pictures:
        only_scene(path, scene, reader="zarr")
        levels = _plain_group(path, root)
        return ZarrLayout(levels=levels, mpp=None, properties={"format": f"{form} group"})
    scenes = [picture.scene for picture in pictures]
    chosen = choose_scene(path, scenes, asked=scene)
    picture = next(picture for picture in pictures if picture.scene is chosen)
    axes = _axes(picture.multiscale)
    levels = tuple(_level(path, stored.array, axes) for stored in picture.levels)
    _check_pyramid(path, levels)
    properties = {
        "format": f"OME-Zarr ({form})",
        **scene_properties(chosen, scenes),
        MPP_PROBLEM: picture.problem,
        MPP_NOTE: _contradiction(picture, levels),
    }
    return ZarrLayout(
        levels=levels, mpp=picture.mpp, properties={key: text for key, text in properties.items() if text}
    )


def _pictures(path: str, root: zarr.Group) -> list[_Picture]:
    """All multiscales entries, of the group itself or of the groups that the bioformats2raw layout lists."""
    facts = _facts(root)
    if "multiscales" in facts:
        entries = [(root, entry, "") for entry in facts["multiscales"]]
    elif "bioformats2raw.layout" in facts:
        names = _ome_names(path, root)
        entries = [
            (group, entry, names[number] if number < len(names) else "")
            for number, group in enumerate(_series(path, root))
            for entry in _facts(group).get("multiscales", [])
        ]
        if not entries:
            raise UnreadableSlideError(
                path, 'expected a picture in group "0" of the bioformats2raw layout, found none'
            )
    else:
        return []
    return [
        _picture(path, group, entry, number=number, name=name)
        for number, (group, entry, name) in enumerate(entries)
    ]


def _facts(group: zarr.Group) -> dict[str, Any]:
    """Attributes of a group; those under "ome", where they are since 0.5, as if they were its own."""
    facts: dict[str, Any] = dict(group.attrs)
    return {**facts, **facts.get("ome", {})}


def _series(path: str, root: zarr.Group) -> list[zarr.Group]:
    """The groups of a bioformats2raw folder, as its OME group lists them, else 0, 1, 2 and so on."""
    ome = root.get("OME")
    listed = _facts(ome).get("series") if isinstance(ome, zarr.Group) else None
    names = [str(name) for name in listed] if listed else [str(number) for number in range(_MAX_PICTURES + 1)]
    groups = []
    for name in names:
        group = root.get(name)
        if not isinstance(group, zarr.Group):
            if listed:
                raise UnreadableSlideError(
                    path, f"picture {name!r} is listed but not there; the copy is incomplete"
                )
            break
        groups.append(group)
        if len(groups) > _MAX_PICTURES:
            raise UnreadableSlideError(
                path, f"it holds more than {_MAX_PICTURES} pictures; name the group of one, as in {path}/0"
            )
    return groups


def _ome_names(path: str, root: zarr.Group) -> list[str]:
    """Names of the pictures, in their order, from the OME-XML that bioformats2raw leaves; none where there is none."""
    prefix = f"{root.path}/" if root.path else ""
    text = sync(root.store.get(f"{prefix}{OME_XML}", default_buffer_prototype()))
    return [] if text is None else [image.name for image in read_ome_images(path, text.to_bytes())]


def _picture(
    path: str, group: zarr.Group, multiscale: Mapping[str, Any], *, number: int, name: str
) -> _Picture:
    axes = _axes(multiscale)
    levels = [
        _Stored(array=_array(path, group, facts["path"]), facts=facts) for facts in multiscale["datasets"]
    ]
    # The standard wants the largest first; not all writers know.
    levels.sort(key=lambda level: math.prod(_size_px(level.array, axes)), reverse=True)
    mpp, problem = None, ""
    try:
        mpp = _recorded_mpp(multiscale, levels[0].facts, axes)
    except LengthError as error:
        problem = str(error)
    width, height = _size_px(levels[0].array, axes)
    own_name = str(multiscale.get("name") or name)
    scene = Scene(
        number=number,
        width_px=width,
        height_px=height,
        name=name if own_name in {"/", "0"} else own_name,
        mpp=None if mpp is None else (mpp.x + mpp.y) / 2,
    )
    return _Picture(
        group=group, multiscale=multiscale, levels=tuple(levels), scene=scene, mpp=mpp, problem=problem
    )


def _size_px(array: zarr.Array[Any], axes: str) -> tuple[int, int]:
    """(width, height), for the choice; wrong axes are refused once the picture is chosen."""
    sides = [array.shape[axes.index(axis)] if axis in axes[: array.ndim] else 0 for axis in "xy"]
    return sides[0], sides[1]


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


def _contradiction(picture: _Picture, levels: Sequence[ZarrLevel]) -> str:
    """Where the scale of a level contradicts its size; empty where none does.

    Only the scale of the finest level is used. Converters are known to get the others wrong, so it may well be right.
    """
    axes = _axes(picture.multiscale)
    first = _scale(picture.levels[0].facts, axes)
    for stored, level in zip(picture.levels, levels, strict=True):
        scale = _scale(stored.facts, axes)
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


def _axes(multiscale: Mapping[str, Any]) -> str:
    """A letter per dimension; 0.3 and older knew only "tczyx" in full or as plain names."""
    axes = multiscale.get("axes", "tczyx")
    return "".join(axis["name"] if isinstance(axis, Mapping) else axis for axis in axes)


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
    facts = _facts(group)
    if "plate" in facts or "well" in facts:
        return "; it is a plate of many pictures, name one of them, such as A/1/0 below it"
    inside = [
        name
        for name, child in itertools.islice(group.groups(), _MAX_PICTURES)
        if "multiscales" in _facts(child)
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


def _recorded_mpp(multiscale: Mapping[str, Any], finest: Mapping[str, Any], axes: str) -> RecordedMpp | None:
    """Scale of level 0 along y and x, where the axes name a unit of length.

    Raises:
        LengthError: the unit is not known.
    """
    units = {
        axis["name"]: axis.get("unit") for axis in multiscale.get("axes", []) if isinstance(axis, Mapping)
    }
    own, common = _scale(finest, axes), _scale(multiscale, axes)
    if own is None and common is None:
        return None
    sides = []
    for axis in "xy":
        place = axes.index(axis)
        scale = (own[place] if own else 1.0) * (common[place] if common else 1.0)
        sides.append(length_um(scale, str(units.get(axis) or ""), what=f"OME-Zarr's scale of {axis}"))
    x, y = sides
    return None if x is None or y is None else RecordedMpp(x=x, y=y, source="OME-Zarr scale")


def _scale(owner: Mapping[str, Any], axes: str) -> list[float] | None:
    """The product of an entry's scales, a number per axis; None where it has none."""
    found = [
        [float(each) for each in transformation["scale"]]
        for transformation in owner.get("coordinateTransformations", [])
        if transformation.get("type") == "scale"
    ]
    return [math.prod(each) for each in zip([1.0] * len(axes), *found, strict=True)] if found else None
