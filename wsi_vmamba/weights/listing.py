"""All weights that have a name, here or not, as rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model.releases import RELEASES
from wsi_vmamba.model.shipped import named_files, shipped_files
from wsi_vmamba.model.stored import VARIANT, read_header

_BYTES_PER_NUMBER = 4


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of `wsi-vmamba weights list`.

    Attributes:
        name: for ``--weights``.
        backbone: the variant that it is of.
        size_mb: of the file; of one that is not here, what its parameters take up in float32, with a tilde.
        top1_percent: on ImageNet-1K as the publishers state it; empty where nobody does.
        licence: as stated.
        where: the file, or how to have it.
    """

    name: str
    backbone: str
    size_mb: str
    top1_percent: str
    licence: str
    where: str


def listed() -> list[Listed]:
    """Shipped, imported and published weights, in this order; published ones that are here come once."""
    here = named_files()
    shipped = shipped_files()
    rows = [_here(name, file, shipped=name in shipped) for name, file in here.items()]
    return rows + [_not_here(name) for name in RELEASES if name not in here]


def _here(name: str, file: Path, *, shipped: bool) -> Listed:
    try:
        header = dict(read_header(file))
        size_mb = f"{file.stat().st_size / 1e6:.1f}"
    except (WeightsError, OSError):
        return Listed(
            name=name,
            backbone="damaged",
            size_mb="",
            top1_percent="",
            licence="",
            where=f"{file} (weights verify)",
        )
    return Listed(
        name=name,
        backbone=header.get(VARIANT, "unknown"),
        size_mb=size_mb,
        top1_percent=_top1(name, header),
        licence="Apache-2.0" if shipped else header.get("licence", "not stated"),
        where="comes with the package" if shipped else str(file),
    )


def _top1(name: str, header: dict[str, str]) -> str:
    """As published, of what is that release: a file of its name from another place may be anything."""
    release = RELEASES.get(name)
    known = release is not None and header.get("source") == release.url
    return f"{release.top1_percent} (theirs)" if release is not None and known else ""


def _not_here(name: str) -> Listed:
    release = RELEASES[name]
    return Listed(
        name=name,
        backbone=release.variant,
        size_mb=f"~{release.parameters_m * _BYTES_PER_NUMBER}",
        top1_percent=f"{release.top1_percent} (theirs)",
        licence=release.licence,
        where=f"not here: wsi-vmamba weights add {name}",
    )
