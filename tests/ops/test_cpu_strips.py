"""A map scanned in strips equals the map scanned whole, for any heights of the strips and any ranges."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import cpu

if TYPE_CHECKING:
    from conftest import ScanCase

pytestmark = pytest.mark.skipif(not cpu.available, reason=cpu.why)


def scan_in_strips(
    u: Tensor, proj: Tensor, weights: cpu.ScanWeights, *, heights: list[int], ranges: list[int], isa: str = ""
) -> Tensor:
    """Scan (H, W, D) in strips of the given heights; ranges are worked on by their own threads."""
    carries = cpu.StripCarries(weights, width=u.shape[1], ranges=ranges)
    y = torch.full(u.shape, torch.nan)
    strips = list(zip(u.split(heights), proj.split(heights), y.split(heights), strict=True))
    firsts = [sum(ranges[:r]) for r in range(len(ranges))]

    def summarize(r: int) -> None:
        for s in range(firsts[r], firsts[r] + ranges[r]):
            carries.summarize(strips[s][0], strips[s][1], strip=s, isa=isa)

    def apply(r: int) -> None:
        for s in range(firsts[r], firsts[r] + ranges[r]):
            carries.apply(*strips[s], strip=s, isa=isa)

    with ThreadPoolExecutor(len(ranges)) as pool:
        list(pool.map(summarize, range(len(ranges))))
        carries.combine(threads=2, isa=isa)
        list(pool.map(apply, range(len(ranges))))
    return y


def splits(height: int) -> list[tuple[list[int], list[int]]]:
    """Heights of strips and strips per range: single rows, halves, unequal strips, one strip."""
    ones = [1] * height
    found = [([height], [1]), (ones, [height])]
    if height >= 2:
        found += [([1, height - 1], [2]), ([height - 1, 1], [1, 1]), (ones, [1, height - 1])]
    if height >= 6:
        found.append(([2, 1, height - 5, 2], [1, 2, 1]))
    return found


@pytest.mark.usefixtures("poisoned_scratch")
def test_strips_equal_the_float64_reference(scan_case: ScanCase, isa: str) -> None:
    u, proj, *params = scan_case.inputs
    weights = cpu.pack_scan(*params)
    scale = float(scan_case.y.abs().max())
    for heights, ranges in splits(u.shape[1]):
        y = scan_in_strips(u[0], proj[0], weights, heights=heights, ranges=ranges, isa=isa)
        assert float((y - scan_case.y[0]).abs().max()) <= 1e-6 * scale, (heights, ranges)


@pytest.mark.usefixtures("poisoned_scratch")
def test_strips_of_a_bfloat16_map_equal_the_whole_map(scan_case: ScanCase) -> None:
    u, proj, *params = scan_case.inputs
    weights = cpu.pack_scan(*params)
    whole = cpu.scan_map(u.bfloat16(), proj, weights)[0]
    for heights, ranges in splits(u.shape[1]):
        y = scan_in_strips(u[0].bfloat16(), proj[0], weights, heights=heights, ranges=ranges)
        assert float((y - whole).abs().max()) <= 1e-6 * float(whole.abs().max()), (heights, ranges)


def test_calls_out_of_order_are_refused() -> None:
    weights = cpu.pack_scan(torch.zeros(4, 8, 1), torch.zeros(4, 8), torch.zeros(32, 1), torch.zeros(32))
    u, proj, y = torch.zeros(2, 3, 8), torch.zeros(2, 3, 12), torch.zeros(2, 3, 8)
    carries = cpu.StripCarries(weights, width=3, ranges=[1])
    with pytest.raises(UsageError, match="before combine"):
        carries.apply(u, proj, y, strip=0)
    with pytest.raises(UsageError, match="no strip 1"):
        carries.summarize(u, proj, strip=1)
    carries.summarize(u, proj, strip=0)
    carries.combine()
    with pytest.raises(UsageError, match="after combine"):
        carries.summarize(u, proj, strip=0)
    with pytest.raises(UsageError, match="twice"):
        carries.combine()
    with pytest.raises(UsageError, match="at least one strip"):
        cpu.StripCarries(weights, width=3, ranges=[])
