"""A probe from its settings: tiles, folds, features of every encoder, judgement, comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from wsi_vmamba.config import ProbeConfig
from wsi_vmamba.probing.encoders import load_encoders
from wsi_vmamba.probing.features import encode_files
from wsi_vmamba.probing.folds import Task, cross_validation, other_site
from wsi_vmamba.probing.intervals import FEWEST_GROUPS, compare_encoders, how_drawn
from wsi_vmamba.probing.judge import Judged, judge_features
from wsi_vmamba.probing.results import EncoderResult, Probe
from wsi_vmamba.probing.tiles import GROUPS_FILE, ProbeTiles, find_tiles

#: Is told the encoder, how many of its tiles are done since the last time, and how many it has.
Report = Callable[[str, int, int], None]


def run_probe(config: ProbeConfig, *, report: Report = lambda label, done, total: None) -> Probe:
    """Judge every encoder of the configuration; nothing is written.

    Raises:
        DatasetError: tiles, classes or groups are not as they should be.
        UsageError: an encoder cannot be loaded or cannot take the tiles.
        WeightsError: weights do not fit.
    """
    sets = [find_tiles(Path(config.tiles), _path(config.groups))]
    if config.test:
        sets.append(find_tiles(Path(config.test), _path(config.test_groups)))
    task = other_site(*sets) if config.test else cross_validation(sets[0], seed=config.seed)
    paths = [one.folder / file for one in sets for file in one.files]
    encoders = load_encoders(config)
    found = []
    for encoder in encoders:
        label = encoder.facts.label
        features = encode_files(
            encoder,
            paths,
            on_batch=lambda n, label=label: report(label, n, len(paths)),  # type: ignore[misc]
        )
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
        files=tuple(
            str(path) if config.test else file for path, file in zip(paths, _files(sets), strict=True)
        ),
        encoders=tuple(
            EncoderResult(facts=encoder.facts, features=features, judged=judged, comparison=comparison)
            for (encoder, features, judged), comparison in zip(found, compared, strict=True)
        ),
        drawn=how_drawn(groups),
        settings=config.model_dump(mode="json"),
        notes=(*_notes_of_groups(sets, task), *_notes_of_folds(found[0][2])),
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _files(sets: list[ProbeTiles]) -> list[str]:
    return [file for one in sets for file in one.files]


def _notes_of_groups(sets: list[ProbeTiles], task: Task) -> list[str]:
    notes = [
        f"no groups for {one.folder}: each tile counts as a patient of its own. Tiles of one slide are near-duplicates "
        "of each other, so these numbers may be far too good; name patients or slides in "
        f"{one.folder / GROUPS_FILE} (file, group)"
        for one in sets
        if not one.has_groups
    ]
    n_groups = len(np.unique(task.groups[task.judged]))
    if n_groups < FEWEST_GROUPS:
        notes.append(
            f"only {n_groups} group(s) are judged: intervals come from drawing tiles within them and do not say how "
            "much other patients would differ"
        )
    return notes


def _notes_of_folds(judged: Judged) -> list[str]:
    notes = []
    ways = {by for _, by in judged.penalties}
    if "tiles" in ways:
        notes.append(
            "the penalty was chosen on tiles of the same groups where too few groups were left to leave one out"
        )
    if "fixed" in ways:
        notes.append("the penalty was fixed where there were too few tiles to choose it by")
    absent = sorted({name for names in judged.missing for name in names})
    if absent:
        notes.append(f"some folds learned from no tile of {', '.join(absent)}, and never predict it")
    undefined = sum(value is None for value in judged.fold_aucs)
    if undefined:
        notes.append(
            f"{undefined} of {len(judged.fold_aucs)} folds hold tiles of one class only; the mean over folds leaves "
            "them out"
        )
    return notes
