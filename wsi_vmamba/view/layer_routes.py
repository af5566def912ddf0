"""Routes of what was made of slides: layers, patches, neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_vmamba.view.answers import RefusedError, json_answer, number, tagged, whole_number
from wsi_vmamba.view.byte_cache import ByteCache
from wsi_vmamba.view.catalogue import Item
from wsi_vmamba.view.context import Context

if TYPE_CHECKING:  # loads zarr, which the first picture need not wait for
    from wsi_vmamba.view.layers import SlidePatches
    from wsi_vmamba.view.rasters import Raster

_RASTER_BYTES = 32 << 20
_PATCH_PICTURE_PX = 512


class LayerRoutes:
    """Answers with layers and patches."""

    def __init__(self, context: Context) -> None:
        """Keep the server's state."""
        self._context = context
        self._rasters: ByteCache[Raster] = ByteCache(_RASTER_BYTES)

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/slides/{id}/layers", self.layers),
            Route("/slides/{id}/layers/{layer}.png", self.raster_png),
            Route("/slides/{id}/layers/{layer}", self.layer),
            Route("/slides/{id}/patches", self.patches),
            Route("/slides/{id}/patches/at", self.patch_at),
            Route("/slides/{id}/patches/{index:int}", self.patch),
            Route("/slides/{id}/patches/{index:int}/neighbours", self.neighbours),
        ]

    async def layers(self, request: Request) -> Response:
        """Which layers a slide has."""
        item = self._context.item(request)
        found = await self._context.in_slow_thread(lambda: self._context.layers.listed(item))
        return json_answer(request, found, stamp=item.stamp)

    async def layer(self, request: Request) -> Response:
        """One layer: GeoJSON, or what the picture of patches is and where it lies."""
        item, name = self._context.item(request), request.path_params["layer"]
        vector = await self._context.in_slow_thread(lambda: self._context.layers.vector(item, name))
        if vector is not None:
            return json_answer(request, vector, stamp=item.stamp)
        raster = await self._raster(item, name)
        about = {**raster.about, "png": f"/slides/{item.row.id}/layers/{name}.png?v={item.stamp}"}
        return json_answer(request, about, stamp=item.stamp)

    async def raster_png(self, request: Request) -> Response:
        """The picture of a layer, one pixel per patch."""
        item, name = self._context.item(request), request.path_params["layer"]
        raster = await self._raster(item, name)
        return tagged(
            request, raster.png, media_type="image/png", tag=f"{item.stamp}-{_plain(name)}", stamp=item.stamp
        )

    async def _raster(self, item: Item, name: str) -> Raster:
        key = (item.row.id, item.stamp, name)
        raster = self._rasters.get(key)
        if raster is None:
            raster = await self._context.in_slow_thread(lambda: self._context.layers.raster(item, name))
            self._rasters.put(key, raster, len(raster.png))
        return raster

    async def patches(self, request: Request) -> Response:
        """The patches with the highest values of a layer, or the lowest."""
        item = self._context.item(request)
        by = request.query_params.get("by", "attention")
        top = whole_number(request, "top", low=1, high=500, default=60)
        lowest = request.query_params.get("lowest", "false") == "true"

        def find() -> dict[str, Any]:
            column = self._context.layers.column(item, by)
            patches = self._context.layers.patches(item)
            known = np.flatnonzero(np.isfinite(column.values))
            order = known[np.argsort(column.values[known] * (1 if lowest else -1), kind="stable")[:top]]
            return {
                "by": by,
                "patches": [
                    {**_box(item, patches, int(index)), "value": float(column.values[index])}
                    for index in order
                ],
            }

        return json_answer(request, await self._context.in_slow_thread(find), stamp=item.stamp)

    async def patch_at(self, request: Request) -> Response:
        """The patch under a point."""
        item = self._context.item(request)
        x_l0, y_l0 = number(request, "x_l0"), number(request, "y_l0")
        if not (abs(x_l0) < 1e9 and abs(y_l0) < 1e9):
            raise RefusedError(400, "bad_request", "x_l0 and y_l0 must be level-0 pixels")

        def find() -> dict[str, Any]:
            patches = self._context.layers.patches(item)
            index = patches.table.index_at(x_l0=x_l0, y_l0=y_l0)
            if index is None:
                raise RefusedError(404, "no_patch", "there is no patch at that point")
            return _describe(item, patches, index)

        return json_answer(request, await self._context.in_slow_thread(find), stamp=item.stamp)

    async def patch(self, request: Request) -> Response:
        """A patch by its number."""
        item, index = self._context.item(request), request.path_params["index"]

        def find() -> dict[str, Any]:
            patches = self._context.layers.patches(item)
            if index >= len(patches.table.grid):
                raise RefusedError(404, "no_patch", "the slide has no patch of that number")
            return _describe(item, patches, index)

        return json_answer(request, await self._context.in_slow_thread(find), stamp=item.stamp)

    async def neighbours(self, request: Request) -> Response:
        """The patches of the cohort that look most like one."""
        item, index = self._context.item(request), request.path_params["index"]
        count = whole_number(request, "count", low=1, high=100, default=12)
        if item.row.features is None:
            raise RefusedError(404, "not_found", "there are no features of this slide to compare")
        finder = self._context.neighbours
        finder.start(self._context.catalogue.items())
        progress = finder.progress
        if progress.problem:
            raise RefusedError(422, "slide_unreadable", progress.problem)
        if not progress.is_ready:
            answer = json_answer(request, {"status": "building", "done": progress.done, "of": progress.of})
            answer.status_code = 202
            answer.headers["cache-control"] = "no-store"
            return answer

        def find() -> dict[str, Any]:
            found = finder.find(item, index, count=count)
            return {
                "status": "ready", "about": finder.about(), "left_out": progress.left_out,
                "patches": [
                    {
                        "slide": each.item.row.id, "slide_name": each.item.row.name, "distance": each.distance,
                        **_box(each.item, self._context.layers.places(each.item), each.index),
                    }
                    for each in found
                ],
            }  # fmt: skip

        return json_answer(request, await self._context.in_slow_thread(find))


def _box(item: Item, patches: SlidePatches, index: int) -> dict[str, Any]:
    """Number and place of a patch, and the address of its pixels."""
    x, y = patches.table.corner_l0(index)
    side = patches.table.patch_l0
    query = urlencode({
        "x_l0": x, "y_l0": y, "width_l0": side, "height_l0": side, "max_px": _PATCH_PICTURE_PX, "v": item.stamp,
    })  # fmt: skip
    return {
        "index": index, "x_l0": x, "y_l0": y, "size_l0": side, "picture": f"/slides/{item.row.id}/region.jpg?{query}",
    }  # fmt: skip


def _describe(item: Item, patches: SlidePatches, index: int) -> dict[str, Any]:
    """All that is known of one patch; rank 1 is the highest value of the slide."""
    table = patches.table
    column, row = (int(at) for at in table.grid[index])
    values = []
    for each in patches.columns.values():
        value = float(each.values[index])
        if np.isfinite(value):
            rank = int((each.values > value).sum()) + 1
            values.append({"layer": each.id, "title": each.title, "value": value, "rank": rank})
    has_features = item.row.features is not None
    return {
        **_box(item, patches, index), "column": column, "row": row, "size_um": table.patch_um, "values": values,
        "neighbours": f"/slides/{item.row.id}/patches/{index}/neighbours" if has_features else None,
    }  # fmt: skip


def _plain(name: str) -> str:
    """A name as it may stand in a header."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "." for letter in name)
