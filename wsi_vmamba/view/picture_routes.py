"""Routes of pixels: tiles, thumbnails, rectangles, labels."""

from __future__ import annotations

from typing import Any

import imagecodecs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_vmamba.view.answers import RefusedError, json_answer, number, tagged, whole_number
from wsi_vmamba.view.catalogue import Item
from wsi_vmamba.view.context import Context
from wsi_vmamba.view.picture import MAX_RECTANGLE_PX, Shown, Tile, encode_jpeg
from wsi_vmamba.view.slide_page import coarse_facts

_JPEG, _PNG = "image/jpeg", "image/png"


class PictureRoutes:
    """Answers with pixels."""

    def __init__(self, context: Context) -> None:
        """Keep the server's state."""
        self._context = context

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/slides/{id}/tiles/{level}/{name}", self.tile),
            Route("/slides/{id}/thumbnail.jpg", self.thumbnail),
            Route("/slides/{id}/region.{kind}", self.region),
            Route("/slides/{id}/coarse", self.coarse),
            Route("/slides/{id}/{label}.jpg", self.label),
        ]

    async def tile(self, request: Request) -> Response:
        """One tile."""
        item = self._context.item(request)
        column, row, level = _place(request)
        key = (item.row.id, item.stamp, level, column, row)
        tile = self._context.pictures.get(key)
        if tile is None:
            tile = await self._context.in_thread(
                lambda: self._read_tile(item, level=level, column=column, row=row)
            )
            self._keep(key, tile)
        return _answer(request, tile, tag=f"{item.stamp}-{level}-{column}-{row}", stamp=item.stamp)

    def _keep(self, key: tuple[object, ...], tile: Tile) -> None:
        # Damage may be of the moment, such as of a disk that is coming back.
        if not tile.is_damaged and not tile.is_passing:
            self._context.pictures.put(key, tile, len(tile.data))

    def _read_tile(self, item: Item, *, level: int, column: int, row: int) -> Tile:
        with self._context.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
            if level >= len(picture.levels) or not picture.levels[level].has_tile(column=column, row=row):
                raise RefusedError(404, "not_found", "no such tile")
            return picture.tile(level=level, column=column, row=row)

    async def thumbnail(self, request: Request) -> Response:
        """The whole slide, small."""
        item = self._context.item(request)
        max_px = whole_number(request, "max_px", low=64, high=1024, default=256)
        key = (item.row.id, item.stamp, "thumbnail", max_px)
        tile = self._context.pictures.get(key)
        if tile is None:
            tile = await self._context.in_thread(lambda: self._read_thumbnail(item, max_px))
            self._keep(key, tile)
        return _answer(request, tile, tag=f"{item.stamp}-{max_px}", stamp=item.stamp)

    def _read_thumbnail(self, item: Item, max_px: int) -> Tile:
        with self._context.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
            shown = picture.thumbnail(max_px)
        return _as_tile(shown, encode_jpeg(shown.pixels))

    async def coarse(self, request: Request) -> Response:
        """How much of a slide without small levels has been read; it is read on for as long as this is asked."""
        item = self._context.item(request)

        def look() -> dict[str, Any]:
            with self._context.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
                return coarse_facts(picture)

        found = await self._context.in_thread(look)
        if not found["complete"]:
            self._context.reading_on.want(item)
        return json_answer(request, found)

    async def label(self, request: Request) -> Response:
        """The picture of the label or of the glass, where it may be seen."""
        item, name = self._context.item(request), request.path_params["label"]
        pixels = None
        if self._context.show_labels:
            from wsi_vmamba.view.labels import read_label

            pixels = await self._context.in_thread(lambda: read_label(item.row.place, name))
        if pixels is None:
            raise RefusedError(404, "not_found", "no such picture; labels are shown with --show-labels only")
        tile = Tile(data=encode_jpeg(pixels), source="decoded", is_damaged=False)
        return _answer(request, tile, tag=f"{item.stamp}-{_plain(name)}", stamp=item.stamp)

    async def region(self, request: Request) -> Response:
        """A rectangle of level 0."""
        item = self._context.item(request)
        kind = request.path_params["kind"]
        if kind not in {"jpg", "png"}:
            raise RefusedError(404, "not_found", "rectangles are .jpg or .png")
        box = {name: number(request, name) for name in ("x_l0", "y_l0", "width_l0", "height_l0")}
        max_px = whole_number(request, "max_px", low=1, high=MAX_RECTANGLE_PX, default=512)

        def read() -> Tile:
            with self._context.catalogue.slides.borrow(item.row, stamp=item.stamp) as picture:
                shown = picture.rectangle(**box, max_px=max_px)
            is_jpeg = kind == "jpg"
            data = encode_jpeg(shown.pixels) if is_jpeg else bytes(imagecodecs.png_encode(shown.pixels))
            return _as_tile(shown, data)

        tile = await self._context.in_thread(read)
        tag = "-".join([item.stamp, kind, str(max_px), *(f"{value:g}" for value in box.values())])
        return _answer(request, tile, tag=tag, stamp=item.stamp, media_type=_PNG if kind == "png" else _JPEG)


def _answer(request: Request, tile: Tile, *, tag: str, stamp: str, media_type: str = _JPEG) -> Response:
    marks = {"tile-damaged": tile.is_damaged, "tile-passing": tile.is_passing}
    if any(marks.values()):
        headers = {"tile-source": tile.source, "cache-control": "no-store"}
        headers |= {name: "true" for name, is_so in marks.items() if is_so}
        return Response(tile.data, 200, headers, media_type=media_type)
    return tagged(
        request, tile.data, media_type=media_type, tag=tag, stamp=stamp, headers={"tile-source": tile.source}
    )


def _as_tile(shown: Shown, data: bytes) -> Tile:
    return Tile(data=data, source="decoded", is_damaged=shown.is_damaged, is_passing=shown.is_passing)


def _plain(name: str) -> str:
    """A name as it may stand in a header."""
    return "".join(letter for letter in name if letter.isascii() and letter.isalnum())


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
