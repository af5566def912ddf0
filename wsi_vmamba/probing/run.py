"""A probe from its settings: tiles, folds, features of every encoder, judgement, comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsi_vmamba.config import ProbeConfig
from wsi_vmamba.probing.encoders import TileEncoder, load_encoders
from wsi_vmamba.probing.features import TileFeatures, encode_cells, encode_files
from wsi_vmamba.probing.folds import cross_validation, other_site
from wsi_vmamba.probing.intervals import compare_encoders, how_drawn
from wsi_vmamba.probing.judge import judge_features
from wsi_vmamba.probing.masked import find_cells
from wsi_vmamba.probing.notes import notes_on
from wsi_vmamba.probing.results import EncoderResult, Probe
from wsi_vmamba.probing.tiles import ProbeTiles, find_tiles

#: Cells of each class, where no limit is named: of some pictures there are very many.
MOST_CELLS = 2000
#: Is told the encoder, how many of its tiles are done since the last time, and how many it has.
Report = Callable[[str, int, int], None]


def run_probe(config: ProbeConfig, *, report: Report = lambda label, done, total: None) -> Probe:
    """Judge every encoder of the configuration; nothing is written.

    Raises:
        DatasetError: tiles, classes or groups are not as they should be.
        UsageError: an encoder cannot be loaded or cannot take the tiles.
        WeightsError: weights do not fit.
    """
    sets = find_sets(config)
    task = other_site(*sets) if config.test else cross_validation(sets[0], seed=config.seed)
    found = []
    for encoder in load_encoders(config):
        features = _encode(encoder, sets, report)
        judged = judge_features(
            features.values,
            task,
            neighbours=config.neighbours,
            few_shot_draws=config.few_shot_draws if config.few_shot else 0,
            seed=config.seed,
        )
        found.append((encoder, features, judged))
    groups = task.groups[task.judged]
    compared = compare_encoders(
        [judged.predictions for _, _, judged in found], groups, resamples=config.bootstrap, seed=config.seed
    )
    return Probe(
        task=task,
        files=_names(sets),
        encoders=tuple(
            EncoderResult(facts=encoder.facts, features=features, judged=judged, comparison=comparison)
            for (encoder, features, judged), comparison in zip(found, compared, strict=True)
        ),
        drawn=how_drawn(groups),
        settings=config.model_dump(mode="json"),
        notes=notes_on(sets, task, found[0][2]),
    )


def find_sets(config: ProbeConfig) -> list[ProbeTiles]:
    """The tiles, or cells, that are learned from, and those of ``test`` behind them."""
    if config.images and config.masks and config.classes:
        cells = find_cells(
            Path(config.images),
            Path(config.masks),
            Path(config.classes),
            groups=_path(config.groups),
            cell_px=config.cell_px,
            cover=config.cover,
        )
        return [cells.limited(config.limit or MOST_CELLS, seed=config.seed)]
    sets = [find_tiles(Path(config.tiles), _path(config.groups))]
    if config.test:
        sets.append(find_tiles(Path(config.test), _path(config.test_groups)))
    return [one.limited(config.limit, seed=config.seed) for one in sets]


def _encode(encoder: TileEncoder, sets: list[ProbeTiles], report: Report) -> TileFeatures:
    paths = [one.folder / file for one in sets for file in one.files]

    def tell(done: int) -> None:
        report(encoder.facts.label, done, len(paths))

    cells = sets[0].cells
    if cells is not None:
        return encode_cells(encoder, cells, on_batch=tell)
    return encode_files(encoder, paths, on_batch=tell)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _names(sets: list[ProbeTiles]) -> tuple[str, ...]:
    """Of the tiles, as the records name them: with their folder where there are two."""
    if len(sets) == 1:
        return sets[0].files
    return tuple(str(one.folder / file) for one in sets for file in one.files)
