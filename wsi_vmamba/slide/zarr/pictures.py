"""The pictures that a zarr group holds: their arrays, not looked at further, and what the metadata say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.canvas import RecordedMpp
from wsi_vmamba.slide.channels import Channel, hex_rgb
from wsi_vmamba.slide.lengths import LengthError, length_um
from wsi_vmamba.slide.ome_xml import OmeImage, read_ome_images
from wsi_vmamba.slide.scenes import Scene
from wsi_vmamba.slide.zarr.guard import OME_XML

#: Groups of a bioformats2raw folder; a plate may have thousands, a slide has a handful.
MAX_PICTURES = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredArray:
    """One array of a multiscales entry, not looked at further, and what the entry says of it."""

    array: zarr.Array[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ZarrPicture:
    """One entry of some group's multiscales: the group, the entry, its arrays, finest first, resolution, channels."""

    group: zarr.Group
    multiscale: Mapping[str, Any]
    levels: tuple[StoredArray, ...]
    scene: Scene
    mpp: RecordedMpp | None = None
    problem: str = ""
    channels: tuple[Channel, ...] = ()


def find_pictures(path: str, root: zarr.Group) -> list[ZarrPicture]:
    """All multiscales entries, of the group itself or of the groups that the bioformats2raw layout lists."""
    facts = facts_of(root)
    entries: list[tuple[zarr.Group, Mapping[str, Any], OmeImage | None]]
    if "multiscales" in facts:
        entries = [(root, entry, None) for entry in facts["multiscales"]]
    elif "bioformats2raw.layout" in facts:
        images = _ome_images(path, root)
        entries = [
            (group, entry, images[number] if number < len(images) else None)
            for number, group in enumerate(_series(path, root))
            for entry in facts_of(group).get("multiscales", [])
        ]
        if not entries:
            raise UnreadableSlideError(
                path, 'expected a picture in group "0" of the bioformats2raw layout, found none'
            )
    else:
        return []
    return [
        _picture(path, group, entry, number=number, image=image)
        for number, (group, entry, image) in enumerate(entries)
    ]


def facts_of(group: zarr.Group) -> dict[str, Any]:
    """Attributes of a group; those under "ome", where they are since 0.5, as if they were its own."""
    facts: dict[str, Any] = dict(group.attrs)
    return {**facts, **facts.get("ome", {})}


def _series(path: str, root: zarr.Group) -> list[zarr.Group]:
    """The groups of a bioformats2raw folder, as its OME group lists them, else 0, 1, 2 and so on."""
    ome = root.get("OME")
    listed = facts_of(ome).get("series") if isinstance(ome, zarr.Group) else None
    names = [str(name) for name in listed] if listed else [str(number) for number in range(MAX_PICTURES + 1)]
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
        if len(groups) > MAX_PICTURES:
            raise UnreadableSlideError(
                path, f"it holds more than {MAX_PICTURES} pictures; name the group of one, as in {path}/0"
            )
    return groups


def _ome_images(path: str, root: zarr.Group) -> list[OmeImage]:
    """The pictures, in their order, in the OME-XML that bioformats2raw leaves; none where there is none."""
    prefix = f"{root.path}/" if root.path else ""
    text = sync(root.store.get(f"{prefix}{OME_XML}", default_buffer_prototype()))
    return [] if text is None else read_ome_images(path, text.to_bytes())


def _picture(
    path: str, group: zarr.Group, multiscale: Mapping[str, Any], *, number: int, image: OmeImage | None
) -> ZarrPicture:
    axes = axes_of(multiscale)
    levels = [
        StoredArray(array=_array(path, group, facts["path"]), facts=facts) for facts in multiscale["datasets"]
    ]
    # The standard wants the largest first; not all writers know.
    levels.sort(key=lambda level: math.prod(_size_px(level.array, axes)), reverse=True)
    mpp, problem = None, ""
    try:
        mpp = _recorded_mpp(multiscale, levels[0].facts, axes)
    except LengthError as error:
        problem = str(error)
    width, height = _size_px(levels[0].array, axes)
    name = "" if image is None else image.name
    own_name = str(multiscale.get("name") or name)
    scene = Scene(
        number=number,
        width_px=width,
        height_px=height,
        name=name if own_name in {"/", "0"} else own_name,
        mpp=None if mpp is None else (mpp.x + mpp.y) / 2,
    )
    return ZarrPicture(
        group=group,
        multiscale=multiscale,
        levels=tuple(levels),
        scene=scene,
        mpp=mpp,
        problem=problem,
        channels=_omero_channels(group) or (() if image is None else image.channels),
    )


def _omero_channels(group: zarr.Group) -> tuple[Channel, ...]:
    """What the rendering settings of OMERO's, which OME-Zarr took over, say of the channels; mostly nothing."""
    omero = facts_of(group).get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    return tuple(
        Channel(name=str(each.get("label") or ""), rgb=hex_rgb(each.get("color")))
        for each in listed or ()
        if isinstance(each, Mapping)
    )


def _size_px(array: zarr.Array[Any], axes: str) -> tuple[int, int]:
    """(width, height), for the choice; wrong axes are refused once the picture is chosen."""
    sides = [array.shape[axes.index(axis)] if axis in axes[: array.ndim] else 0 for axis in "xy"]
    return sides[0], sides[1]


def axes_of(multiscale: Mapping[str, Any]) -> str:
    """A letter per dimension; 0.3 and older knew only "tczyx" in full or as plain names."""
    axes = multiscale.get("axes", "tczyx")
    return "".join(axis["name"] if isinstance(axis, Mapping) else axis for axis in axes)


def _array(path: str, group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise UnreadableSlideError(path, f"level {name!r} is listed but not there; the copy is incomplete")
    return found


def _recorded_mpp(multiscale: Mapping[str, Any], finest: Mapping[str, Any], axes: str) -> RecordedMpp | None:
    """Scale of level 0 along y and x, where the axes name a unit of length.

    Raises:
        LengthError: the unit is not known.
    """
    units = {
        axis["name"]: axis.get("unit") for axis in multiscale.get("axes", []) if isinstance(axis, Mapping)
    }
    own, common = scale_of(finest, axes), scale_of(multiscale, axes)
    if own is None and common is None:
        return None
    sides = []
    for axis in "xy":
        place = axes.index(axis)
        scale = (own[place] if own else 1.0) * (common[place] if common else 1.0)
        sides.append(length_um(scale, str(units.get(axis) or ""), what=f"OME-Zarr's scale of {axis}"))
    x, y = sides
    return None if x is None or y is None else RecordedMpp(x=x, y=y, source="OME-Zarr scale")


def scale_of(owner: Mapping[str, Any], axes: str) -> list[float] | None:
    """The product of an entry's scales, a number per axis; None where it has none."""
    found = [
        [float(each) for each in transformation["scale"]]
        for transformation in owner.get("coordinateTransformations", [])
        if transformation.get("type") == "scale"
    ]
    return [math.prod(each) for each in zip([1.0] * len(axes), *found, strict=True)] if found else None
