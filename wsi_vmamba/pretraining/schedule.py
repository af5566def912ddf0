"""Numbers that change from step to step; steps count from 0."""

from __future__ import annotations

import math

from wsi_vmamba.training.optimise import rate_share


def cosine(step: int, *, total: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` at step 0 to ``last`` at step ``total``."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))


def ramp(step: int, *, steps: int, first: float, last: float) -> float:
    """A straight line from ``first`` at step 0 to ``last`` at step ``steps``, and ``last`` from there on."""
    return last if step >= steps else first + (last - first) * step / steps


def learning_rate(step: int, *, peak: float, warmup: int, total: int, final_share: float) -> float:
    """A straight rise in the warm-up, which leaves at least one step, then half a cosine to ``final_share`` of it."""
    warmup = min(warmup, total - 1)
    share = rate_share(step, warmup=warmup, total=total)
    return peak * (share if step < warmup else final_share + (1 - final_share) * share)


def momentum(step: int, *, first: float, total: int, ramps: bool) -> float:
    """Share of the past in the running average: from ``first`` to 1 by half a cosine.

    Args:
        step: the step just made.
        first: at step 0; 0 for no averaging at all.
        total: steps of the training.
        ramps: hold it below (1 + n) / (10 + n) after n steps, so that the start is soon forgotten.
    """
    if not first:
        return 0.0
    share = cosine(step, total=total, first=first, last=1.0)
    return min(share, (1 + step) / (10 + step)) if ramps else share
