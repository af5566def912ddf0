"""One entry for every format of annotation file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsi_vmamba.annotation.asap import read_asap
from wsi_vmamba.annotation.geojson import read_geojson
from wsi_vmamba.annotation.model import GROUPS, Annotation, Role


def read_annotation(
    path: str | Path,
    *,
    groups: Mapping[str, Role] = GROUPS,
    others: Role | None = None,
    content: bytes | None = None,
) -> Annotation:
    """Read an annotation file: GeoJSON where the name ends in .json or .geojson, else ASAP XML.

    A group or class that ``groups`` does not name follows the one it is part of: a subgroup of Tumor is tumour.

    Args:
        path: the file.
        groups: what each group or class name (lower case) means.
        others: what all other names mean; None leaves them out, with a note.
        content: the bytes of the file, where they have been read; the file is not looked at again.

    Raises:
        AnnotationError: the file is missing, malformed, declares entities, or has areas of unknown groups only.
    """
    path = Path(path)
    if path.suffix.lower() in (".json", ".geojson"):
        return read_geojson(path, groups=groups, others=others, content=content)
    return read_asap(path, groups=groups, others=others, content=content)
