"""Whether a model uses the places of patches: its AUC on the same slides with places shuffled."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.bags import Bag
from wsi_vmamba.config import EvaluateConfig
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import IncompatibleStoreError, UsageError
from wsi_vmamba.evaluation.fold_scores import score_again
from wsi_vmamba.evaluation.run_scores import Scored, ScoredRun, as_it_is, labels_of, probabilities_of
from wsi_vmamba.evaluation.watch import ShowProgress, unseen
from wsi_vmamba.metrics.auc import auc_statistic, roc_auc
from wsi_vmamba.metrics.base import Interval, Labels, Scores, check_binary, plain
from wsi_vmamba.metrics.bootstrap import Weights, stratified_bootstrap
from wsi_vmamba.store import open_features
from wsi_vmamba.tabular.folder import holds_tabular_run


@dataclass(frozen=True, kw_only=True)
class PlaceTest:
    """An AUC with places as they are, and with places shuffled, on the same slides.

    Attributes:
        shuffled: what was shuffled, in words.
        shuffles: how often; the AUC without places is the mean.
        auc: with places as they are.
        auc_shuffled: with places shuffled.
        difference: ``auc_shuffled`` - ``auc``: negative where places help.
        ci95: of the difference, from a bootstrap that draws slides, each with both of its scores; NaN where a class has
            fewer than two slides.
        largest_change: of the probability of any slide.
        n_slides: how many slides.
        resamples: of the bootstrap.
        seed: of bootstrap and shuffles.
    """

    shuffled: str
    shuffles: int
    auc: float
    auc_shuffled: float
    difference: float
    ci95: Interval
    largest_change: float
    n_slides: int
    resamples: int
    seed: int

    def in_words(self) -> tuple[str, str]:
        """The figures, and what they mean."""
        low, high = self.ci95
        interval = "" if np.isnan(low) else f" (95 % interval {low:+.4f} to {high:+.4f}, paired bootstrap)"
        return (
            f"{self.shuffled}: AUC {self.auc_shuffled:.4f} in place of {self.auc:.4f}, "
            f"difference {self.difference:+.4f}{interval}",
            self.verdict(),
        )

    def verdict(self) -> str:
        """Whether the model uses places, in a sentence."""
        low, high = self.ci95
        if self.largest_change == 0:
            return "No score changes by a bit: this model does not use places."
        moved = f"scores change by up to {self.largest_change:.2g}"
        if np.isnan(low):
            return f"There are too few slides to say whether this model uses places; {moved}."
        if high < 0:
            return f"The AUC falls: this model uses places; {moved}."
        if low > 0:
            return f"The AUC rises: what this model makes of places misleads it on these slides; {moved}."
        return (
            f"The AUC does not move beyond chance, and a model whose AUC does not move does not use places, though "
            f"{moved}."
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields and the verdict, ready for JSON."""
        fields: dict[str, Any] = plain({**self.__dict__, "verdict": self.verdict()})
        return fields


def judge_places(
    config: EvaluateConfig, scored: ScoredRun, *, progress: ShowProgress = unseen
) -> tuple[PlaceTest, ...]:
    """The tests that were asked for, of a run whose slides are scored.

    Raises:
        UsageError: its slides are rows of numbers, which have no places, or are of more than two classes.
        IncompatibleStoreError: features that should be shuffled are not, or the other way round.
        MetricError: the split has slides of one label only.
    """
    if not (config.shuffle_places or config.shuffled_features):
        return ()
    if holds_tabular_run(scored.folder):
        raise UsageError(
            f"{scored.folder} judges rows of numbers, which have no places that could be shuffled; leave out "
            "--shuffle-places and --shuffled-features"
        )
    if len(scored.classes or ()) > 2:
        raise UsageError(
            f"{scored.folder} tells {len(scored.classes or ())} classes apart, and what places are worth is measured "
            "of two; leave out --shuffle-places and --shuffled-features"
        )
    check_binary(labels_of(scored.scored), probabilities_of(scored.scored))
    found = []
    if config.shuffle_places:
        found.append(_coordinates_shuffled(config, scored, progress))
    if config.shuffled_features:
        found.append(_pixels_shuffled(config, scored, Path(config.shuffled_features), progress))
    return tuple(found)


def shuffle_places(bag: Bag, *, seed: int, turn: int) -> Bag:
    """The same patches of a slide on the same places, each on one of them at random; a function of seed and turn."""
    draw = np.random.default_rng([seed, turn, zlib.crc32(bag.slide_id.encode())])
    return replace(bag, coords_l0=bag.coords_l0[draw.permutation(len(bag.coords_l0))])


def _coordinates_shuffled(config: EvaluateConfig, scored: ScoredRun, progress: ShowProgress) -> PlaceTest:
    def again(turn: int) -> list[Scored]:
        def change(bag: Bag) -> Bag:
            return shuffle_places(bag, seed=config.seed, turn=turn)

        return score_again(config, scored.folder, change=change, progress=progress)

    times = "once" if config.shuffles == 1 else f"{config.shuffles} times"
    words = f"coordinates of the patches of each slide shuffled ({times})"
    return _compare(config, scored, [again(turn) for turn in range(config.shuffles)], words)


def _pixels_shuffled(
    config: EvaluateConfig, scored: ScoredRun, features: Path, progress: ShowProgress
) -> PlaceTest:
    records = [item.record for item in scored.scored]
    require_features(records, features, dataset=scored.train_config.dataset)
    blocks = {_shuffle_px(features, item) for item in scored.scored}
    if None in blocks or len(blocks) > 1:
        raise IncompatibleStoreError(
            f"{features}: its features were made with blocks of {', '.join(map(str, sorted(blocks, key=str)))} px "
            "shuffled; extract all slides with one `--set shuffle_px=...` into one folder"
        )
    if any(_shuffle_px(scored.features, item) is not None for item in scored.scored):
        raise IncompatibleStoreError(
            f"{scored.features}: these are features of shuffled pixels already; give the run's own as --features"
        )
    other = config.model_copy(update={"features": str(features)})
    again = score_again(other, scored.folder, change=as_it_is, progress=progress)
    words = f"pixels of each slide shuffled in blocks of {blocks.pop()} px before they were encoded"
    return _compare(config, scored, [again], words)


def _shuffle_px(features: Path, item: Scored) -> int | None:
    """Side of the blocks that were shuffled before a slide was encoded; None where none were."""
    plan = open_features(features / f"{item.record.slide_id}.zarr").meta.plan
    found: int | None = plan.get("spec", {}).get("shuffle_px")
    return found


def _compare(
    config: EvaluateConfig, scored: ScoredRun, again: Sequence[Sequence[Scored]], words: str
) -> PlaceTest:
    labels, scores = labels_of(scored.scored), probabilities_of(scored.scored)
    others = [probabilities_of(items) for items in again]
    spread = stratified_bootstrap(
        _difference(others), labels, scores, resamples=config.bootstrap, seed=config.seed
    )
    area = float(roc_auc(labels, scores))
    return PlaceTest(
        shuffled=words,
        shuffles=len(others),
        auc=area,
        auc_shuffled=area + spread.value,
        difference=spread.value,
        ci95=spread.ci95,
        largest_change=float(max(np.abs(other - scores).max() for other in others)),
        n_slides=len(labels),
        resamples=config.bootstrap,
        seed=config.seed,
    )


def _difference(others: Sequence[Scores]) -> Callable[[Labels, Scores, Weights], NDArray[np.float64]]:
    """Mean AUC of other scores of the same slides, minus that of the scores."""

    def statistic(labels: Labels, scores: Scores, weights: Weights) -> NDArray[np.float64]:
        with_places = auc_statistic(labels, scores, weights)
        # Subtracted one by one, so that scores that are the same differ by nothing at all.
        each = [auc_statistic(labels, other, weights) - with_places for other in others]
        mean: NDArray[np.float64] = np.mean(each, axis=0)
        return mean

    return statistic
