"""A viewer that is asked without a network, and slides whose pixels say where they are."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_vmamba.regions import Region, RegionPlan, RegionSpec
from wsi_vmamba.store import FeatureMeta, FeatureWriter
from wsi_vmamba.view.app import build_app
from wsi_vmamba.view.catalogue import Catalogue
from wsi_vmamba.view.context import Context
from wsi_vmamba.view.drawings import Drawings
from wsi_vmamba.view.open_slides import OpenSlides
from wsi_vmamba.view.safety import access_for
from wsi_vmamba.view.sources import folder_source

HOST = "127.0.0.1:8765"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]["code"]


@dataclass
class Viewer:
    """Asks an application as a browser's own page would, unless told otherwise."""

    app: object
    context: Context
    access: object
    cookie: str | None = None
    seen: list[Answer] = field(default_factory=list)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers)

    def put(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.ask(
            "PUT", path, {"origin": f"http://{HOST}", "content_type": "application/geo+json", **headers}, body
        )

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        given = {"host": HOST, **({"cookie": self.cookie} if self.cookie else {}), **(headers or {})}
        raw = [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in given.items()
            if value is not None
        ]
        answer = asyncio.run(self._ask(method, path, raw, body))
        self.seen.append(answer)
        return answer

    async def _ask(self, method, path, raw, body) -> Answer:
        from urllib.parse import unquote_to_bytes

        before, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": unquote_to_bytes(before).decode("utf-8", errors="replace"), "raw_path": before.encode(),
            "query_string": query.encode(), "headers": raw, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8765),
        }  # fmt: skip
        told, sent = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return sent.pop(0) if sent else {"type": "http.disconnect"}

        async def send(message):
            told.append(message)

        await self.app(scope, receive, send)
        start = next(message for message in told if message["type"] == "http.response.start")
        content = b"".join(m.get("body", b"") for m in told if m["type"] == "http.response.body")
        return Answer(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content)

    def slides(self) -> dict[str, dict]:
        return {slide["name"]: slide for slide in self.get("/slides").json["slides"]}

    def id_of(self, name: str) -> str:
        return self.slides()[name]["id"]


@pytest.fixture
def view(monkeypatch):
    """Open a source, or a folder of slides, in a viewer."""
    monkeypatch.setattr("wsi_vmamba.view.catalogue._FRESH_S", 0.0)
    made = []

    def open_(
        source, *, host="127.0.0.1", drawings=None, follow_links=False, probe=None, **settings
    ) -> Viewer:
        if isinstance(source, Path):
            source = folder_source(source, follow_links=follow_links)
        slides = OpenSlides()
        context = Context(
            Catalogue(source, slides), drawings=Drawings(drawings or source.drawings), threads=2, probe=probe
        )
        access = access_for(host, port=8765, **settings)
        made.append((context, slides))
        return Viewer(build_app(context, access), context, access)

    yield open_
    for context, slides in made:
        context.close()
        slides.close()


def paint(width: int, height: int) -> np.ndarray:
    """Smooth colours that say where a pixel is, so that JPEG keeps them."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 1 + 90], -1
    ).astype(np.uint8)


@pytest.fixture(scope="session")
def picture():
    return paint


@pytest.fixture(scope="session")
def write_slide():
    """A tiled JPEG TIFF with levels by halves."""

    def write(path: Path, pixels: np.ndarray, *, levels: int = 1, tile: int = 128, **options) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        # tifffile makes YCbCr of it.
        options = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 92}, **options}
        with tifffile.TiffWriter(path) as tif:
            for number in range(levels):
                tif.write(
                    np.ascontiguousarray(pixels[:: 2**number, :: 2**number]), tile=(tile, tile), metadata=None,
                    subfiletype=int(number > 0), **options,
                )  # fmt: skip
        return path

    return write


@pytest.fixture(scope="session")
def write_features():
    """A feature file with patches at given places of the grid, of a slide of a given size."""

    def write(
        folder: Path, name: str, places, features, *, patch_l0: float = 64.0, size_l0=(640, 512), slide_path="x.tif",
        scene: int = 0, weights: str = "ab", reader: str = "tiff",
    ) -> Path:  # fmt: skip
        places = np.asarray(places, dtype=np.int64)
        order = np.lexsort((places[:, 0], places[:, 1]))
        places, features = places[order], np.asarray(features, dtype=np.float32)[order]
        low, high = places.min(axis=0), places.max(axis=0) + 1
        spec = RegionSpec(target_mpp=0.5, patch_px=64, region_px=64 * 512)
        region = Region(
            index=0, x_px=int(low[0]) * 64, y_px=int(low[1]) * 64, width_px=int(high[0] - low[0]) * 64,
            height_px=int(high[1] - low[1]) * 64, patches=places,
        )  # fmt: skip
        plan = RegionPlan(
            spec=spec, width_l0=size_l0[0], height_l0=size_l0[1], mpp=0.5 * 64 / patch_l0, level=0, downsample=1.0,
            scale=patch_l0 / 64, regions=(region,),
        )  # fmt: skip
        meta = FeatureMeta(
            slide_id=name, slide_path=str(slide_path), reader=reader, mpp=plan.mpp, mpp_source="test", target_mpp=0.5,
            patch_px=64, patch_l0=plan.patch_l0, plan=plan.to_dict(), segmenter="otsu", model="null",
            weights_hash=weights * 32, precision="fp32", versions={}, scene=scene,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.zarr"
        with FeatureWriter(path, meta, features.shape[1]) as writer:
            writer.append(features, plan.coords_l0(region))
            writer.commit()
        return path

    return write
