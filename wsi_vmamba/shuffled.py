"""Blocks of a slide's canvas at each other's places: a control that says what places are worth to an encoder.

The patches that are kept stay the same places, so a block goes only to where another was whose patches are kept in the
same pattern. With blocks of one patch every kept patch moves; of larger ones those at the border of the tissue stay
where no other is like them.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from wsi_vmamba.regions import RegionPlan

#: Of every shuffle: what is shuffled is a function of the plan, so that an interrupted run goes on alike.
_SEED = 0x5F1E

#: (column, row) of a block on the grid of blocks, which starts at the origin of the canvas.
Block = tuple[int, int]


def shuffled_blocks(plan: RegionPlan, *, block_px: int) -> dict[Block, Block]:
    """From which block the pixels of each block come; blocks that are not named keep their own.

    Args:
        plan: its kept patches decide which blocks may change places.
        block_px: side of a block in target pixels, whole patches.
    """
    per_block = block_px // plan.spec.patch_px
    patterns: dict[Block, set[tuple[int, int]]] = defaultdict(set)
    for region in plan.regions:
        for column, row in region.patches.tolist():
            patterns[column // per_block, row // per_block].add((column % per_block, row % per_block))
    alike: dict[frozenset[tuple[int, int]], list[Block]] = defaultdict(list)
    for block, pattern in sorted(patterns.items()):
        alike[frozenset(pattern)].append(block)
    draw = np.random.default_rng([_SEED, plan.width_l0, plan.height_l0])
    found: dict[Block, Block] = {}
    for blocks in alike.values():
        found |= dict(zip(blocks, (blocks[i] for i in draw.permutation(len(blocks)).tolist()), strict=True))
    return found
