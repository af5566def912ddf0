"""The numbers that define one VMamba: a frozen, checked record of explicit fields. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from math import ceil, isfinite
from typing import Any, Literal, get_args

from wsi_vmamba.errors import UsageError

PatchEmbed = Literal[1, 2]
Downsample = Literal[1, 2, 3]
NormLayout = Literal["ln2d", "ln"]


@dataclass(frozen=True, kw_only=True)
class VMambaConfig:
    """Shape of a VMamba classifier; ratios and layouts are explicit fields, never a packed mode string.

    Attributes:
        depths: blocks per stage.
        dims: channels per stage (d_model), as many as ``depths``.
        ssm_ratio: d_inner / d_model of the selective scan.
        d_state: states per channel (N).
        mlp_ratio: hidden width of the MLP / d_model; 0 leaves the MLP out.
        gated: multiply the normalised scan by SiLU of a second in_proj branch (z) before out_proj.
        conv_bias: give the depthwise 3x3 convolution a bias.
        patch_embed: 1 = one 4x4 stride-4 convolution; 2 = two 3x3 stride-2 convolutions with GELU between.
        downsample: 1 = patch merging (2x2 patches, norm, linear); 2 = 2x2 stride-2 convolution and norm;
            3 = 3x3 stride-2 convolution and norm.
        norm_layout: memory order of the maps handed out: "ln2d" = channels first, "ln" = channels last.
            Shapes and numbers are the same, (B, C, H, W) either way.
        share_directions: one set of x_proj, dt_proj, A and D for all four scans instead of one per scan.
        num_classes: outputs of the linear head.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    ssm_ratio: float = 1.0
    d_state: int = 1
    mlp_ratio: float = 4.0
    gated: bool = False
    conv_bias: bool = False
    patch_embed: PatchEmbed = 2
    downsample: Downsample = 3
    norm_layout: NormLayout = "ln2d"
    share_directions: bool = False
    num_classes: int = 1000

    def __post_init__(self) -> None:
        self._check_types()
        if len(self.depths) != len(self.dims):
            raise UsageError(f"depths and dims must be of equal length; got {self.depths} and {self.dims}")
        if min(self.d_inner(stage) for stage in range(len(self.dims))) < 1:
            raise UsageError(
                f"ssm_ratio {self.ssm_ratio:g} leaves no channels for dims {self.dims}; raise it"
            )
        if self.patch_embed == 2 and self.dims[0] % 2:
            raise UsageError(
                f"patch_embed 2 halves the first width, so dims[0] must be even; got {self.dims[0]}"
            )

    def _check_types(self) -> None:
        """Refuse, by name, every field whose value is of the wrong kind."""
        kinds: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
            ("a tuple of positive integers, one per stage", _is_counts, ("depths", "dims")),
            ("a positive integer", _is_count, ("d_state", "num_classes")),
            (
                "true or false",
                lambda value: isinstance(value, bool),
                ("gated", "conv_bias", "share_directions"),
            ),
            ("a positive number", lambda value: _is_number(value) and value > 0, ("ssm_ratio",)),
            ("a number of at least 0", lambda value: _is_number(value) and value >= 0, ("mlp_ratio",)),
            ("1 or 2", lambda value: _is_count(value) and value in get_args(PatchEmbed), ("patch_embed",)),
            ("1, 2 or 3", lambda value: _is_count(value) and value in get_args(Downsample), ("downsample",)),
            ("'ln2d' or 'ln'", lambda value: value in get_args(NormLayout), ("norm_layout",)),
        )
        for wanted, holds, names in kinds:
            for name in names:
                if not holds(getattr(self, name)):
                    raise UsageError(f"{name} must be {wanted}; got {getattr(self, name)!r}")

    @property
    def stride_px(self) -> int:
        """Input pixels per token of the last stage, along each axis."""
        return 4 << (len(self.depths) - 1)

    def d_inner(self, stage: int) -> int:
        """Channels of the scan in a stage."""
        return int(self.ssm_ratio * self.dims[stage])

    def dt_rank(self, stage: int) -> int:
        """Rank of the step-size projection in a stage: a sixteenth of d_model (not of d_inner), rounded up."""
        return ceil(self.dims[stage] / 16)

    def with_classes(self, num_classes: int) -> VMambaConfig:
        """The same network with another number of outputs."""
        return replace(self, num_classes=num_classes)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> VMambaConfig:
        """Build from a plain mapping of the fields, lists standing for tuples (as YAML and JSON give them).

        Raises:
            UsageError: an unknown key (the nearest valid one is named), a missing one, or a wrong value.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise UsageError(f"unknown model field {key!r}{hint}; choose from {', '.join(known)}")
        if missing := [key for key in ("depths", "dims") if key not in values]:
            raise UsageError(f"a model needs {' and '.join(missing)}, as in depths: [2, 2, 8, 2]")
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_counts(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(_is_count(item) for item in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
