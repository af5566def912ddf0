"""From a plan to pixels: regions decoded ahead of whoever encodes them, in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.geometry import level_to_l0_px
from wsi_vmamba.regions import Region, RegionPlan
from wsi_vmamba.rescale import Rescaler
from wsi_vmamba.shuffled import shuffled_blocks
from wsi_vmamba.slide.base import Slide
from wsi_vmamba.slide.workers import run_all

#: Blocks lie on a fixed grid of the level, in multiples of the usual tile sizes: few tiles are decoded twice.
_BLOCK_WIDTH_PX = 2048
_BLOCK_HEIGHT_PX = 1024
#: A band of rows that is decoded at once is about so large.
_BAND_BYTES = 160 << 20


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedRegion:
    """A region and its pixels.

    Attributes:
        region: its place in the plan.
        pixels: uint8 RGB at the target resolution, shape (region.height_px, region.width_px, 3).
    """

    region: Region
    pixels: NDArray[np.uint8]


@dataclass(kw_only=True)
class StreamStats:
    """What streaming took; grows while the regions come.

    Attributes:
        decode_s: seconds the decode thread worked.
        wait_s: seconds the consumer waited for it: near zero where decoding hides behind the encoder.
        stream_s: seconds from the first region asked for until the consumer was through with the last; what
            ``decode_s`` leaves of it the decode thread waited for the consumer.
        regions: regions handed out.
        target_px: target pixels handed out.
    """

    decode_s: float = 0.0
    wait_s: float = 0.0
    stream_s: float = 0.0
    regions: int = 0
    target_px: int = 0


def stream_regions(
    slide: Slide,
    plan: RegionPlan,
    *,
    regions: Sequence[Region] | None = None,
    prefetch: int = 1,
    stats: StreamStats | None = None,
) -> Iterator[DecodedRegion]:
    """Yield the regions of a plan in order, decoding ahead in a thread.

    At most ``prefetch`` regions are decoded or being decoded beside the one the consumer holds. Closing the
    iterator, or dropping it, stops the thread at the next strip of rows.

    Args:
        slide: the slide the plan was made for; read from several threads.
        plan: how target pixels relate to the slide.
        regions: which of its regions; None: all.
        prefetch: how many regions to be ahead, at least 1.
        stats: filled in as the regions come.

    Raises:
        UsageError: ``prefetch`` is less than 1.
        UnreadableSlideError: a region cannot be read; raised in place of that region, after those before it.
    """
    if prefetch < 1:
        raise UsageError(f"prefetch must be 1 or more regions, got {prefetch}")
    regions = plan.regions if regions is None else regions
    return _stream(slide, plan, regions, prefetch, stats if stats is not None else StreamStats())


def read_target(
    slide: Slide, plan: RegionPlan, *, x_px: int, y_px: int, width_px: int, height_px: int
) -> NDArray[np.uint8]:
    """Read one rectangle of a plan's target canvas, uint8 RGB, shape (height_px, width_px, 3).

    The bytes of a pixel depend on its place on the canvas, not on the rectangle. White outside the slide.

    Raises:
        UnreadableSlideError: a part of it cannot be read.
    """
    return _decoder(slide, plan).read(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)


def _stream(
    slide: Slide, plan: RegionPlan, regions: Sequence[Region], prefetch: int, stats: StreamStats
) -> Iterator[DecodedRegion]:
    decoder = _decoder(slide, plan)
    pending: deque[Future[DecodedRegion]] = deque()
    waiting = iter(regions)
    began = time.perf_counter()
    with ThreadPoolExecutor(1, thread_name_prefix="regions") as ahead:

        def submit_ahead() -> None:
            while len(pending) < prefetch and (region := next(waiting, None)):
                pending.append(ahead.submit(decoder.decode, region, stats))

        try:
            for _ in regions:
                submit_ahead()
                started = time.perf_counter()
                decoded = pending.popleft().result()
                stats.wait_s += time.perf_counter() - started
                submit_ahead()
                stats.regions += 1
                stats.target_px += decoded.region.width_px * decoded.region.height_px
                yield decoded
                # Let go before waiting, or a region that the consumer is done with would stay in memory.
                del decoded
        finally:
            stats.stream_s += time.perf_counter() - began
            decoder.stop.set()
            ahead.shutdown(wait=False, cancel_futures=True)


class BandStream:
    """The pixels of one region from top to bottom, a band of rows at a time: it is never whole in memory.

    The next band is decoded in a thread while the consumer works on what it has.

    Attributes:
        height: of the region, in target pixels.
        width: likewise.
    """

    def __init__(
        self,
        slide: Slide,
        plan: RegionPlan,
        region: Region,
        *,
        stats: StreamStats,
        decoded: Callable[[], None],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            slide: the slide the plan was made for.
            plan: how target pixels relate to the slide.
            region: which of its regions.
            stats: filled in as the bands come.
            decoded: called after each band, before anybody gets it.
        """
        self.height, self.width = region.height_px, region.width_px
        self._region = region
        self._decoder = _decoder(slide, plan)
        self._stats = stats
        self._decoded = decoded
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="bands")
        self._pending: Future[NDArray[np.uint8]] | None = None
        self._bands: deque[tuple[int, NDArray[np.uint8]]] = deque()
        self._next = 0
        self._step = band_rows(self.width)
        self._began = time.perf_counter()

    def advance(self, first: int, last: int) -> None:
        """Have rows [first, last) at hand, as far as they are in the region; those above are let go.

        Raises:
            UnreadableSlideError: they cannot be read.
        """
        first, last = max(first, 0), min(last, self.height)
        if not self._bands and self._pending is None:  # going on in the middle
            self._next = self._edge(first)[0]
        while self._bands and self._bands[0][0] + len(self._bands[0][1]) <= first:
            self._bands.popleft()
        while not self._bands or self._bands[-1][0] + len(self._bands[-1][1]) < last:
            self._bands.append(self._take())

    def rows(self, first: int, last: int) -> NDArray[np.uint8]:
        """Rows [first, last) of those that are at hand, uint8 RGB (n, width, 3)."""
        parts = [
            band[max(first - top, 0) : last - top]
            for top, band in self._bands
            if top < last and top + len(band) > first
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        """Stop reading."""
        self._stats.stream_s += time.perf_counter() - self._began
        self._decoder.stop.set()
        self._ahead.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> tuple[int, NDArray[np.uint8]]:
        """The next band, with the one after it asked for."""
        top, bottom = self._edge(self._next)
        pending = self._pending or self._ahead.submit(self._decode, top, bottom)
        started = time.perf_counter()
        band = pending.result()
        self._stats.wait_s += time.perf_counter() - started
        self._decoded()
        self._next = bottom
        self._pending = None
        if bottom < self.height:
            self._pending = self._ahead.submit(self._decode, *self._edge(bottom))
        return top, band

    def _edge(self, row: int) -> tuple[int, int]:
        """The band that a row is in; bands lie on a grid of the canvas, so that few tiles are decoded twice."""
        y_px = self._region.y_px
        top = (row + y_px) // self._step * self._step - y_px
        return max(top, 0), min(top + self._step, self.height)

    def _decode(self, top: int, bottom: int) -> NDArray[np.uint8]:
        started = time.perf_counter()
        pixels = self._decoder.read(
            x_px=self._region.x_px,
            y_px=self._region.y_px + top,
            width_px=self.width,
            height_px=bottom - top,
        )
        self._stats.decode_s += time.perf_counter() - started
        self._stats.target_px += self.width * (bottom - top)
        return pixels


def band_rows(width_px: int) -> int:
    """Rows of the bands of a region so wide: a multiple of most heights of tiles, in bounded memory."""
    fitting = max(1, _BAND_BYTES // (3 * width_px))
    return min(_BLOCK_HEIGHT_PX, max(256, 1 << int(math.log2(fitting))))


def band_bytes(width_px: int) -> int:
    """Memory of a `BandStream`: two bands at hand, one being decoded, and rows that lie in two."""
    return 3 * 3 * width_px * band_rows(width_px)


class _Decoder:
    """Reads rectangles of the target canvas strip by strip; each strip in parallel."""

    def __init__(self, slide: Slide, plan: RegionPlan) -> None:
        self.slide = slide
        self.plan = plan
        self.stop = threading.Event()
        base, level = slide.levels[0], slide.levels[plan.level]
        sizes = (level.width_px * plan.downsample, level.height_px * plan.downsample)
        # Where a level is no exact fraction of level 0, a reader may have to round the place it reads from.
        # Reading every block from its own corner of the grid makes it round the same for every rectangle.
        self._anchored = sizes != (base.width_px, base.height_px)
        # Strips are as wide as the slide: cut further, each would be decoded once for every block.
        self._block_width_px = max(_BLOCK_WIDTH_PX, level.stored_px[0] if level.stored_px else 0)

    def decode(self, region: Region, stats: StreamStats) -> DecodedRegion:
        """Read one region and note how long it took."""
        started = time.perf_counter()
        pixels = self.read(
            x_px=region.x_px, y_px=region.y_px, width_px=region.width_px, height_px=region.height_px
        )
        stats.decode_s += time.perf_counter() - started
        return DecodedRegion(region=region, pixels=pixels)

    def read(self, *, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """Read a rectangle of target pixels, shape (height_px, width_px, 3)."""
        out = np.empty((height_px, width_px, 3), dtype=np.uint8)
        if self.plan.scale == 1:
            for strip in _cut_at_multiples(y_px, y_px + height_px, _BLOCK_HEIGHT_PX):
                self._read_strip(out[strip.start - y_px : strip.stop - y_px], x_px=x_px, y_px=strip.start)
        else:
            rescaler = Rescaler(
                x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px, scale=self.plan.scale
            )
            self._rescale_strips(out, rescaler)
        return out

    def _rescale_strips(self, out: NDArray[np.uint8], rescaler: Rescaler) -> None:
        """Fill ``out`` from top to bottom; a source row is read once and kept only while it is needed."""
        rows, left = rescaler.rows, rescaler.left
        held = np.empty((0, rescaler.right - left, 3), dtype=np.uint8)
        done = 0
        for strip in _cut_at_multiples(int(rows.first[0]), int(rows.end[-1]), _strip_rows(self.plan.scale)):
            # Rows above the strip that the next target row still needs, then the strip.
            kept = held[max(0, int(rows.first[done]) - (strip.start - len(held))) :]
            held = np.empty((len(kept) + len(strip), rescaler.right - left, 3), dtype=np.uint8)
            held[: len(kept)] = kept
            self._read_strip(held[len(kept) :], x_px=left, y_px=strip.start)
            ready = int(np.searchsorted(rows.end, strip.stop, side="right"))
            if ready > done:
                top = strip.stop - len(held)
                rescaler.fill(out, held, start=done, stop=ready, source_y_px=top, run_all=run_all)
                done = ready

    def _read_strip(self, out: NDArray[np.uint8], *, x_px: int, y_px: int) -> None:
        """Fill a strip of rows with pixels of the plan's level; (x_px, y_px) is its corner on that level."""
        if self.stop.is_set():
            raise CancelledError
        strip_rows = _strip_rows(self.plan.scale)

        def read_block(x: range) -> None:
            x_from = x.start // self._block_width_px * self._block_width_px if self._anchored else x.start
            y_from = y_px // strip_rows * strip_rows if self._anchored else y_px
            block = out[:, x.start - x_px : x.stop - x_px]
            fits = (x_from, y_from) == (x.start, y_px)
            pixels = self.slide.read_region(
                x_l0=level_to_l0_px(x_from, downsample=self.plan.downsample),
                y_l0=level_to_l0_px(y_from, downsample=self.plan.downsample),
                level=self.plan.level,
                width_px=x.stop - x_from,
                height_px=y_px + len(out) - y_from,
                out=block if fits else None,
            )
            if not fits:
                block[:] = pixels[y_px - y_from :, x.start - x_from :]

        run_all(read_block, list(_cut_at_multiples(x_px, x_px + out.shape[1], self._block_width_px)))


class _ShuffledDecoder(_Decoder):
    """Reads rectangles of a canvas on which the pixels of some blocks are at each other's places."""

    def __init__(self, slide: Slide, plan: RegionPlan, block_px: int) -> None:
        super().__init__(slide, plan)
        self._block_px = block_px
        self._sources = shuffled_blocks(plan, block_px=block_px)

    def read(self, *, x_px: int, y_px: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """Read a rectangle of target pixels: what lies in it of each block, from where that block is taken."""
        out = np.empty((height_px, width_px, 3), dtype=np.uint8)
        side = self._block_px
        for rows in _cut_at_multiples(y_px, y_px + height_px, side):
            for columns in _cut_at_multiples(x_px, x_px + width_px, side):
                place = (columns.start // side, rows.start // side)
                column, row = self._sources.get(place, place)
                out[rows.start - y_px : rows.stop - y_px, columns.start - x_px : columns.stop - x_px] = (
                    super().read(
                        x_px=columns.start + (column - place[0]) * side,
                        y_px=rows.start + (row - place[1]) * side,
                        width_px=len(columns),
                        height_px=len(rows),
                    )
                )
        return out


def _decoder(slide: Slide, plan: RegionPlan) -> _Decoder:
    """What reads the canvas of a plan."""
    if plan.spec.shuffle_px is not None:
        return _ShuffledDecoder(slide, plan, plan.spec.shuffle_px)
    return _Decoder(slide, plan)


def _strip_rows(scale: float) -> int:
    """Source rows read at a time: a power of two that keeps a strip of a 10,000-px region near 60 MB."""
    return min(_BLOCK_HEIGHT_PX, max(64, 1 << int(math.log2(2048 / min(max(scale, 1.0), 2048)))))


def _cut_at_multiples(start: int, stop: int, step: int) -> Iterator[range]:
    """Cut ``start`` to ``stop`` at the multiples of ``step``."""
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield range(start, end)
        start = end
