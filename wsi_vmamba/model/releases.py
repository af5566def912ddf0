"""The checkpoints that the authors of VMamba published, as one table; none comes with this package.

Facts are those of `README.md` and `assets/performance.md` of https://github.com/MzeroMiko/VMamba as of 2025-03-07. That
repository is under the MIT licence and states no other for the checkpoints; it states neither sizes nor checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_RELEASES = "https://github.com/MzeroMiko/VMamba/releases/download"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published checkpoint of an ImageNet-1K classifier at 224 px.

    Attributes:
        variant: name in `wsi_vmamba.model.variants.VARIANTS`.
        top1_percent: accuracy as its authors state it; it was not measured here.
        parameters_m: millions of parameters, as they state it.
        tag: of the release.
        file: name of the file.
        licence: of the repository.
    """

    variant: str
    top1_percent: float
    parameters_m: int
    tag: str
    file: str
    licence: str = "MIT"

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"{_RELEASES}/%23{self.tag}/{self.file}"


def _v2(variant: str, top1_percent: float, parameters_m: int, file: str) -> Release:
    return Release(
        variant=variant, top1_percent=top1_percent, parameters_m=parameters_m, tag="v2cls", file=file
    )


def _v0(variant: str, top1_percent: float, parameters_m: int, file: str) -> Release:
    return Release(
        variant=variant, top1_percent=top1_percent, parameters_m=parameters_m, tag="v0cls", file=file
    )


#: Name, which is the head of the file's -> checkpoint.
RELEASES: Mapping[str, Release] = {
    "vssm1_tiny_0230s": _v2("vmamba_tiny_s1l8", 82.6, 30, "vssm1_tiny_0230s_ckpt_epoch_264.pth"),
    "vssm_tiny_0230": _v2("vmamba_tiny_s2l5", 82.5, 31, "vssm_tiny_0230_ckpt_epoch_262.pth"),
    "vssm1_small_0229s": _v2("vmamba_small_s1l20", 83.3, 49, "vssm1_small_0229s_ckpt_epoch_240.pth"),
    "vssm_small_0229": _v2("vmamba_small_s2l15", 83.6, 50, "vssm_small_0229_ckpt_epoch_222.pth"),
    "vssm1_base_0229s": _v2("vmamba_base_s1l20", 83.8, 87, "vssm1_base_0229s_ckpt_epoch_225.pth"),
    "vssm_base_0229": _v2("vmamba_base_s2l15", 83.9, 89, "vssm_base_0229_ckpt_epoch_237.pth"),
    "vssmtiny_dp01": _v0("vmamba_tiny_v0", 82.2, 23, "vssmtiny_dp01_ckpt_epoch_292.pth"),
    "vssmsmall_dp03": _v0("vmamba_small_v0", 83.5, 44, "vssmsmall_dp03_ckpt_epoch_238.pth"),
    "vssmbase_dp06": _v0("vmamba_base_v0", 83.7, 76, "vssmbase_dp06_ckpt_epoch_241.pth"),
}


def releases_of(variant: str) -> tuple[str, ...]:
    """Names of the published checkpoints of a variant."""
    return tuple(name for name, release in RELEASES.items() if release.variant == variant)
