"""The slides that are open: each is opened once, however many ask, and those not used for longest are closed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from wsi_vmamba.errors import UnreadableSlideError, WsiVmambaError
from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.view.blank import BlankSlide
from wsi_vmamba.view.byte_cache import ByteCache
from wsi_vmamba.view.coarse import CoarsePicture
from wsi_vmamba.view.made_parts import MadeParts
from wsi_vmamba.view.picture import SlidePicture
from wsi_vmamba.view.row import SlideRow

#: A slide that cannot be opened is not tried again for each of its tiles.
_TRY_AGAIN_S = 10.0
_MADE_BYTES = 48 << 20
#: Coarse pictures of four slides of 8 megapixels each; making one of them takes many seconds.
_COARSE_BYTES = 96 << 20


class _Handle:
    """One slide, open or being opened."""

    def __init__(self) -> None:
        self.opened: Future[SlidePicture] = Future()
        self.users = 0
        self.failed_at: float | None = None


class OpenSlides:
    """Hands out open slides; may be used from any thread."""

    def __init__(self, *, most: int = 16) -> None:
        """Begin with none open.

        Args:
            most: how many stay open when nobody uses them.
        """
        self._most = most
        self._handles: OrderedDict[tuple[str, str], _Handle] = OrderedDict()
        self._lock = threading.Lock()
        self._made = MadeParts(_MADE_BYTES)
        self._coarse: ByteCache[CoarsePicture] = ByteCache(_COARSE_BYTES)
        self._coarse_lock = threading.Lock()

    @contextmanager
    def borrow(self, row: SlideRow, *, stamp: str) -> Iterator[SlidePicture]:
        """Keep a slide open for the duration.

        Args:
            row: which slide.
            stamp: of its file; another is another slide.

        Raises:
            SlideError: it cannot be opened.
        """
        handle, is_mine = self._take((row.id, stamp))
        try:
            if is_mine:
                self._open(handle, row, stamp)
            yield handle.opened.result()
        finally:
            self._give_back(handle)

    def _take(self, key: tuple[str, str]) -> tuple[_Handle, bool]:
        """The handle of a slide, and whether whoever asks has to open it."""
        with self._lock:
            handle = self._handles.get(key)
            failed_at = None if handle is None else handle.failed_at
            is_new = handle is None or (failed_at is not None and time.monotonic() - failed_at > _TRY_AGAIN_S)
            if handle is None or is_new:
                handle = _Handle()
            self._handles[key] = handle
            self._handles.move_to_end(key)
            handle.users += 1
            return handle, is_new

    def _open(self, handle: _Handle, row: SlideRow, stamp: str) -> None:
        try:
            picture = SlidePicture(
                _opened(row), made=self._made, keep=partial(self._coarse_of, (row.id, stamp))
            )
            handle.opened.set_result(picture)
        except WsiVmambaError as error:
            handle.failed_at = time.monotonic()
            handle.opened.set_exception(error)
        except BaseException as error:
            # Whoever waits must not wait for ever, whatever it is; the error goes on to whoever opened it.
            handle.failed_at = time.monotonic()
            handle.opened.set_exception(error)
            raise

    def _coarse_of(self, key: tuple[str, str], make: Callable[[], CoarsePicture]) -> CoarsePicture:
        """The coarse picture of a slide, which is kept though the slide is closed meanwhile."""
        with self._coarse_lock:
            found = self._coarse.get(key)
            if found is None:
                found = make()
                self._coarse.put(key, found, found.pixels.nbytes)
            return found

    def _give_back(self, handle: _Handle) -> None:
        closing: list[SlidePicture] = []
        with self._lock:
            handle.users -= 1
            idle = [key for key, each in self._handles.items() if not each.users and each.opened.done()]
            for key in idle[: max(0, len(self._handles) - self._most)]:
                dropped = self._handles.pop(key)
                if dropped.opened.exception() is None:
                    closing.append(dropped.opened.result())
        for picture in closing:
            picture.slide.close()

    def stop(self) -> None:
        """Stop what is being made; whoever waits for it gets an error that says so."""
        self._made.stop()

    def close(self) -> None:
        """Close what nobody uses."""
        with self._lock:
            handles = [each for each in self._handles.values() if not each.users and each.opened.done()]
            self._handles.clear()
        for handle in handles:
            if handle.opened.exception() is None:
                handle.opened.result().slide.close()


def _opened(row: SlideRow) -> Slide:
    if row.problem:
        raise UnreadableSlideError(row.name, row.problem)
    if row.place is None and row.blank_l0 is not None:
        return BlankSlide(row.name, width_px=row.blank_l0[0], height_px=row.blank_l0[1])
    if row.place is None:
        raise UnreadableSlideError(row.name, "its file is not known")
    return open_slide(row.place, reader=row.reader, scene=row.scene)
