"""Features without each scan direction, each pair and all four: how they change, and what a linear probe loses.

Nothing is trained again but the probe: the network was trained with all four scans, and one is taken away from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.analysis.ablation import without_scans
from wsi_vmamba.analysis.directions_of_scan import SCANS, name_of
from wsi_vmamba.analysis.finding import Report, Sheet, silent
from wsi_vmamba.analysis.network import Network, features_of, load_network
from wsi_vmamba.analysis.windows import find_windows, stack
from wsi_vmamba.config import AnalyseConfig
from wsi_vmamba.encode import StripEncoder, WholeMapEncoder
from wsi_vmamba.metrics.base import plain
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.ops import cpu
from wsi_vmamba.probing.encoders import (
    EncoderFacts,
    TileEncoder,
    check_tile,
    encode_tiles,
    tiles_in_batches,
)
from wsi_vmamba.probing.features import encode_files
from wsi_vmamba.probing.folds import Task, cross_validation
from wsi_vmamba.probing.intervals import Comparison, compare_encoders, how_drawn
from wsi_vmamba.probing.judge import judge_features
from wsi_vmamba.probing.notes import notes_on
from wsi_vmamba.probing.results import in_words
from wsi_vmamba.probing.tiles import ProbeTiles, find_tiles

DEFAULT_REGION_PX = 512
#: Which scans are taken away: none, each, each pair, all.
REMOVED: tuple[tuple[int, ...], ...] = (
    (), *((one,) for one in range(len(SCANS))), *combinations(range(len(SCANS)), 2), tuple(range(len(SCANS))),
)  # fmt: skip
#: Neighbours of the votes among `probe`'s metrics.
_NEIGHBOURS = 20


@dataclass(frozen=True, kw_only=True)
class Change:
    """How features change where some scans are taken away, over squares.

    Attributes:
        removed: the scans.
        token_cosine: (squares,) mean over tokens of the cosine with the feature of the whole network.
        mean_cosine: (squares,) cosine of the mean over tokens.
        length: (squares,) length of the mean feature over that of the whole network.
    """

    removed: tuple[int, ...]
    token_cosine: NDArray[np.float64]
    mean_cosine: NDArray[np.float64]
    length: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a linear probe makes of each version, on the same tiles.

    Attributes:
        tiles: what it was judged on.
        task: how tiles were divided.
        comparisons: of each of `REMOVED`; differences are from the whole network, paired.
        drawn: what was drawn for the intervals.
        notes: on the tiles.
    """

    tiles: ProbeTiles
    task: Task
    comparisons: tuple[Comparison, ...]
    drawn: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Directions:
    """The network without some of its scans.

    Attributes:
        changes: in the order of `REMOVED`.
        squares: names of the squares.
        judged: on labelled tiles; None where none were given.
        facts: the network.
        settings: of the run.
    """

    changes: tuple[Change, ...]
    squares: tuple[str, ...]
    judged: Judged | None
    facts: dict[str, str]
    settings: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        return () if self.judged is None else self.judged.notes

    def summary(self) -> tuple[Sheet, ...]:
        """A line for each version."""
        columns: tuple[str, ...] = ("without", "cosine of tokens", "cosine of the mean", "length of the mean")
        title = f"Scans taken away in every block, {len(self.squares)} squares"
        if self.judged:
            columns += ("AUC", "minus the whole")
            title += f"; linear probe on {len(self.judged.task.labels)} tiles, 95 % intervals by {self.judged.drawn}"
        rows = []
        for place, one in enumerate(self.changes):
            cells = (name_of(one.removed), *(f"{_mean(v):.4f}" for v in (
                one.token_cosine, one.mean_cosine, one.length)))  # fmt: skip
            if self.judged:
                found = self.judged.comparisons[place]
                difference = found.differences.get("auc")
                cells += (
                    in_words(found.metrics["auc"]),
                    in_words(difference, signed=True) if difference else "",
                )
            rows.append(cells)
        return (Sheet(title=title, columns=columns, rows=tuple(rows)),)

    def sheets(self) -> dict[str, Sheet]:
        """Changes of each square, and every metric of the probe."""
        changes = tuple(
            (name_of(one.removed), square, *map(float, values))
            for one in self.changes
            for square, *values in zip(
                self.squares, one.token_cosine, one.mean_cosine, one.length, strict=True
            )
        )
        sheets = {
            "features": Sheet(
                title="features",
                columns=("without", "square", "token_cosine", "mean_cosine", "length"),
                rows=changes,
            )
        }
        if self.judged:
            columns = ("without", "metric", "value", "low", "high", "minus_whole", "minus_low", "minus_high")
            sheets["probe"] = Sheet(title="probe", columns=columns, rows=tuple(self._probe_rows(self.judged)))
        return sheets

    def _probe_rows(self, judged: Judged) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for removed, found in zip(REMOVED, judged.comparisons, strict=True):
            for name, one in found.metrics.items():
                less = found.differences.get(name)
                values = (
                    one.value,
                    one.low,
                    one.high,
                    *((less.value, less.low, less.high) if less else (None,) * 3),
                )
                rows.append((name_of(removed), name, *("" if v is None else v for v in values)))
        return rows

    def maps(self) -> dict[str, NDArray[Any]]:
        """None."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        found: dict[str, Any] = {
            "settings": self.settings,
            "network": self.facts,
            "squares": list(self.squares),
            "without": [
                {
                    "scans": [SCANS[scan] for scan in one.removed],
                    "token_cosine": one.token_cosine,
                    "mean_cosine": one.mean_cosine,
                    "length": one.length,
                }
                for one in self.changes
            ],
        }
        if self.judged:
            found["probe"] = {
                "tiles": len(self.judged.task.labels),
                "groups": len(np.unique(self.judged.task.groups)),
                "scheme": self.judged.task.scheme,
                "interval": f"95 %, percentiles of a bootstrap over {self.judged.drawn}",
                "without": [
                    {
                        "scans": [SCANS[scan] for scan in removed],
                        "metrics": {name: asdict(e) for name, e in one.metrics.items()},
                        "minus_whole": {name: asdict(e) for name, e in one.differences.items()},
                    }
                    for removed, one in zip(REMOVED, self.judged.comparisons, strict=True)
                ],
                "notes": list(self.judged.notes),
            }
        made: dict[str, Any] = plain(found)
        return made

    def draw(self) -> bytes:
        """Bars of the change of features, and of the probe's differences."""
        from wsi_vmamba.analysis.figures import draw_directions

        return draw_directions(self)


def analyse_directions(config: AnalyseConfig, *, report: Report = silent) -> Directions:
    """Take scans away as the configuration says.

    Raises:
        DatasetError: tiles, classes or groups are not as they should be.
        UsageError: the backbone is no VMamba, or a picture or tile is too small.
    """
    network = load_network(config.backbone, config.weights, seed=config.seed, device=config.device)
    tiles = None
    if config.tiles:
        groups = Path(config.groups) if config.groups else None
        tiles = find_tiles(Path(config.tiles), groups).limited(config.limit, seed=config.seed)
    side_px = config.region_px[0] if config.region_px else DEFAULT_REGION_PX
    windows = find_windows(config, side_px=side_px, count=config.windows)
    return measure_directions(
        network,
        stack(windows),
        squares=tuple(one.name for one in windows),
        tiles=tiles,
        resize_px=config.resize,
        bootstrap=config.bootstrap,
        seed=config.seed,
        settings=config.model_dump(mode="json"),
        report=report,
    )


def measure_directions(
    network: Network,
    pictures: NDArray[np.uint8],
    *,
    squares: tuple[str, ...] = (),
    tiles: ProbeTiles | None = None,
    resize_px: int | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    report: Report = silent,
) -> Directions:
    """Take each scan, each pair and all away, and compare features of pictures (B, H, W, 3), and probes on tiles."""
    whole = features_of(network.model, pictures)
    versions = [without_scans(network.model, removed) for removed in REMOVED]
    changes = []
    for removed, version in zip(REMOVED, versions, strict=True):
        changes.append(change_of(removed, whole, features_of(version, pictures)))
        report("features without scans", len(REMOVED))
    return Directions(
        changes=tuple(changes),
        squares=squares or tuple(f"picture {number}" for number in range(len(pictures))),
        judged=None
        if tiles is None
        else judge(
            versions,
            tiles,
            device=network.device,
            resize_px=resize_px,
            bootstrap=bootstrap,
            seed=seed,
            report=report,
        ),
        facts=network.facts(),
        settings=settings or {},
    )


def change_of(removed: tuple[int, ...], whole: NDArray[np.float64], found: NDArray[np.float64]) -> Change:
    """Compare features (B, h, w, D) with those of the whole network."""
    mean_whole, mean_found = whole.mean(axis=(1, 2)), found.mean(axis=(1, 2))
    return Change(
        removed=removed,
        token_cosine=cosine(whole, found).mean(axis=(1, 2)),
        mean_cosine=cosine(mean_whole, mean_found),
        length=np.linalg.norm(mean_found, axis=-1) / np.linalg.norm(mean_whole, axis=-1),
    )


def cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine along the last axis; of a vector of zeros it is 0."""
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: NDArray[np.float64] = (one * other).sum(axis=-1) / np.where(lengths > 0, lengths, 1)
    return found


def judge(
    versions: Sequence[VMamba],
    tiles: ProbeTiles,
    *,
    device: str,
    resize_px: int | None,
    bootstrap: int,
    seed: int,
    report: Report = silent,
) -> Judged:
    """Fit and judge a linear probe on the features of each version, as `probe` does with encoders."""
    task = cross_validation(tiles, seed=seed)
    files = [tiles.folder / file for file in tiles.files]
    judged = []
    for removed, version in zip(REMOVED, versions, strict=True):
        encoder = _tile_encoder(version, name_of(removed), resize_px, device=device)
        label = f"tiles without {name_of(removed)}"
        features = encode_files(encoder, files, on_batch=_stepwise(report, label, len(files)))
        judged.append(
            judge_features(features.values, task, neighbours=_NEIGHBOURS, few_shot_draws=0, seed=seed)
        )
    groups = task.groups[task.judged]
    compared = compare_encoders([one.predictions for one in judged], groups, resamples=bootstrap, seed=seed)
    return Judged(
        tiles=tiles,
        task=task,
        comparisons=tuple(compared),
        drawn=how_drawn(groups),
        notes=notes_on([tiles], task, judged[0]),
    )


def _stepwise(report: Report, label: str, total: int) -> Callable[[int], None]:
    """Tell of tiles that come in batches, one by one."""

    def tell(done: int) -> None:
        for _ in range(done):
            report(label, total)

    return tell


def _tile_encoder(model: VMamba, label: str, resize_px: int | None, *, device: str) -> TileEncoder:
    """Mean over tokens, as `probe` encodes: on a CPU small tiles in batches, large ones in strips."""
    large = (
        StripEncoder(label, model, precision="fp32")
        if device == "cpu" and cpu.available
        else WholeMapEncoder(label, model, precision="fp32", device=device)
    )
    return TileEncoder(
        facts=EncoderFacts(label=label, spec=label, name=label, resize_px=resize_px),
        encode=tiles_in_batches(model, large)
        if device == "cpu"
        else lambda tiles: encode_tiles(large, tiles),
        check_size=lambda height_px, width_px: check_tile(large, height_px=height_px, width_px=width_px),
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())
