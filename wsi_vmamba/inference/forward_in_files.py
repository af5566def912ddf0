"""A forward pass whose map is in files, step by step: what is the same wherever the arithmetic is done.

The pass is a sequence of steps: stem, blocks, downsampling. Each makes map number i of map number i - 1, strip by
strip. Strips of the old map are removed as those of the new one are there; what a step needs to go on in the middle
is in files too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_vmamba.inference.block import Carries
from wsi_vmamba.inference.convolve import Rows
from wsi_vmamba.inference.plan import EncodePlan, StagePlan, conv_groups
from wsi_vmamba.inference.residual import MapInFiles
from wsi_vmamba.inference.scratch import Scratch
from wsi_vmamba.inference.workers import Profile, Workers

_STEP = "step.json"


class PixelRows(Rows, Protocol):
    """The pixels of a region, uint8 RGB (height, width, 3), asked for from top to bottom."""

    def advance(self, first: int, last: int) -> None:
        """Have rows [first, last) at hand, as far as they are in the picture; those above may be let go."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: the map it makes belongs to stage ``stage``; ``block`` is None where it comes from another stage."""

    stage: int
    block: int | None
    cost: float

    @property
    def kind(self) -> str:
        """Its name for people."""
        if self.block is not None:
            return f"stage {self.stage + 1} block {self.block + 1}"
        return f"downsampling to stage {self.stage + 1}" if self.stage else "stem"


class ForwardInFiles(ABC):
    """One region on its way through the encoder."""

    def __init__(
        self,
        plan: EncodePlan,
        scratch: Scratch,
        *,
        depths: Sequence[int],
        profile: Profile,
        report: Callable[[float], None],
    ) -> None:
        """Prepare.

        Args:
            plan: of the region.
            scratch: where the maps lie.
            depths: blocks of each stage.
            profile: takes CPU seconds.
            report: takes the share of the work that is done, 0 to 1.
        """
        self._stages = plan.stages
        self._scratch = scratch
        self._profile = profile
        self._report = report
        self._lock = Lock()
        self.steps = plan_steps(depths, plan)
        self._total = sum(step.cost for step in self.steps)
        self._done = 0.0

    def run(self, pixels: PixelRows, workers: Workers) -> None:
        """Make the last map, from where an earlier process left off."""
        begin = self._scratch.read_json(_STEP) or 0
        self._done = sum(step.cost for step in self.steps[:begin])
        # A step that was through may have left something of its own.
        self._keep_only({f"{begin - 1}.map", f"{begin}"})
        self._report(self._done / self._total)
        for number in range(begin, len(self.steps)):
            step = self.steps[number]
            if step.block is not None:
                self._block(number, step, workers)
            elif step.stage == 0:
                self._stem(number, pixels, workers)
            else:
                self._downsample(number, step, workers)
            self._scratch.write_json(_STEP, number + 1)
            self._keep_only({f"{number}.map"})

    def _keep_only(self, starts: set[str]) -> None:
        """Remove files whose name does not begin with one of these words and a full stop; plain values stay."""
        self._scratch.drop_all(
            lambda name: name.endswith(".json") or any(name.startswith(f"{start}.") for start in starts)
        )

    @abstractmethod
    def feature_rows(self, first: int, last: int) -> NDArray[np.float32]:
        """Rows [first, last) of the features, (n, width, dim), after `run`."""

    @abstractmethod
    def _stem(self, number: int, pixels: PixelRows, workers: Workers) -> None:
        """Make the first map."""

    @abstractmethod
    def _downsample(self, number: int, step: Step, workers: Workers) -> None:
        """Make the first map of another stage."""

    @abstractmethod
    def _block(self, number: int, step: Step, workers: Workers) -> None:
        """Make the map of a block."""

    def _map(self, number: int) -> MapInFiles:
        """The map that a step makes."""
        return MapInFiles(self._scratch, f"{number}.map", self._stages[self.steps[number].stage])

    def _pour(
        self,
        number: int,
        into: MapInFiles,
        make: Callable[[int, int], Tensor],
        operator: str,
        workers: Workers,
        *,
        prepare: Callable[[int, int], None] = lambda first, last: None,
        clear: Callable[[int], None] = lambda row: None,
    ) -> None:
        """Make the rows of a map in the groups that a map in memory is made in, and cut them into its strips."""
        groups = conv_groups(into.stage)
        strip = into.n_written()
        held = torch.empty(
            into.stage.strip_rows, into.stage.width, into.stage.d_model, dtype=into.stage.dtype
        )
        row = into.strips[strip][0] if strip < len(into.strips) else into.stage.height
        self._count(number, row / into.stage.height)
        results: dict[int, Tensor] = {}

        def rows(first: int, last: int) -> None:
            with self._profile.measure(operator):
                results[first] = make(first, last)

        for group in groups:
            if group[-1][1] <= row:
                continue
            prepare(group[0][0], group[-1][1])
            workers.run([partial(rows, *each) for each in group])
            for first, _ in group:
                made = results.pop(first)
                made = made[max(0, row - first) :]
                while len(made):
                    start, stop = into.strips[strip]
                    count = min(len(made), stop - row)
                    held[row - start : row - start + count] = made[:count]
                    made, row = made[count:], row + count
                    if row == stop:
                        into.write(strip, held[: stop - start])
                        strip += 1
                        self._count(number, (stop - start) / into.stage.height)
                        clear(group[0][0])

    @staticmethod
    def _first_pass_share(stage: StagePlan) -> float:
        first, second = _costs(stage)
        return first / (first + second)

    def _count(self, number: int, share: float) -> None:
        """Note that so much more of a step is done."""
        with self._lock:
            self._done += share * self.steps[number].cost
            self._report(min(1.0, self._done / self._total))

    def _count_rows(self, number: int, stage: StagePlan, share: float, rows: int) -> None:
        self._count(number, share * rows / stage.height)


class RowsOfMap:
    """Rows of a map in files, for the convolutions."""

    def __init__(self, source: MapInFiles) -> None:
        """Take a map that is there."""
        self._source = source
        self.height, self.width = source.stage.height, source.stage.width

    def rows(self, first: int, last: int) -> Tensor:
        """See `Rows.rows`."""
        return self._source.rows(first, last, None)


def clear_above(source: MapInFiles) -> Callable[[int], None]:
    """What removes, as the rows of a map of half the size are made, the strips that no later row is made of."""

    def clear(next_row: int) -> None:
        unread = 2 * next_row - 1
        source.drop([i for i, (_, last) in enumerate(source.strips) if last <= unread])

    return clear


class Counted:
    """Carries that tell how many tokens they have summarized."""

    def __init__(self, carries: Carries, count: Callable[[int], None]) -> None:
        """Take carries, and what is told."""
        self._count = count
        self._summarize = carries.summarize
        self.combine = carries.combine
        self.apply = carries.apply

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `Carries.summarize`."""
        self._summarize(u, proj, strip=strip)
        self._count(u.shape[0] * u.shape[1])


def plan_steps(depths: Sequence[int], plan: EncodePlan) -> list[Step]:
    """The steps of a pass, in order; ``depths`` are the blocks of each stage."""
    steps = []
    for i, stage in enumerate(plan.stages):
        tokens = stage.height * stage.width
        steps.append(Step(stage=i, block=None, cost=tokens * 9.0 * stage.d_model * stage.d_model))
        steps += [Step(stage=i, block=j, cost=tokens * sum(_costs(stage))) for j in range(depths[i])]
    return steps


def _costs(stage: StagePlan) -> tuple[float, float]:
    """Rough cost of a token in each pass of a block, in multiplications; one of the scan counts like a hundred."""
    inputs = stage.d_inner * (stage.d_model + stage.proj_width + 9)
    return (
        inputs + 60.0 * stage.d_inner,
        inputs + 120.0 * stage.d_inner + stage.d_model * (stage.d_inner + 2.0 * stage.hidden),
    )
