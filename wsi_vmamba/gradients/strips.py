"""How the maps of a region are cut into strips of rows for training, and the memory that takes: arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from wsi_vmamba.inference.plan import stage_shapes
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.ops.strip_gradients import states_bytes

#: Scan input of a strip, about: the intermediate maps of a strip, of which there are some forty, come and go with it.
_STRIP_BYTES = 4 << 20
#: Fewest rows of a strip: every strip has states in two directions of every column, an eighth of its map, or a half
#: with 16 states per channel.
_FEWEST_ROWS = 16
#: Maps like the scan input of a strip that the gradients of a strip hold at their peak, measured.
_MAPS_OF_STRIP = 40


@dataclass(frozen=True, kw_only=True)
class StageStrips:
    """The map of one stage: (height, width) tokens, in strips of ``strip_rows``, the last perhaps fewer."""

    height: int
    width: int
    strip_rows: int

    @property
    def rows(self) -> list[tuple[int, int]]:
        """[first, last) of each strip, top to bottom."""
        starts = range(0, self.height, self.strip_rows)
        return [(first, min(first + self.strip_rows, self.height)) for first in starts]


def plan_strips(
    config: VMambaConfig, *, height_px: int, width_px: int, itemsize: int, strip_rows: int | None
) -> list[StageStrips]:
    """Cut the map of each stage of a region.

    Args:
        config: of the backbone.
        height_px: of the region.
        width_px: of the region.
        itemsize: bytes of a number.
        strip_rows: rows per strip in every stage; None chooses.
    """
    found = []
    for stage, (height, width) in enumerate(stage_shapes(config, height_px=height_px, width_px=width_px)):
        by_memory = _STRIP_BYTES // max(1, width * config.d_inner(stage) * itemsize)
        widening = -(-config.d_inner(stage) // config.dims[stage])
        rows = strip_rows or max(_FEWEST_ROWS * widening * isqrt(config.d_state), by_memory)
        found.append(StageStrips(height=height, width=width, strip_rows=rows))
    return found


def needed_bytes(config: VMambaConfig, stages: list[StageStrips], *, itemsize: int, learning: bool) -> int:
    """Memory that encoding a region takes, and where it is learned from its gradients too; pixels are not counted."""
    maps, states, strips = [], [], []
    for stage, cut in enumerate(stages):
        tokens, d_inner = cut.height * cut.width, config.d_inner(stage)
        maps.append(tokens * config.dims[stage] * itemsize)
        states.append(
            states_bytes(config.d_state, d_inner=d_inner, width=cut.width, strips=len(cut.rows))
            * itemsize
            // 4
        )
        widest = max(d_inner, config.dims[stage] * config.mlp_ratio / 4)
        strips.append(int(min(cut.strip_rows, cut.height) * cut.width * widest * itemsize * _MAPS_OF_STRIP))
    kept = sum(depth * (size + state) for depth, size, state in zip(config.depths, maps, states, strict=True))
    # Beside what is kept: the gradient of the map, that of the scan, and the transitions that states are made of.
    working = max(
        2 * size + tokens_inner + 3 * state + strip
        for size, tokens_inner, state, strip in zip(
            maps,
            (cut.height * cut.width * config.d_inner(i) * itemsize for i, cut in enumerate(stages)),
            states,
            strips,
            strict=True,
        )
    )
    return working + (kept if learning else 0)
