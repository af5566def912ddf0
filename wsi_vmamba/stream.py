"""From a plan to pixels: regions decoded ahead of whoever encodes them, in bounded memory."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import UsageError
from wsi_vmamba.regions import Region, RegionPlan
from wsi_vmamba.rescale import Rescaler
from wsi_vmamba.slide.base import Slide

#: Blocks begin on this grid of the level, so that a reader's rounding is the same whatever region asks. They
#: are multiples of the usual tile sizes, so that hardly any tile is decoded twice.
_BLOCK_WIDTH_PX = 4096
_BLOCK_HEIGHT_PX = 1024
_MAX_THREADS = 8


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
        regions: regions handed out.
        pixels_px: target pixels handed out.
    """

    decode_s: float = 0.0
    wait_s: float = 0.0
    regions: int = 0
    pixels_px: int = 0


def stream_regions(
    slide: Slide, plan: RegionPlan, *, prefetch: int = 1, stats: StreamStats | None = None
) -> Iterator[DecodedRegion]:
    """Yield the regions of a plan in order, decoding ahead in a thread.

    At most ``prefetch`` regions are decoded or being decoded beside the one the consumer holds. Closing the
    iterator (or leaving it to the garbage collector) stops the thread at the next strip of rows.

    Args:
        slide: the slide the plan was made for; read from several threads.
        plan: which regions.
        prefetch: how many regions to be ahead, at least 1.
        stats: filled in as the regions come.

    Raises:
        UsageError: ``prefetch`` is less than 1.
        UnreadableSlideError: a region cannot be read; raised in place of that region, after those before it.
    """
    if prefetch < 1:
        raise UsageError(f"prefetch must be 1 or more regions, got {prefetch}")
    return _stream(slide, plan, prefetch, stats if stats is not None else StreamStats())


def read_target(
    slide: Slide, plan: RegionPlan, *, x_px: int, y_px: int, width_px: int, height_px: int
) -> NDArray[np.uint8]:
    """Read one rectangle of a plan's target canvas, uint8 RGB, shape (height_px, width_px, 3).

    The bytes of a pixel depend on its place on the canvas only, not on the rectangle. White outside the slide.

    Raises:
        UnreadableSlideError: a part of it cannot be read.
    """
    with _Decoder(slide, plan) as decoder:
        return decoder.read(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px)


def _stream(slide: Slide, plan: RegionPlan, prefetch: int, stats: StreamStats) -> Iterator[DecodedRegion]:
    pending: deque[Future[DecodedRegion]] = deque()
    waiting = iter(plan.regions)
    with _Decoder(slide, plan) as decoder, ThreadPoolExecutor(1, thread_name_prefix="regions") as ahead:

        def submit_ahead() -> None:
            while len(pending) < prefetch and (region := next(waiting, None)):
                pending.append(ahead.submit(decoder.decode, region, stats))

        try:
            for _ in plan.regions:
                submit_ahead()
                started = time.perf_counter()
                decoded = pending.popleft().result()
                stats.wait_s += time.perf_counter() - started
                submit_ahead()
                stats.regions += 1
                stats.pixels_px += decoded.region.width_px * decoded.region.height_px
                yield decoded
                # Let go before waiting, or a region that the consumer is done with would stay in memory.
                del decoded
        finally:
            decoder.stop.set()
            ahead.shutdown(wait=False, cancel_futures=True)


class _Decoder:
    """Reads rectangles of the target canvas, strip by strip, with a small pool of threads."""

    def __init__(self, slide: Slide, plan: RegionPlan) -> None:
        self.slide = slide
        self.plan = plan
        self.stop = threading.Event()
        self._pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

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
            self._read_into(out, x_px=x_px, y_px=y_px)
            return out
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
        for strip in _edges(int(rows.first[0]), int(rows.end[-1]), _strip_rows(self.plan.scale)):
            # Rows above the strip that the next target row still needs, then the strip.
            kept = held[max(0, int(rows.first[done]) - (strip.start - len(held))) :]
            held = np.empty((len(kept) + len(strip), rescaler.right - left, 3), dtype=np.uint8)
            held[: len(kept)] = kept
            self._read_into(held[len(kept) :], x_px=left, y_px=strip.start)
            ready = int(np.searchsorted(rows.end, strip.stop, side="right"))
            if ready > done:
                top = strip.stop - len(held)
                rescaler.fill(out, held, start=done, stop=ready, source_y_px=top, run_all=self._run_all)
                done = ready

    def _read_into(self, out: NDArray[np.uint8], *, x_px: int, y_px: int) -> None:
        """Fill ``out`` with pixels of the plan's level; (x_px, y_px) is its top-left corner on that level."""
        blocks = [
            (x, y)
            for y in _edges(y_px, y_px + out.shape[0], _BLOCK_HEIGHT_PX)
            for x in _edges(x_px, x_px + out.shape[1], _BLOCK_WIDTH_PX)
        ]

        def read_block(index: int) -> None:
            x, y = blocks[index]
            pixels = self._read_block(x, y)
            out[y.start - y_px : y.stop - y_px, x.start - x_px : x.stop - x_px] = pixels

        self._run_all(read_block, range(len(blocks)))

    def _read_block(self, x: range, y: range) -> NDArray[np.uint8]:
        """Read a block of the level, always from the same anchor, and cut off what was not asked for."""
        downsample = self.plan.downsample
        # Where level pixels are level-0 pixels there is nothing to round, and no need to read from an anchor.
        anchored = not downsample.is_integer()
        x_from = x.start // _BLOCK_WIDTH_PX * _BLOCK_WIDTH_PX if anchored else x.start
        y_from = (
            y.start // _strip_rows(self.plan.scale) * _strip_rows(self.plan.scale) if anchored else y.start
        )
        pixels = self.slide.read_region(
            # Upwards, so that a reader that rounds down and one that rounds to nearest both land on the pixel.
            x_l0=math.ceil(x_from * downsample - 1e-6),
            y_l0=math.ceil(y_from * downsample - 1e-6),
            level=self.plan.level,
            width_px=x.stop - x_from,
            height_px=y.stop - y_from,
        )
        return pixels[y.start - y_from :, x.start - x_from :]

    def _run_all(self, task: Callable[[int], None], numbers: Iterable[int]) -> None:
        """Call ``task`` on each number in the pool; the first error is raised, and nothing runs afterwards."""
        if self.stop.is_set():
            raise CancelledError
        futures = [self._pool.submit(task, number) for number in numbers]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


def _strip_rows(scale: float) -> int:
    """Source rows read at a time: a power of two that keeps a strip of the largest region near 60 MB."""
    return min(_BLOCK_HEIGHT_PX, max(64, 2 ** int(math.log2(2048 / max(scale, 1.0)))))


def _edges(start: int, stop: int, step: int) -> Iterator[range]:
    """Cut ``start`` to ``stop`` at the multiples of ``step``."""
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield range(start, end)
        start = end
