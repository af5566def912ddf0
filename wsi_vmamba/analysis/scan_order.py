"""What the order of the scans does to oriented textures, and to pictures that are turned.

Gratings of several wavelengths and angles, each shifted several times. Features are means over tokens. Unlikeness is
1 - cosine; between shifts of one grating it is the yardstick of that between angles. A scan's answer is how much its
output (without the skip) varies over the tokens: the root of the mean over channels of the variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_vmamba.analysis.directions import cosine
from wsi_vmamba.analysis.directions_of_scan import SCANS
from wsi_vmamba.analysis.finding import Report, Sheet, silent
from wsi_vmamba.analysis.gratings import grating
from wsi_vmamba.analysis.network import Network, blocks_of, features_of, images_of, load_network
from wsi_vmamba.analysis.turns import TURNS
from wsi_vmamba.analysis.windows import find_windows, stack
from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.errors import UsageError
from wsi_vmamba.metrics.base import plain
from wsi_vmamba.model.ss2d import SS2D
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import ss2d_scan

DEFAULT_REGION_PX = 256

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ScanOrder:
    """Answers to gratings and to turned pictures.

    Attributes:
        wavelengths_px: (W,).
        angles_deg: (A,) of the stripes against the rows, from right to up.
        unlikeness: (W, A, A) mean of 1 - cosine between gratings of two angles; on the diagonal between shifts of one.
        answers: (W, A, blocks, 4) of each scan of each block.
        blocks: their names.
        token_cosine: (8, squares) of the turns, mean over tokens of the cosine of the map turned back.
        mean_cosine: (8, squares) of the mean features.
        other_cosine: mean cosine of the mean features of two different squares; NaN of one square.
        squares: names of the squares that were turned.
        facts: the network.
        settings: of the run.
    """

    wavelengths_px: Numbers
    angles_deg: Numbers
    unlikeness: Numbers
    answers: Numbers
    blocks: tuple[str, ...]
    token_cosine: Numbers
    mean_cosine: Numbers
    other_cosine: float
    squares: tuple[str, ...]
    facts: dict[str, str]
    settings: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        return ()

    def between_angles(self) -> Numbers:
        """Mean unlikeness of gratings of two different angles, (W,)."""
        apart = ~np.eye(len(self.angles_deg), dtype=bool)
        return np.asarray(self.unlikeness[:, apart].mean(axis=1))

    def between_shifts(self) -> Numbers:
        """Mean unlikeness of two shifts of one grating, (W,)."""
        return np.asarray(np.diagonal(self.unlikeness, axis1=1, axis2=2).mean(axis=1))

    def tuning(self) -> tuple[Numbers, Numbers]:
        """Of each wavelength and scan, (W, 4) each: the angle it answers to most, in degrees, and how selectively.

        Answers of a block are divided by its mean, blocks are averaged. Selectivity is the length of the mean of
        answers as vectors at twice the angle: 0 where all angles are answered alike, 1 where one alone is.
        """
        shares = self.answers / self.answers.mean(axis=(1, 3), keepdims=True)
        of_scans = shares.mean(axis=2)
        around = np.exp(2j * np.deg2rad(self.angles_deg))[None, :, None]
        mean = (of_scans * around).sum(axis=1) / of_scans.sum(axis=1)
        return np.rad2deg(np.angle(mean) / 2) % 180, np.abs(mean)

    def summary(self) -> tuple[Sheet, ...]:
        """A line for each wavelength, and one for each turn."""
        preferred, selective = self.tuning()
        rows = tuple(
            (
                f"{wavelength:g} px", f"{between:.4f}", f"{shifts:.4f}",
                *(f"{angle:.0f}° ({how:.2f})" for angle, how in zip(angles, hows, strict=True)),
            )
            for wavelength, between, shifts, angles, hows in zip(
                self.wavelengths_px, self.between_angles(), self.between_shifts(), preferred, selective, strict=True)
        )  # fmt: skip
        turned = [
            (name, f"{tokens.mean():.4f}", f"{means.mean():.4f}")
            for name, tokens, means in zip(TURNS, self.token_cosine, self.mean_cosine, strict=True)
        ]
        return (
            Sheet(
                title="Gratings: 1 - cosine of features; each scan's preferred angle of stripes (selectivity)",
                columns=("wavelength", "between angles", "between shifts", *SCANS),
                rows=rows,
            ),
            Sheet(
                title=f"{len(self.squares)} squares turned: cosine with the features as they are",
                columns=("square", "tokens", "mean"),
                rows=(*turned, ("another square", "", f"{self.other_cosine:.4f}")),
            ),
        )

    def sheets(self) -> dict[str, Sheet]:
        """Unlikeness of every pair of angles, answers of every scan, and cosines of every turn."""
        preferred, selective = self.tuning()
        return {
            "angles": Sheet(
                title="pairs of angles",
                columns=("wavelength_px", "angle_deg", "other_deg", "unlikeness"),
                rows=tuple(
                    (self.wavelengths_px[w], self.angles_deg[a], self.angles_deg[b], value)
                    for (w, a, b), value in np.ndenumerate(self.unlikeness)
                ),
            ),
            "answers": Sheet(
                title="answers",
                columns=("wavelength_px", "angle_deg", "block", "scan", "answer"),
                rows=tuple(
                    (self.wavelengths_px[w], self.angles_deg[a], self.blocks[b], SCANS[s], value)
                    for (w, a, b, s), value in np.ndenumerate(self.answers)
                ),
            ),
            "tuning": Sheet(
                title="tuning",
                columns=("wavelength_px", "scan", "preferred_deg", "selectivity"),
                rows=tuple(
                    (self.wavelengths_px[w], SCANS[s], value, selective[w, s])
                    for (w, s), value in np.ndenumerate(preferred)
                ),
            ),
            "turns": Sheet(
                title="turns",
                columns=("turn", "square", "token_cosine", "mean_cosine"),
                rows=tuple(
                    (name, square, self.token_cosine[t, n], self.mean_cosine[t, n])
                    for t, name in enumerate(TURNS)
                    for n, square in enumerate(self.squares)
                ),
            ),
        }

    def maps(self) -> dict[str, NDArray[Any]]:
        """None."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        preferred, selective = self.tuning()
        found: dict[str, Any] = plain(
            {
                "settings": self.settings,
                "network": self.facts,
                "wavelengths_px": self.wavelengths_px,
                "angles_deg": self.angles_deg,
                "between_angles": self.between_angles(),
                "between_shifts": self.between_shifts(),
                "scans": list(SCANS),
                "preferred_deg": preferred,
                "selectivity": selective,
                "turns": {
                    name: {"token_cosine": tokens, "mean_cosine": means}
                    for name, tokens, means in zip(TURNS, self.token_cosine, self.mean_cosine, strict=True)
                },
                "other_square_cosine": self.other_cosine,
                "squares": list(self.squares),
            }
        )
        return found

    def draw(self) -> bytes:
        """Unlikeness and tuning by angle, and the cosines of the turns."""
        from wsi_vmamba.analysis.figures import draw_scan_order

        return draw_scan_order(self)


def analyse_scan_order(config: AnalyseConfig, *, report: Report = silent) -> ScanOrder:
    """Show gratings and turned squares as the configuration says.

    Raises:
        UsageError: the backbone is no VMamba, a picture is too small, or the square is no whole number of tokens.
    """
    network = load_network(config.backbone, config.weights, seed=config.seed, device=config.device)
    side_px = config.region_px[0] if config.region_px else DEFAULT_REGION_PX
    _require_whole_tokens(network.model, side_px)
    windows = find_windows(config, side_px=side_px, count=config.windows)
    return measure_scan_order(
        network,
        stack(windows),
        wavelengths_px=sorted(config.wavelength_px),
        angles=config.angles,
        phases=config.phases,
        squares=tuple(one.name for one in windows),
        settings=config.model_dump(mode="json"),
        report=report,
    )


def measure_scan_order(
    network: Network,
    pictures: NDArray[np.uint8],
    *,
    wavelengths_px: Sequence[float],
    angles: int,
    phases: int,
    squares: tuple[str, ...] = (),
    settings: dict[str, Any] | None = None,
    report: Report = silent,
) -> ScanOrder:
    """Show gratings as large as pictures (B, side, side, 3), and those pictures turned.

    Raises:
        UsageError: the side is no whole number of tokens.
    """
    side_px = pictures.shape[1]
    _require_whole_tokens(network.model, side_px)
    degrees = np.arange(angles) * 180 / angles
    total = len(wavelengths_px) * angles + len(TURNS)
    unlikeness, answers = [], []
    for wavelength in wavelengths_px:
        features, of_angles = [], []
        for angle in degrees:
            shown = np.stack([
                grating(side_px=side_px, wavelength_px=wavelength, angle_deg=angle, phase=n / phases)
                for n in range(phases)
            ])  # fmt: skip
            means, answered = answers_to(network.model, shown)
            features.append(means)
            of_angles.append(answered)
            report("gratings and turns", total)
        unlikeness.append(_unlikeness(np.stack(features)))
        answers.append(np.stack(of_angles))
    token_cosine, mean_cosine = [], []
    whole = features_of(network.model, pictures)
    for turn in TURNS.values():
        turned = np.stack([np.ascontiguousarray(turn.there(one)) for one in pictures])
        back = np.stack([turn.back(one) for one in features_of(network.model, turned)])
        token_cosine.append(cosine(whole, back).mean(axis=(1, 2)))
        mean_cosine.append(cosine(whole.mean(axis=(1, 2)), back.mean(axis=(1, 2))))
        report("gratings and turns", total)
    return ScanOrder(
        wavelengths_px=np.array(wavelengths_px, dtype=np.float64),
        angles_deg=degrees,
        unlikeness=np.stack(unlikeness),
        answers=np.stack(answers),
        blocks=tuple(blocks_of(network.model)),
        token_cosine=np.stack(token_cosine),
        mean_cosine=np.stack(mean_cosine),
        other_cosine=_others(whole.mean(axis=(1, 2))),
        squares=squares or tuple(f"picture {number}" for number in range(len(pictures))),
        facts=network.facts(),
        settings=settings or {},
    )


def answers_to(model: VMamba, pictures: NDArray[np.uint8]) -> tuple[Numbers, Numbers]:
    """Mean features (B, D) of pictures (B, H, W, 3), and the answers (blocks, 4) of every scan, averaged over them."""
    answers: list[Numbers] = []
    with torch.inference_mode(), _each_input(model, lambda op, x: answers.append(_answers_of(op, x))):
        features = model.forward_features(images_of(model, pictures))
    return np.asarray(features.mean(dim=(2, 3)).double().cpu().numpy()), np.stack(answers)


def scan_outputs(op: SS2D, u: Tensor, proj: Tensor) -> Tensor:
    """What each scan gives alone, (4, B, H, W, d_inner), without the skip; ``u``, ``proj`` of `SS2D.scan_inputs`."""
    _, dt_weight, dt_bias, A_logs, Ds = op.scan_parameters()
    of_scans = proj.reshape(*proj.shape[:-1], len(SCANS), -1)
    found = []
    for scan in range(len(SCANS)):
        alone = torch.zeros_like(of_scans)
        first_of_c = op.dt_rank + op.d_state
        alone[..., :first_of_c] = of_scans[..., :first_of_c]
        alone[..., scan, first_of_c:] = of_scans[..., scan, first_of_c:]
        y = ss2d_scan(u.contiguous(), alone.flatten(-2), dt_weight, dt_bias, A_logs, torch.zeros_like(Ds))
        found.append(y)
    return torch.stack(found)


def _answers_of(op: SS2D, x: Tensor) -> Numbers:
    u, proj, _ = op.scan_inputs(x)
    variance = scan_outputs(op, u, proj).double().var(dim=(2, 3), unbiased=False)
    return np.asarray(variance.mean(dim=-1).sqrt().mean(dim=1).cpu().numpy())


@contextmanager
def _each_input(model: VMamba, look: Any) -> Iterator[None]:
    """Call ``look`` with every block's SS2D and the map that comes to it, in the order of the forward pass."""

    def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        look(module, given[0])

    handles = [block.op.register_forward_pre_hook(hook) for block in blocks_of(model).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unlikeness(features: Numbers) -> Numbers:
    """(A, A) of features (A, phases, D): mean over pairs of shifts, on the diagonal over different ones."""
    n_angles, phases = features.shape[:2]
    flat = features.reshape(n_angles * phases, -1)
    units = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    apart = (1 - units @ units.T).reshape(n_angles, phases, n_angles, phases).transpose(0, 2, 1, 3)
    found = apart.mean(axis=(2, 3))
    different = ~np.eye(phases, dtype=bool)
    for angle in range(n_angles):
        found[angle, angle] = apart[angle, angle][different].mean()
    return np.asarray(found)


def _others(means: Numbers) -> float:
    pairs = [float(cosine(means[a], means[b])) for a, b in combinations(range(len(means)), 2)]
    return float(np.mean(pairs)) if pairs else np.nan


def _require_whole_tokens(model: VMamba, side_px: int) -> None:
    stride = model.stride_px
    if side_px % stride:
        raise UsageError(
            f"a square of {side_px} px is no whole number of tokens of {stride} px, and turned it would lie on another "
            f"grid; choose --region-px {round(side_px / stride) * stride or stride}"
        )
