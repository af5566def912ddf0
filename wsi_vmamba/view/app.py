"""The application: its routes, what it answers to errors, and the guard before all of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from wsi_vmamba import __version__
from wsi_vmamba.errors import UsageError, WsiVmambaError
from wsi_vmamba.view.answers import RefusedError, UnknownLayerError, json_answer, refused, tagged
from wsi_vmamba.view.catalogue import Item, words_of
from wsi_vmamba.view.context import Context
from wsi_vmamba.view.drawing_routes import DrawingRoutes
from wsi_vmamba.view.drawings import CLASSES
from wsi_vmamba.view.layer_routes import LayerRoutes
from wsi_vmamba.view.picture_routes import PictureRoutes
from wsi_vmamba.view.safety import Access, Guard
from wsi_vmamba.view.slide_page import describe_slide
from wsi_vmamba.view.static_files import load_static


def build_app(context: Context, access: Access) -> ASGIApp:
    """The application, guarded."""
    pages = PageRoutes(context)
    parts = (pages, PictureRoutes(context), LayerRoutes(context), DrawingRoutes(context))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        context.catalogue.look_in_background(then=context.warm_up)
        yield
        context.end()

    app = Starlette(
        routes=[route for part in parts for route in part.routes()],
        exception_handlers={
            RefusedError: _answer_refused,
            HTTPException: _answer_http,
            WsiVmambaError: _answer_error,
            Exception: _answer_unforeseen,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    # Around everything, so that answers to mistakes of ours have its headers too.
    return Guard(app, access=access)


class PageRoutes:
    """The page, what was opened, the list, one slide."""

    def __init__(self, context: Context) -> None:
        """Read the files of the page."""
        self._context = context
        self._static = load_static()

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/", self.page),
            Route("/static/{name:path}", self.static),
            Route("/session", self.session),
            Route("/slides", self.slides),
            Route("/slides/{id}", self.slide),
        ]

    async def page(self, request: Request) -> Response:
        """The page."""
        return self._file(request, "index.html")

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        return self._file(request, request.path_params["name"])

    def _file(self, request: Request, name: str) -> Response:
        found = self._static.get(name)
        if found is None:
            raise RefusedError(404, "not_found", "no such file")
        return tagged(request, found.data, media_type=found.media_type, tag=found.tag)

    async def session(self, request: Request) -> Response:
        """What was opened, and what may be done with it."""
        context, source = self._context, self._context.catalogue.source
        refusal = await context.in_thread(context.drawings.refusal)
        has_features = any(item.row.features is not None for item in context.catalogue.items())
        return json_answer(
            request,
            {
                "version": __version__, "title": source.title, "kind": source.kind, "threshold": source.threshold,
                "show_labels": context.show_labels, "can_draw": not refusal, "draw_refusal": refusal or None,
                "drawings_folder": context.drawings.folder.name, "classes": list(CLASSES),
                "has_neighbours": has_features,
            },
        )  # fmt: skip

    async def slides(self, request: Request) -> Response:
        """The list of slides, as it is now."""
        await self._context.in_thread(self._context.catalogue.refresh)
        return json_answer(request, self._context.catalogue.listed())

    async def slide(self, request: Request) -> Response:
        """Levels and facts of one slide."""
        item = self._context.item(request)
        found = await self._context.in_thread(lambda: self._describe(item))
        return json_answer(request, found, stamp=item.stamp)

    def _describe(self, item: Item) -> dict[str, Any]:
        with self._context.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
            return describe_slide(item, picture, show_labels=self._context.show_labels)


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
    if isinstance(error, UnknownLayerError):
        return refused(RefusedError(404, "not_found", words_of(error)))
    if isinstance(error, UsageError):
        return refused(RefusedError(400, "bad_request", words_of(error)))
    return refused(RefusedError(422, "slide_unreadable", words_of(error)))


async def _answer_unforeseen(_: Request, error: Exception) -> Response:
    """A mistake of ours; what it was stands in the terminal and not in the answer."""
    return refused(RefusedError(500, "internal", "something went wrong; the terminal says what"))
