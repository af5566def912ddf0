"""The routes: what is asked for is looked up, read by a few threads, and answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from wsi_vmamba import __version__
from wsi_vmamba.errors import UsageError, WsiVmambaError
from wsi_vmamba.slide.workers import usable_cores
from wsi_vmamba.view.answers import RefusedError, json_answer, refused, tagged, whole_number
from wsi_vmamba.view.byte_cache import ByteCache
from wsi_vmamba.view.catalogue import Catalogue, Item, words_of
from wsi_vmamba.view.picture import Tile
from wsi_vmamba.view.safety import Access, Guard
from wsi_vmamba.view.slide_page import describe_slide
from wsi_vmamba.view.static_files import load_static

T = TypeVar("T")
_TILE_CACHE_BYTES = 96 << 20


class ViewerApp:
    """The server's state and its routes."""

    def __init__(
        self, catalogue: Catalogue, *, show_labels: bool = False, threads: int | None = None
    ) -> None:
        """Keep what is shown.

        Args:
            catalogue: the slides.
            show_labels: whether pictures of the label and the glass may be seen, which may name the patient.
            threads: how many read and decode at once.
        """
        self.catalogue = catalogue
        self.show_labels = show_labels
        self._tiles: ByteCache[Tile] = ByteCache(_TILE_CACHE_BYTES)
        self._static = load_static()
        self._threads = threads or max(4, usable_cores() + 2)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="view")

    def build(self, access: Access) -> ASGIApp:
        """The application, guarded."""
        routes = [
            Route("/", self.page),
            Route("/static/{name:path}", self.static),
            Route("/session", self.session),
            Route("/slides", self.slides),
            Route("/slides/{id}", self.slide),
            Route("/slides/{id}/tiles/{level}/{name}", self.tile),
            Route("/slides/{id}/thumbnail.jpg", self.thumbnail),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Guard, access=access)],
            exception_handlers={
                RefusedError: _answer_refused,
                HTTPException: _answer_http,
                WsiVmambaError: _answer_error,
                Exception: _answer_unforeseen,
            },
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.catalogue.look_in_background()
        yield
        self.catalogue.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _item(self, request: Request) -> Item:
        """The slide that a request is about.

        Raises:
            RefusedError: there is none of that id.
        """
        found = self.catalogue.find(request.path_params["id"])
        if found is None:
            raise RefusedError(404, "not_found", "no slide of that id")
        return found

    async def page(self, request: Request) -> Response:
        """The page."""
        return self._static_answer(request, "index.html")

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        return self._static_answer(request, request.path_params["name"])

    def _static_answer(self, request: Request, name: str) -> Response:
        found = self._static.get(name)
        if found is None:
            raise RefusedError(404, "not_found", "no such file")
        return tagged(request, found.data, media_type=found.media_type, tag=found.tag)

    async def session(self, request: Request) -> Response:
        """What was opened, and what may be done with it."""
        source = self.catalogue.source
        return json_answer(
            request,
            {
                "version": __version__, "title": source.title, "kind": source.kind, "show_labels": self.show_labels,
                "threshold": source.threshold, "can_draw": False, "drawings_folder": None, "classes": [],
                "has_neighbours": False,
            },
        )  # fmt: skip

    async def slides(self, request: Request) -> Response:
        """The list of slides, as it is now."""
        await self._in_thread(self.catalogue.refresh)
        return json_answer(request, self.catalogue.listed())

    async def slide(self, request: Request) -> Response:
        """Levels and facts of one slide."""
        item = self._item(request)
        found = await self._in_thread(lambda: self._describe(item))
        return json_answer(request, found, stamp=item.stamp)

    def _describe(self, item: Item) -> dict[str, Any]:
        with self.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
            return describe_slide(item, picture)

    async def tile(self, request: Request) -> Response:
        """One tile."""
        item = self._item(request)
        column, row, level = _place(request)
        key = (item.row.id, item.stamp, level, column, row)
        tile = self._tiles.get(key)
        if tile is None:
            tile = await self._in_thread(lambda: self._read_tile(item, level=level, column=column, row=row))
            if not tile.is_damaged:
                self._tiles.put(key, tile, len(tile.data))
        headers: dict[str, str] = {"tile-source": tile.source}
        if tile.is_damaged:
            return Response(
                tile.data,
                200,
                {**headers, "tile-damaged": "true", "cache-control": "no-store"},
                media_type="image/jpeg",
            )
        return tagged(
            request, tile.data, media_type="image/jpeg", tag=f"{item.stamp}-{level}-{column}-{row}", stamp=item.stamp,
            headers=headers,
        )  # fmt: skip

    def _read_tile(self, item: Item, *, level: int, column: int, row: int) -> Tile:
        with self.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
            if level >= len(picture.levels) or not picture.levels[level].has_tile(column=column, row=row):
                raise RefusedError(404, "not_found", "no such tile")
            return picture.tile(level=level, column=column, row=row)

    async def thumbnail(self, request: Request) -> Response:
        """The whole slide, small."""
        item = self._item(request)
        max_px = whole_number(request, "max_px", low=64, high=1024, default=256)
        key = (item.row.id, item.stamp, "thumbnail", max_px)
        tile = self._tiles.get(key)
        if tile is None:
            tile = await self._in_thread(lambda: self._read_thumbnail(item, max_px))
            self._tiles.put(key, tile, len(tile.data))
        return tagged(
            request, tile.data, media_type="image/jpeg", tag=f"{item.stamp}-{max_px}", stamp=item.stamp
        )

    def _read_thumbnail(self, item: Item, max_px: int) -> Tile:
        from wsi_vmamba.view.picture import encode_jpeg

        with self.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
            return Tile(data=encode_jpeg(picture.thumbnail(max_px)), source="decoded", is_damaged=False)


def _place(request: Request) -> tuple[int, int, int]:
    """Column, row and level that an address names.

    Raises:
        RefusedError: it names none.
    """
    name: str = request.path_params["name"]
    column, _, row = name.removesuffix(".jpg").partition("_")
    texts = (column, row, request.path_params["level"])
    if not name.endswith(".jpg") or not all(
        text.isascii() and text.isdigit() and len(text) < 10 for text in texts
    ):
        raise RefusedError(404, "not_found", "no such tile")
    return int(column), int(row), int(texts[2])


async def _answer_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refused(error)


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return refused(RefusedError(error.status_code, code, str(error.detail)))


async def _answer_error(_: Request, error: Exception) -> Response:
    """What this package raises on purpose: about the request, or about the slide."""
    assert isinstance(error, WsiVmambaError)
    if isinstance(error, UsageError):
        return refused(RefusedError(400, "bad_request", words_of(error)))
    return refused(RefusedError(422, "slide_unreadable", words_of(error)))


async def _answer_unforeseen(_: Request, error: Exception) -> Response:
    """A mistake of ours; what it was stands in the terminal and not in the answer."""
    return refused(RefusedError(500, "internal", "something went wrong; the terminal says what"))
