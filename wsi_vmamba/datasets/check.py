"""Whether the files of a public data set are all in a folder, and sound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba import console
from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.datasets.download import INVENTORY
from wsi_vmamba.datasets.fetch import md5_of
from wsi_vmamba.datasets.remote import RemoteDataset
from wsi_vmamba.errors import AnnotationError, DatasetError, SlideError
from wsi_vmamba.slide import open_slide

#: Side of the square that is decoded at two ends of each slide.
_PROBE_PX = 256


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One file that is not as it should be: ``kind`` is missing, extra or damaged."""

    kind: str
    path: str
    cause: str = ""


def check_slides(
    remote: RemoteDataset, folder: Path, expected: tuple[str, ...], *, checksums: bool
) -> list[Finding]:
    """Look at every slide that should be there, and for files that belong to no slide.

    Args:
        remote: the data set.
        folder: where its files should be.
        expected: names of the slides.
        checksums: hash every file whose checksum is known, which takes long.
    """
    images, known = folder / remote.images, _inventory(folder)
    findings = []
    with console.progress("check", len(expected)) as task:
        for slide_id in expected:
            path = images / f"{slide_id}.tif"
            name = path.relative_to(folder).as_posix()
            if not path.is_file():
                findings.append(Finding(kind="missing", path=name))
            elif cause := _slide_damage(path, known.get(name, {}), checksums=checksums):
                findings.append(Finding(kind="damaged", path=name, cause=cause))
            task.step(slide_id)
    for path in sorted(images.glob("*")) if images.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if path.name.endswith(".part"):
            findings.append(Finding(kind="extra", path=name, cause="an unfinished download"))
        elif not (path.suffix == ".tif" and path.stem in remote.slide_ids):
            findings.append(Finding(kind="extra", path=name, cause=f"no slide of {remote.name}"))
    return findings


def check_outlines(
    remote: RemoteDataset, folder: Path, expected: tuple[str, ...]
) -> tuple[list[Finding], dict[str, tuple[str, ...]]]:
    """Read every outline file, and name those that the folder's own list has and the folder lacks.

    Returns:
        The findings, and for each file what was repaired or left out of it.
    """
    here = {path.relative_to(folder).as_posix(): path for path in (folder / remote.annotations).glob("*.xml")}
    chosen, notes = set(expected), {}
    findings = [
        Finding(kind="missing", path=name)
        for name in _inventory(folder)
        if Path(name).parent.name == remote.annotations and Path(name).stem in chosen and name not in here
    ]
    for name, path in sorted(here.items()):
        if path.stem not in remote.slide_ids:
            findings.append(Finding(kind="extra", path=name, cause=f"no slide of {remote.name}"))
            continue
        try:
            notes[name] = read_annotation(path).notes
        except AnnotationError as error:
            findings.append(Finding(kind="damaged", path=name, cause=str(error)))
    return findings, notes


def _slide_damage(path: Path, known: Mapping[str, Any], *, checksums: bool) -> str:
    """What is wrong with a slide file; empty where nothing was found."""
    size = path.stat().st_size
    if known and size != known["size_bytes"]:
        return f"{size} bytes, expected {known['size_bytes']}"
    try:
        with open_slide(path) as slide:
            base, top = slide.levels[0], len(slide.levels) - 1
            # The last pixels of the finest level and the first of the coarsest: a cut file lacks one of them.
            slide.read_region(
                x_l0=max(0, base.width_px - _PROBE_PX), y_l0=max(0, base.height_px - _PROBE_PX), level=0,
                width_px=min(_PROBE_PX, base.width_px), height_px=min(_PROBE_PX, base.height_px),
            )  # fmt: skip
            slide.read_region(x_l0=0, y_l0=0, level=top, width_px=_PROBE_PX, height_px=_PROBE_PX)
    except SlideError as error:
        return error.message
    if checksums and known.get("md5") and (found := md5_of(path)) != known["md5"]:
        return f"MD5 {found}, expected {known['md5']}"
    return ""


def _inventory(folder: Path) -> dict[str, Any]:
    """Sizes and checksums that the download left; empty where the files came another way."""
    path = folder / INVENTORY
    if not path.is_file():
        return {}
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}); remove it and run the download again") from error
    return known
