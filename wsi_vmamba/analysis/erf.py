"""Effective receptive field: how much each pixel moves the feature of the token in the middle, by real gradients.

Of a pixel it is the norm of the derivative of the feature by the pixel's three normalised colours (root of the sum of
squares over colours and features), estimated with random directions v of the feature: E[(v . J)^2] = |J|^2 for v of
independent standard normal numbers. Each square's map is divided by its sum, then maps are averaged, so that no square
outweighs the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.analysis import spread
from wsi_vmamba.analysis.finding import Report, Sheet, silent
from wsi_vmamba.analysis.memory import require_memory
from wsi_vmamba.analysis.network import Network, features_in_little_memory, images_of, load_network
from wsi_vmamba.analysis.windows import find_windows, middle_of, stack
from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.metrics.base import plain
from wsi_vmamba.model.vmamba import VMamba

DEFAULT_REGIONS_PX = (224, 512)
#: Rings of the radial profile.
_RINGS = 64

Map = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RegionErf:
    """The receptive field within squares of one size.

    Attributes:
        side_px: of the square.
        point_px: (x, y) of the middle of the token, in pixel coordinates: the first pixel has its middle at 0.
        stride_px: pixels of the token along each axis.
        density: (side, side) mean over squares of each one's share of its gradient; sums to 1.
        radii_px: (squares, 3) within which 20, 50 and 90 % of each square's gradient lie.
    """

    side_px: int
    point_px: tuple[float, float]
    stride_px: int
    density: Map
    radii_px: NDArray[np.float64]

    def figures(self) -> dict[str, float]:
        """The numbers of the mean map; ``flat`` is what a map without any preference would have."""
        flat = spread.radii(np.ones_like(self.density), self.point_px)
        cross, cross_area = spread.share_in_cross(self.density, self.point_px, half_width=self.stride_px / 2)
        found = {f"r{share:.0%}_px".replace("%", ""): value for share, value in zip(
            spread.SHARES, spread.radii(self.density, self.point_px), strict=True)}  # fmt: skip
        found |= {
            f"flat_r{share:.0%}_px".replace("%", ""): value
            for share, value in zip(spread.SHARES, flat, strict=True)
        }
        found["area_over_peak"] = spread.area_over_peak(self.density)
        areas = spread.square_areas(self.density, self.point_px)
        found |= {
            f"square_area_{share:.0%}".replace("%", ""): value
            for share, value in zip(spread.SQUARE_SHARES, areas, strict=True)
        }
        return {**found, "cross_share": cross, "cross_area": cross_area}


@dataclass(frozen=True, kw_only=True)
class Erf:
    """The receptive field in squares of several sizes.

    Attributes:
        regions: one of each size.
        squares: names of the squares.
        projections: directions of the feature that were taken; as many as it has numbers: exact.
        facts: the network.
        settings: of the run.
    """

    regions: tuple[RegionErf, ...]
    squares: tuple[str, ...]
    projections: int
    facts: dict[str, str]
    settings: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        return (
            "a square cuts the field off: radii grow with it until the field ends; compare with those of a flat map",
        )

    def summary(self) -> tuple[Sheet, ...]:
        """A line for each size."""
        columns = ("region", "20 % within", "50 % within", "90 % within", "90 % if flat", "area over 4.55 % of peak",
                   "square with 50 %", "in the token's cross")  # fmt: skip
        rows = []
        for one in self.regions:
            f = one.figures()
            rows.append((
                f"{one.side_px} px",
                *(f"{f[f'r{share}_px']:.0f} px" for share in (20, 50, 90)),
                f"{f['flat_r90_px']:.0f} px",
                f"{f['area_over_peak']:.1%}",
                f"{f['square_area_50']:.1%} of area",
                f"{f['cross_share']:.1%} (area {f['cross_area']:.1%})",
            ))  # fmt: skip
        title = f"Effective receptive field of the middle token, {len(self.squares)} squares"
        return (Sheet(title=title, columns=columns, rows=tuple(rows)),)

    def sheets(self) -> dict[str, Sheet]:
        """Figures of each size, radii of each square, and the profile by distance."""
        figures = [one.figures() for one in self.regions]
        radii_rows = [
            (one.side_px, name, *map(float, row))
            for one in self.regions
            for name, row in zip(self.squares, one.radii_px, strict=True)
        ]
        profile_rows = [(one.side_px, *row) for one in self.regions for row in profile(one)]
        return {
            "regions": Sheet(
                title="by size",
                columns=("region_px", *figures[0]),
                rows=tuple((one.side_px, *f.values()) for one, f in zip(self.regions, figures, strict=True)),
            ),
            "squares": Sheet(
                title="by square",
                columns=("region_px", "square", "r20_px", "r50_px", "r90_px"),
                rows=tuple(radii_rows),
            ),
            "profile": Sheet(
                title="by distance",
                columns=("region_px", "distance_px", "mean_density", "share_within"),
                rows=tuple(profile_rows),
            ),
        }

    def maps(self) -> dict[str, NDArray[Any]]:
        """The density of each size, float32."""
        return {f"{one.side_px}px": one.density.astype(np.float32) for one in self.regions}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps."""
        of_regions = [
            {
                "region_px": one.side_px,
                "point_px": list(one.point_px),
                **one.figures(),
                "radii_px_of_squares": one.radii_px,
            }
            for one in self.regions
        ]
        found: dict[str, Any] = plain(
            {
                "settings": self.settings,
                "network": self.facts,
                "squares": list(self.squares),
                "projections": self.projections,
                "shares_of_radii": list(spread.SHARES),
                "regions": of_regions,
            }
        )
        return found

    def draw(self) -> bytes:
        """A map of each size, and the share by distance."""
        from wsi_vmamba.analysis.figures import draw_erf

        return draw_erf(self)


def analyse_erf(config: AnalyseConfig, *, report: Report = silent) -> Erf:
    """Measure the receptive field as the configuration says.

    Raises:
        MemoryLimitError: a region would not fit.
        UsageError: the backbone is no VMamba, or a picture is too small.
    """
    network = load_network(config.backbone, config.weights, seed=config.seed, device=config.device)
    sides = sorted(config.region_px or DEFAULT_REGIONS_PX)
    limit = int(config.memory_limit_gb * 1e9) if config.memory_limit_gb else None
    require_memory(network.model.config, side_px=sides[-1], memory_limit=limit, device=network.device)
    windows = find_windows(config, side_px=sides[-1], count=config.windows)
    return measure_erf(
        network,
        stack(windows),
        sides_px=sides,
        projections=config.projections,
        seed=config.seed,
        squares=tuple(one.name for one in windows),
        settings=config.model_dump(mode="json"),
        report=report,
    )


def measure_erf(
    network: Network,
    pictures: NDArray[np.uint8],
    *,
    sides_px: Sequence[int],
    projections: int,
    seed: int,
    squares: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    report: Report = silent,
) -> Erf:
    """Measure the receptive field of the middle token, in squares of each size cut from pictures (B, H, W, 3)."""
    model = network.model
    exact = projections >= model.dim
    rng = np.random.default_rng([seed, 0xE2F])
    regions = []
    for side_px in sides_px:
        maps = []
        for picture in pictures:
            drawn = rng.standard_normal((projections, model.dim)) / np.sqrt(projections)
            vectors = np.eye(model.dim) if exact else drawn
            image = images_of(model, middle_of(picture, side_px)[None])
            norms, point = gradient_norms(model, image, torch.from_numpy(vectors).float())
            maps.append(norms / max(norms.sum(), np.finfo(np.float64).tiny))
            report(f"gradients of {side_px} px", len(pictures))
        regions.append(
            RegionErf(
                side_px=side_px,
                point_px=point,
                stride_px=model.stride_px,
                density=np.mean(maps, axis=0),
                radii_px=np.array([spread.radii(one, point) for one in maps]),
            )
        )
    return Erf(
        regions=tuple(regions),
        squares=squares or tuple(f"picture {number}" for number in range(len(pictures))),
        projections=min(projections, model.dim),
        facts=network.facts(),
        settings=settings or {},
    )


def gradient_norms(model: VMamba, image: Tensor, vectors: Tensor) -> tuple[Map, tuple[float, float]]:
    """Norm of the derivative of the middle token's feature by each pixel.

    Args:
        model: without gradients of its own weights.
        image: (1, 3, H, W), normalised.
        vectors: (P, D), directions of the feature.

    Returns:
        (H, W): root of the sum of squares over colours and directions; and the middle of the token (x, y) in pixel
        coordinates.
    """
    image = image.detach().requires_grad_(True)
    tokens = features_in_little_memory(model, image)[0]
    row, column = tokens.shape[0] // 2, tokens.shape[1] // 2
    squares = torch.zeros(image.shape[2:], dtype=torch.float64, device=image.device)
    for number, vector in enumerate(vectors):
        (found,) = torch.autograd.grad(
            tokens[row, column] @ vector.to(tokens), image, retain_graph=number + 1 < len(vectors)
        )
        squares += found[0].double().square().sum(dim=0)
    stride = model.stride_px
    return squares.sqrt().cpu().numpy(), ((column + 0.5) * stride - 0.5, (row + 0.5) * stride - 0.5)


def profile(region: RegionErf) -> list[tuple[float, float, float]]:
    """Outer edge of each ring, mean density in it, and share of the gradient within it; empty rings are left out."""
    distance = np.hypot(*spread.distances(region.density.shape, region.point_px))
    edges = np.linspace(0, distance.max(), _RINGS + 1)[1:]
    ring = np.minimum(np.searchsorted(edges, distance.ravel()), _RINGS - 1)
    counts = np.bincount(ring, minlength=_RINGS)
    sums = np.bincount(ring, weights=region.density.ravel(), minlength=_RINGS)
    within = np.cumsum(sums)
    return [
        (float(edges[n]), float(sums[n] / counts[n]), float(within[n])) for n in range(_RINGS) if counts[n]
    ]
