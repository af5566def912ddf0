"""What all routes share: the slides, the threads that read, what was made of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from wsi_vmamba.slide.workers import usable_cores
from wsi_vmamba.view.answers import RefusedError
from wsi_vmamba.view.byte_cache import ByteCache
from wsi_vmamba.view.catalogue import Catalogue, Item
from wsi_vmamba.view.drawings import Drawings
from wsi_vmamba.view.picture import Tile
from wsi_vmamba.view.pool import BusyError, Pool
from wsi_vmamba.view.reading_on import ReadingOn

if TYPE_CHECKING:
    from wsi_vmamba.probing.saved import SavedProbe
    from wsi_vmamba.view.layers import Layers
    from wsi_vmamba.view.neighbours import NeighbourIndex

T = TypeVar("T")
_PICTURE_BYTES = 64 << 20
#: How long the end waits for a thread that is in the middle of a tile.
_END_S = 2.0


class Context:
    """The server's state."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        drawings: Drawings,
        show_labels: bool = False,
        threads: int | None = None,
        probe: SavedProbe | None = None,
    ) -> None:
        """Keep what is shown.

        Args:
            catalogue: the slides.
            drawings: where drawings are kept.
            show_labels: whether pictures of the label and the glass may be seen, which may name the patient.
            threads: how many read and decode at once.
            probe: what calls patches by names of classes.
        """
        self.catalogue = catalogue
        self.drawings = drawings
        self.show_labels = show_labels
        self._probe = probe
        self.pictures: ByteCache[Tile] = ByteCache(_PICTURE_BYTES)
        threads = threads or max(4, usable_cores() + 2)
        self._pool = Pool(threads, name="view")
        # Layers may take seconds, of which tiles should notice nothing.
        self._slow_pool = Pool(2, name="view-slow")
        self.reading_on = ReadingOn(catalogue.slides)
        self._waiting: set[asyncio.Future[Any]] = set()

    @cached_property
    def layers(self) -> Layers:
        """Layers of slides; what they need is loaded now, so that the first picture does not wait for it."""
        from wsi_vmamba.view.layers import Layers

        source = self.catalogue.source
        return Layers(model=source.model, threshold=source.threshold, probe=self._probe)

    @cached_property
    def neighbours(self) -> NeighbourIndex:
        """Patches that look alike; likewise."""
        from wsi_vmamba.view.neighbours import NeighbourIndex

        return NeighbourIndex()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Read or decode something beside the server's own thread.

        Raises:
            RefusedError: too much is waiting, or the server ends.
        """
        return await self._done(self._pool, work)

    async def in_slow_thread(self, work: Callable[[], T]) -> T:
        """The same for what takes long.

        Raises:
            RefusedError: as `in_thread`.
        """
        return await self._done(self._slow_pool, work)

    async def _done(self, pool: Pool, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._waiting.add(answer)
        try:
            future = pool.submit(work)
            future.add_done_callback(lambda done: _tell(loop, answer, done))
            return await answer
        except BusyError:
            raise RefusedError(503, "busy", "too much is asked at once; try again") from None
        finally:
            self._waiting.discard(answer)

    def item(self, request: Request) -> Item:
        """The slide that a request is about.

        Raises:
            RefusedError: there is none of that id.
        """
        found = self.catalogue.find(request.path_params["id"])
        if found is None:
            raise RefusedError(404, "not_found", "no slide of that id")
        return found

    def warm_up(self) -> None:
        """Load what the first layer will need, when nothing else is to be done."""
        warm_up = getattr(self.catalogue.source.model, "warm_up", None)
        if warm_up is not None:
            warm_up()

    def end(self) -> None:
        """Answer whoever waits that the server ends, and stop what is being made; called in the server's own thread."""
        self.catalogue.slides.stop()
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_exception(RefusedError(503, "ending", "the viewer is ending"))

    def close(self) -> bool:
        """End what runs in the background; return whether all of it has ended, for which it waits a moment."""
        self.catalogue.slides.stop()
        self.catalogue.stop()
        ended = [each.close(wait_s=_END_S) for each in (self._pool, self._slow_pool, self.reading_on)]
        return all(ended)


def _tell(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], done: Future[T]) -> None:
    """Hand a result on to who waits for it in the server's own thread, unless nobody does any more."""

    def settle() -> None:
        if answer.done():
            return
        if done.cancelled():
            answer.cancel()
        elif (error := done.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())

    with contextlib.suppress(RuntimeError):  # the server has ended
        loop.call_soon_threadsafe(settle)
