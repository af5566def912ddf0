"""Tiles, segments and scratch of the Triton scan: pure arithmetic, no Triton, no device."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_vmamba.errors import UsageError

#: Scratch for carries that one launch may take; larger maps are scanned by groups of channels.
SCRATCH_LIMIT_BYTES = 512 * 1024**2


def ceil_div(value: int, by: int) -> int:
    """Divide and round up."""
    return -(-value // by)


def power_of_two(value: int, *, least: int) -> int:
    """Return the smallest power of two that is at least ``value`` and ``least`` (itself one)."""
    return max(least, 1 << (value - 1).bit_length())


@dataclass(frozen=True)
class Tiling:
    """What one program holds: ``rows`` x ``columns`` tokens of ``channels`` channels, on ``warps`` warps."""

    rows: int
    columns: int
    channels: int
    warps: int

    def __post_init__(self) -> None:
        """Refuse sizes that are no powers of two: Triton tensors have no others."""
        for name in ("rows", "columns", "channels", "warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise UsageError(f"Tiling.{name} must be a power of two, got {value}")


#: The gradient holds about twice as many values per token as the forward pass: smaller tiles keep them in registers.
GRADIENT_TILING = Tiling(rows=8, columns=8, channels=32, warps=4)


def choose_tiling(*, height: int, width: int, batch: int, channels: int) -> Tiling:
    """Return a tiling that gives a large GPU enough programs, with tiles as large as registers allow.

    Warps are such that 32 threads times two channels cover the tile's shorter side times its channels: then each
    thread holds whole rows or columns of the tile.
    """
    large = Tiling(rows=16, columns=16, channels=32, warps=8)
    programs = batch * ceil_div(height, 16) * ceil_div(width, 16) * ceil_div(channels, 32)
    return large if programs >= 256 else Tiling(rows=8, columns=8, channels=32, warps=4)


@dataclass(frozen=True)
class Plan:
    """The sizes all launches of one scan share; segments are pieces of rows or columns inside a tile."""

    batch: int
    height: int
    width: int
    channels: int
    rank: int
    state: int
    tiling: Tiling
    group: int

    @property
    def tiles_h(self) -> int:
        """Tiles from top to bottom."""
        return ceil_div(self.height, self.tiling.rows)

    @property
    def tiles_w(self) -> int:
        """Tiles from left to right."""
        return ceil_div(self.width, self.tiling.columns)

    @property
    def channel_blocks(self) -> int:
        """Channel blocks of one group."""
        return ceil_div(self.group, self.tiling.channels)

    @property
    def length_rows(self) -> int:
        """Segments of one row direction of one batch entry."""
        return self.height * self.tiles_w

    @property
    def length_columns(self) -> int:
        """Segments of one column direction of one batch entry."""
        return self.width * self.tiles_h

    @property
    def segments(self) -> int:
        """Segments of all four directions of one batch entry."""
        return 2 * (self.length_rows + self.length_columns)

    @property
    def tiles(self) -> int:
        """Tiles of the whole batch."""
        return self.batch * self.tiles_h * self.tiles_w

    @property
    def chunk_length(self) -> int:
        """Segments composed by one program when carries are combined: about the square root of all."""
        longest = max(self.length_rows, self.length_columns)
        return max(16, 1 << (longest.bit_length() // 2))

    @property
    def chunks(self) -> int:
        """Chunks of the longer direction."""
        return ceil_div(max(self.length_rows, self.length_columns), self.chunk_length)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the segment summaries of one group, the largest scratch of a forward scan."""
        return self.batch * self.segments * (1 + self.state) * 4 * self.group

    def groups(self) -> range:
        """First channels of the groups that are scanned one after the other."""
        return range(0, self.channels, self.group)

    def group_at(self, first_channel: int) -> int:
        """Channels of the group that begins at ``first_channel``; the last may be short."""
        return min(self.group, self.channels - first_channel)


def make_plan(
    *, batch: int, height: int, width: int, channels: int, rank: int, state: int, tiling: Tiling | None = None
) -> Plan:
    """Choose tiles and the channel group so that the scratch of a launch stays under the limit."""
    tiles = tiling or choose_tiling(height=height, width=width, batch=batch, channels=channels)
    whole = Plan(batch, height, width, channels, rank, state, tiles, channels)
    per_channel_bytes = whole.scratch_bytes // channels
    fitting = SCRATCH_LIMIT_BYTES // max(1, per_channel_bytes) // tiles.channels * tiles.channels
    group = min(channels, max(tiles.channels, fitting))
    return Plan(batch, height, width, channels, rank, state, tiles, group)
