"""Which rectangles of a slide are read, at which level and scale: pure arithmetic, no pixels.

The target canvas is the slide at ``target_mpp``, anchored at the slide's origin. A global grid of patches of
``patch_px`` target pixels lies on it; a patch keeps its place and its pixels whatever the regions are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.config import PlanConfig, default_of
from wsi_vmamba.errors import NoTissueError, UsageError
from wsi_vmamba.region_split import WORTH_PX, cut_patches
from wsi_vmamba.slide.base import Level
from wsi_vmamba.tissue.mask import TissueMask

#: A slide this much coarser than the target is still read, by interpolation; more would invent detail.
MAX_UPSAMPLING = 1.05
#: A coarser level may miss the target by this much: writers round the sizes of levels, so 4.0001 means 4.
_LEVEL_SLACK = 1.005
#: Scales nearer than this to a whole number are that number; over a million pixels that drifts 1/2 px.
_WHOLE = 5e-7


@dataclass(frozen=True, kw_only=True)
class RegionSpec:
    """How a slide is to be cut up; the defaults are those of `extract`.

    Attributes:
        target_mpp: micrometres per pixel of what the encoder sees.
        region_px: longest side of a region in target pixels; regions are whole patches, so 10,000 with patches of
            256 gives at most 9,984. "whole" makes one region of all patches of the slide.
        patch_px: side in target pixels of the square that one stored feature stands for.
        min_tissue: smallest share of tissue, 0 to 1, of a patch that is kept; 0 keeps patches with any tissue.
        background: whether the encoder reads patches of a region that are not kept, or skips them.
        shuffle_px: side of blocks whose pixels are at each other's places, see `shuffled`; None: all are at their own.
    """

    target_mpp: float = default_of(PlanConfig, "target_mpp")
    region_px: int | Literal["whole"] = default_of(PlanConfig, "region_px")
    patch_px: int = default_of(PlanConfig, "patch_px")
    min_tissue: float = default_of(PlanConfig, "min_tissue")
    background: Literal["read", "skip"] = "read"
    shuffle_px: int | None = None

    def __post_init__(self) -> None:
        for name in ("region_px", "patch_px"):
            value = getattr(self, name)
            if (name, value) == ("region_px", "whole"):
                continue
            if type(value) is not int or value <= 0:
                raise UsageError(f"{name} must be a positive whole number of pixels, got {value!r}")
        for name in ("target_mpp", "min_tissue"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise UsageError(f"{name} must be a finite number, got {value!r}")
        if self.target_mpp <= 0:
            raise UsageError(f"target_mpp must be positive, got {self.target_mpp}")
        if not 0 <= self.min_tissue <= 1:
            raise UsageError(f"min_tissue is a share from 0 to 1, got {self.min_tissue}")
        if self.region_px != "whole" and self.region_px < self.patch_px:
            raise UsageError(
                f"region_px ({self.region_px}) must hold at least one patch ({self.patch_px}); raise region_px"
            )
        if self.shuffle_px is not None and (self.shuffle_px <= 0 or self.shuffle_px % self.patch_px):
            raise UsageError(
                f"shuffle_px must be whole patches, a multiple of {self.patch_px}, got {self.shuffle_px}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The values as plain JSON; of those that older files lack only what differs from them."""
        as_before = {"background": "read", "shuffle_px": None}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in as_before or value != as_before[name]
        }

    @property
    def region_patches(self) -> int | None:
        """Most patches along one side of a region; None: as many as there are."""
        return None if self.region_px == "whole" else self.region_px // self.patch_px


@dataclass(frozen=True, eq=False, kw_only=True)
class Region:
    """One rectangle that is read and encoded at once, in pixels of the target canvas.

    Attributes:
        index: place in the plan, from 0.
        x_px: left edge; a multiple of the patch, like the three that follow.
        y_px: top edge.
        width_px: width; it may reach past the slide, where pixels are white.
        height_px: height, likewise.
        patches: int64, shape (n, 2): (column, row) on the GLOBAL patch grid of each tissue patch, row by row.
    """

    index: int
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    patches: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        if self.patches.ndim != 2 or self.patches.shape[1] != 2 or len(self.patches) == 0:
            raise UsageError(
                f"a region needs an (n, 2) array of at least one patch, got shape {self.patches.shape}"
            )
        if self.patches.dtype != np.int64:
            raise UsageError(f"patches must be int64, got {self.patches.dtype}")
        self.patches.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Region):
            return NotImplemented
        return self._rect() == other._rect() and np.array_equal(self.patches, other.patches)

    def __hash__(self) -> int:
        return hash(self._rect())

    def _rect(self) -> tuple[int, ...]:
        return self.index, self.x_px, self.y_px, self.width_px, self.height_px


@dataclass(frozen=True, kw_only=True)
class RegionPlan:
    """Every region of one slide, and how target pixels relate to the slide.

    Attributes:
        spec: what was asked for.
        width_l0: width of the slide in level-0 pixels.
        height_l0: height of the slide in level-0 pixels.
        mpp: micrometres per level-0 pixel.
        level: the level to read.
        downsample: level-0 pixels per pixel of the level read.
        scale: pixels of the level per target pixel; at least 1 but for the little upsampling that is allowed.
        regions: the rectangles; together they hold every kept patch once.
    """

    spec: RegionSpec
    width_l0: int
    height_l0: int
    mpp: float
    level: int
    downsample: float
    scale: float
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        patch, patches = self.spec.patch_px, self.spec.region_patches
        longest = math.inf if patches is None else patches * patch
        for place, region in enumerate(self.regions):
            low = region.patches.min(axis=0) * patch
            high = (region.patches.max(axis=0) + 1) * patch
            edges = (region.x_px, region.y_px, region.x_px + region.width_px, region.y_px + region.height_px)
            if region.index != place or edges != (*low, *high):
                raise UsageError(
                    f"region {place} is not the bounding box of its patches; make plans with plan_regions"
                )
            if max(region.width_px, region.height_px) > longest:
                raise UsageError(f"region {place} is longer than {longest} px; make plans with plan_regions")

    def tissue(self, region: Region) -> NDArray[np.bool_]:
        """Which patches of a region are kept, bool (rows, columns)."""
        patch = self.spec.patch_px
        kept = np.zeros((region.height_px // patch, region.width_px // patch), dtype=np.bool_)
        kept[region.patches[:, 1] - region.y_px // patch, region.patches[:, 0] - region.x_px // patch] = True
        return kept

    @property
    def l0_per_px(self) -> float:
        """Level-0 pixels per target pixel."""
        return self.scale * self.downsample

    @property
    def patch_l0(self) -> float:
        """Side of a patch in level-0 pixels."""
        return self.spec.patch_px * self.l0_per_px

    @property
    def width_px(self) -> int:
        """Width of the target canvas."""
        return math.ceil(self.width_l0 / self.l0_per_px)

    @property
    def height_px(self) -> int:
        """Height of the target canvas."""
        return math.ceil(self.height_l0 / self.l0_per_px)

    @property
    def n_patches(self) -> int:
        """Kept patches, that is features, of the whole slide."""
        return sum(len(region.patches) for region in self.regions)

    @property
    def encoded_px(self) -> int:
        """Target pixels that go through the encoder."""
        return sum(region.width_px * region.height_px for region in self.regions)

    def coords_l0(self, region: Region) -> NDArray[np.int64]:
        """Level-0 (x, y) of the top-left corner of each kept patch, int64, shape (n, 2), in patch order."""
        corners: NDArray[np.int64] = np.rint(region.patches * self.patch_l0).astype(np.int64)
        return corners

    def patches_at(self, coords_l0: NDArray[np.int64]) -> NDArray[np.int64]:
        """Global (column, row) of the patches whose top-left corners are given: the inverse of `coords_l0`."""
        patches: NDArray[np.int64] = np.rint(coords_l0 / self.patch_l0).astype(np.int64)
        return patches

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON; patches are runs of [row, first column, count]."""
        return {
            "spec": self.spec.to_dict(),
            "width_l0": self.width_l0,
            "height_l0": self.height_l0,
            "mpp": self.mpp,
            "level": self.level,
            "downsample": self.downsample,
            "scale": self.scale,
            "regions": [patch_runs(region.patches) for region in self.regions],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RegionPlan:
        """Rebuild a plan from `to_dict`.

        Raises:
            UsageError: the mapping is not a plan.
        """
        try:
            spec = RegionSpec(**plain["spec"])
            regions = tuple(_region(i, _patches(runs), spec) for i, runs in enumerate(plain["regions"]))
            scalars = {k: plain[k] for k in ("width_l0", "height_l0", "mpp", "level", "downsample", "scale")}
        except UsageError:
            raise
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UsageError(f"not a region plan as RegionPlan.to_dict writes it: {error!r}") from error
        return cls(spec=spec, regions=regions, **scalars)


def plan_regions(
    *,
    width_l0: int,
    height_l0: int,
    mpp: float,
    levels: Sequence[Level],
    spec: RegionSpec,
    tissue: TissueMask,
) -> RegionPlan:
    """Plan the regions of a slide.

    Patches of the global grid with enough tissue are kept and divided among boxes of at most ``spec.region_patches`` a
    side (see `cut_patches`), or make one box: each is the bounding box of its own patches. The level is the coarsest
    that is as fine as the target.

    Args:
        width_l0: width of the slide in level-0 pixels.
        height_l0: height of the slide in level-0 pixels.
        mpp: micrometres per level-0 pixel.
        levels: the slide's pyramid.
        spec: how to cut.
        tissue: where the tissue is.

    Returns:
        The plan; without regions where no patch has enough tissue (see `require_tissue`).

    Raises:
        UsageError: the slide is more than 1.05 times coarser than the target.
    """
    canvas = plan_canvas(width_l0=width_l0, height_l0=height_l0, mpp=mpp, levels=levels, spec=spec)
    shares = _tissue_shares(
        tissue,
        width_l0=width_l0,
        height_l0=height_l0,
        patch_l0=spec.patch_px * canvas.scale * canvas.downsample,
    )
    # float32-exact masks still give 0.9999999 for a full patch; compare with a hair of tolerance.
    kept = (shares > 0) & (shares >= spec.min_tissue - 1e-9)
    if spec.region_patches is None:
        boxes = [np.argwhere(kept)[:, ::-1].astype(np.int64)] if kept.any() else []
    else:
        boxes = cut_patches(kept, longest=spec.region_patches, worth=max(1, WORTH_PX // spec.patch_px**2))
    regions = tuple(_region(index, patches, spec) for index, patches in enumerate(boxes))
    return replace(canvas, regions=regions)


def plan_canvas(
    *, width_l0: int, height_l0: int, mpp: float, levels: Sequence[Level], spec: RegionSpec
) -> RegionPlan:
    """Plan the target canvas of a slide, without regions: for whoever reads rectangles of it.

    Args:
        width_l0: width of the slide in level-0 pixels.
        height_l0: height of the slide in level-0 pixels.
        mpp: micrometres per level-0 pixel.
        levels: the slide's pyramid; read is the coarsest that is as fine as the target.
        spec: its target_mpp counts.

    Raises:
        UsageError: the slide is more than 1.05 times coarser than the target.
    """
    level, scale = choose_level(mpp=mpp, levels=levels, target_mpp=spec.target_mpp)
    return RegionPlan(
        spec=spec,
        width_l0=width_l0,
        height_l0=height_l0,
        mpp=mpp,
        level=level,
        downsample=levels[level].downsample,
        scale=scale,
        regions=(),
    )


def choose_level(*, mpp: float, levels: Sequence[Level], target_mpp: float) -> tuple[int, float]:
    """Return the level to read for a target resolution, and its pixels per target pixel.

    Raises:
        UsageError: even level 0 is too coarse.
    """
    scales = [target_mpp / (mpp * level.downsample) for level in levels]
    if scales[0] < 1 / MAX_UPSAMPLING:
        raise UsageError(
            f"the slide has {mpp:.4g} um per pixel, the target is {target_mpp:.4g}: that would upsample "
            f"{1 / scales[0]:.2f} times (at most {MAX_UPSAMPLING}); choose a target_mpp of {mpp:.4g} or more"
        )
    fine_enough = [i for i, scale in enumerate(scales) if scale >= 1 / _LEVEL_SLACK]
    best = min(fine_enough, key=lambda i: scales[i], default=0)
    scale = scales[best]
    return best, float(round(scale)) if abs(scale - round(scale)) < _WHOLE else scale


def require_tissue(plan: RegionPlan, *, slide: object, tissue: TissueMask) -> None:
    """Refuse a plan without regions.

    Raises:
        NoTissueError: naming how much tissue was found and what can be done.
    """
    if plan.regions:
        return
    found = "the tissue mask is empty"
    if tissue.mask.any():
        found = (
            f"the tissue mask covers {tissue.area_um2:.0f} um2 ({tissue.share:.2%} of the slide), but no patch "
            f"of {plan.spec.patch_px} px is {plan.spec.min_tissue:.0%} tissue"
        )
    raise NoTissueError(
        slide,
        f"no tissue found: {found}; look at the slide, then lower min_tissue or use the segmenter 'all'",
    )


def _tissue_shares(
    tissue: TissueMask, *, width_l0: int, height_l0: int, patch_l0: float
) -> NDArray[np.float64]:
    """Exact share of tissue in each patch, shape (rows, columns); what lies outside the slide is no tissue."""
    down = tissue.downsample
    rows = _patch_means(tissue.mask, limit=height_l0 / down, patch=patch_l0 / down)
    return _patch_means(rows.T, limit=width_l0 / down, patch=patch_l0 / down).T


def _patch_means(values: NDArray[Any], *, limit: float, patch: float) -> NDArray[np.float64]:
    """Mean over consecutive patches along axis 0, all in mask pixels, cut off at ``limit``."""
    edges = np.minimum(np.arange(math.ceil(limit / patch) + 1) * patch, min(limit, len(values)))
    below = np.minimum(edges.astype(np.int64), len(values) - 1)
    # Totals at the edges only: one for every row of the mask would be many times the mask.
    total = np.zeros((len(edges), values.shape[1]))
    for i in range(1, len(edges)):
        total[i] = total[i - 1] + values[below[i - 1] : below[i]].sum(axis=0, dtype=np.float64)
    # The running total is linear inside a mask pixel, so interpolating it integrates exactly.
    total += (edges - below)[:, None] * values[below]
    means: NDArray[np.float64] = np.diff(total, axis=0) / patch
    return means


def _region(index: int, patches: NDArray[np.int64], spec: RegionSpec) -> Region:
    """The region that just holds some patches."""
    low, high = patches.min(axis=0), patches.max(axis=0) + 1
    x_px, y_px = (int(v) * spec.patch_px for v in low)
    width_px, height_px = (int(v) * spec.patch_px for v in high - low)
    return Region(
        index=index, x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px, patches=np.array(patches)
    )


def patch_runs(patches: NDArray[np.int64]) -> list[list[int]]:
    """Patches (column, row) in reading order as runs [row, first column, count]: a tenth of the JSON of pairs."""
    columns, rows = patches[:, 0], patches[:, 1]
    starts = np.concatenate([[0], np.flatnonzero((np.diff(rows) != 0) | (np.diff(columns) != 1)) + 1])
    counts = np.diff(np.append(starts, len(patches)))
    runs: list[list[int]] = np.stack([rows[starts], columns[starts], counts], axis=1).tolist()
    return runs


def _patches(runs: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Undo `patch_runs`."""
    parts = [np.stack([np.arange(c, c + n), np.full(n, r)], axis=1) for r, c, n in runs]
    return np.concatenate(parts).astype(np.int64)
