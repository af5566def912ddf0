"""What the four scans of a block bring to one token, from where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_vmamba.analysis import spread
from wsi_vmamba.analysis.directions_of_scan import SCANS
from wsi_vmamba.analysis.finding import Report, Sheet, silent
from wsi_vmamba.analysis.network import Network, block_named, images_of, load_network
from wsi_vmamba.analysis.scan_weights import scan_weights
from wsi_vmamba.analysis.windows import Window, find_windows
from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.metrics.base import plain
from wsi_vmamba.model.vmamba import VMamba

DEFAULT_REGION_PX = 512
#: What a map is of, for tables: the four scans, and all together.
OF = (*SCANS, "all four")

Map = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What each token of a map gives to one of them, through each scan and through all four.

    Attributes:
        window: the square that was looked at.
        block: name of the block.
        token: (row, column) of the token.
        pixels_per_token: along each axis.
        response: (5, H, W) mean over channels of the absolute weight of each token, of `OF`; the skip is left out.
        contribution: (5, H, W) norm over channels of weight times input, of `OF`.
        rebuilt_error: largest difference between the sum of all contributions with the skip and what the scan gives
            the token, over the largest number that it gives.
        facts: the network.
        settings: of the run.
    """

    window: Window
    block: str
    token: tuple[int, int]
    pixels_per_token: int
    response: Map
    contribution: Map
    rebuilt_error: float
    facts: dict[str, str]
    settings: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        return (
            "a scan meets half of the map before the token, so half of each map is 0; weights are of this picture",
        )

    def figures(self) -> list[dict[str, Any]]:
        """Of each scan and all: the token's own share, that of its row and column, and how far the rest lies."""
        point = (float(self.token[1]), float(self.token[0]))
        found = []
        for name, response, contribution in zip(OF, self.response, self.contribution, strict=True):
            total = response.sum()
            row, column = self.token
            reach = spread.radii(response, point)
            found.append(
                {
                    "scan": name,
                    "own_share": float(response[row, column] / total) if total > 0 else np.nan,
                    "row_share": float(response[row].sum() / total) if total > 0 else np.nan,
                    "column_share": float(response[:, column].sum() / total) if total > 0 else np.nan,
                    **{
                        f"r{share:.0%}_px".replace("%", ""): value * self.pixels_per_token
                        for share, value in zip(spread.SHARES, reach, strict=True)
                    },
                    "response": float(total),
                    "contribution": float(contribution.sum()),
                }
            )
        return found

    def summary(self) -> tuple[Sheet, ...]:
        """A line for each scan and one for all."""
        columns = (
            "scan",
            "token's own share",
            "its row",
            "its column",
            "50 % within",
            "90 % within",
            "response",
        )
        rows = tuple(
            (
                f["scan"], f"{f['own_share']:.1%}", f"{f['row_share']:.1%}", f"{f['column_share']:.1%}",
                f"{f['r50_px']:.0f} px", f"{f['r90_px']:.0f} px", f"{f['response']:.3g}",
            )
            for f in self.figures()
        )  # fmt: skip
        row, column = self.token
        title = f"Weights of all tokens in token {column}, {row} of {self.block}; {self.window.name}"
        return (Sheet(title=title, columns=columns, rows=rows),)

    def sheets(self) -> dict[str, Sheet]:
        """The figures, and both maps token by token."""
        figures = self.figures()
        return {
            "scans": Sheet(
                title="by scan",
                columns=tuple(figures[0]),
                rows=tuple(tuple(one.values()) for one in figures),
            ),
            "tokens": Sheet(
                title="by token",
                columns=("scan", "row", "column", "x_l0", "y_l0", "response", "contribution"),
                rows=tuple(self._token_rows()),
            ),
        }

    def _token_rows(self) -> list[tuple[object, ...]]:
        window, side = self.window, self.pixels_per_token
        rows: list[tuple[object, ...]] = []
        for name, response, contribution in zip(OF, self.response, self.contribution, strict=True):
            for (row, column), value in np.ndenumerate(response):
                x, y = (
                    corner + (place + 0.5) * side * window.l0_per_px
                    for corner, place in zip(window.corner_l0, (column, row), strict=True)
                )
                rows.append((name, row, column, x, y, f"{value:.6g}", f"{contribution[row, column]:.6g}"))
        return rows

    def maps(self) -> dict[str, NDArray[Any]]:
        """Both maps, float32, (5, H, W) in the order of `OF`."""
        return {
            "response": self.response.astype(np.float32),
            "contribution": self.contribution.astype(np.float32),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps."""
        found: dict[str, Any] = plain(
            {
                "settings": self.settings,
                "network": self.facts,
                "square": self.window.name,
                "corner_l0": list(self.window.corner_l0),
                "l0_per_px": self.window.l0_per_px,
                "block": self.block,
                "token": {"row": self.token[0], "column": self.token[1]},
                "pixels_per_token": self.pixels_per_token,
                "maps": list(OF),
                "rebuilt_error": self.rebuilt_error,
                "scans": self.figures(),
            }
        )
        return found

    def draw(self) -> bytes:
        """The square and the five maps."""
        from wsi_vmamba.analysis.figures import draw_activation

        return draw_activation(self)


def analyse_activation(config: AnalyseConfig, *, report: Report = silent) -> Activation:
    """Look at one token as the configuration says.

    Raises:
        UnknownNameError: there is no such block.
        UsageError: the backbone is no VMamba, a picture is too small, or the pixel is outside.
    """
    network = load_network(config.backbone, config.weights, seed=config.seed, device=config.device)
    block_named(network.model, config.block)  # before anything is read
    side_px = config.region_px[0] if config.region_px else DEFAULT_REGION_PX
    (window,) = find_windows(config, side_px=side_px, count=1)
    found = measure_activation(network, window, block=config.block, settings=config.model_dump(mode="json"))
    report("weights of the scans", 1)
    return found


def measure_activation(
    network: Network, window: Window, *, block: str | None = None, settings: dict[str, Any] | None = None
) -> Activation:
    """Measure what every token gives, in a block, to the one on which ``window.point_px`` lies."""
    model = network.model
    name, module = block_named(model, block)
    seen = _input_of(model, module.op, images_of(model, window.pixels[None]))
    with torch.inference_mode():
        u, proj, _ = module.op.scan_inputs(seen)
        side = model.config.stride_px >> (len(model.config.depths) - 1 - int(name.split(".")[1]))
        height, width = u.shape[1:3]
        row, column = min(window.point_px[1] // side, height - 1), min(window.point_px[0] // side, width - 1)
        weights = scan_weights(module.op, proj[0], row=row, column=column)
        given = weights * u[0].double()
        skip = module.op.scan_parameters()[4].double().view(4, -1).sum(0) * u[0, row, column].double()
        together = weights.sum(0, keepdim=True)
        response = torch.cat([weights, together]).abs().mean(-1)
        contribution = torch.linalg.vector_norm(torch.cat([given, given.sum(0, keepdim=True)]), dim=-1)
        expected = _scanned(module.op, u, proj)[0, row, column].double()
        error = (given.sum((0, 1, 2)) + skip - expected).abs().max() / expected.abs().max()
    return Activation(
        window=window,
        block=name,
        token=(row, column),
        pixels_per_token=side,
        response=response.cpu().numpy(),
        contribution=contribution.cpu().numpy(),
        rebuilt_error=float(error),
        facts=network.facts(),
        settings=settings or {},
    )


def _scanned(op: nn.Module, u: Tensor, proj: Tensor) -> Tensor:
    """What the block's scan gives, by the kernel that the network runs with."""
    from wsi_vmamba.model.ss2d import SS2D
    from wsi_vmamba.ops import ss2d_scan

    assert isinstance(op, SS2D)
    return ss2d_scan(u.contiguous(), proj, *op.scan_parameters()[1:])


def _input_of(model: VMamba, op: nn.Module, images: Tensor) -> Tensor:
    """The map that comes to a layer when the network sees images."""
    seen: list[Tensor] = []
    handle = op.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with torch.inference_mode():
            model.forward_features(images)
    finally:
        handle.remove()
    return seen[0]
