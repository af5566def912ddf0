"""Routes of drawings: the only ones that change anything."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_vmamba.errors import AnnotationError
from wsi_vmamba.view.answers import RefusedError, json_answer, tagged
from wsi_vmamba.view.context import Context
from wsi_vmamba.view.drawings import MAX_BYTES, ChangedError

_GEOJSON = "application/geo+json"


class DrawingRoutes:
    """Reads and keeps drawings."""

    def __init__(self, context: Context) -> None:
        """Keep the server's state."""
        self._context = context

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/slides/{id}/drawings", self.read, methods=["GET"]),
            Route("/slides/{id}/drawings", self.write, methods=["PUT"]),
        ]

    async def read(self, request: Request) -> Response:
        """What was drawn on a slide."""
        item = self._context.item(request)
        saved = await self._context.in_thread(lambda: self._context.drawings.read(item.row))
        return tagged(request, saved.content, media_type=_GEOJSON, tag=saved.tag)

    async def write(self, request: Request) -> Response:
        """Replace what was drawn on a slide."""
        item = self._context.item(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in {_GEOJSON, "application/json"}:
            raise RefusedError(415, "bad_request", f"expected Content-Type: {_GEOJSON}")
        given = request.headers.get("if-match", "").strip()
        if not given:
            raise RefusedError(428, "needs_if_match", "send If-Match with the ETag of what was drawn before")
        body = await _body(request)
        try:
            saved, count = await self._context.in_thread(
                lambda: self._context.drawings.write(item.row, body, tag=given.strip('"'))
            )
        except ChangedError as error:
            raise RefusedError(412, "changed", str(error)) from error
        except AnnotationError as error:
            raise RefusedError(422, "invalid_geojson", str(error)) from error
        answer = json_answer(
            request,
            {
                "etag": f'"{saved.tag}"',
                "features": count,
                "file": self._context.drawings.path_of(item.row).name,
            },
        )
        answer.headers["etag"] = f'"{saved.tag}"'
        answer.headers["cache-control"] = "no-store"
        return answer


async def _body(request: Request) -> bytes:
    """The body, of which no more is taken in than is allowed, whatever its header claims.

    Raises:
        RefusedError: it is larger.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BYTES:
            raise RefusedError(413, "too_large", f"drawings may have {MAX_BYTES >> 20} MiB")
        parts.append(part)
    return b"".join(parts)
