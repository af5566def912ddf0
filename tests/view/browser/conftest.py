"""A cohort whose lesion lies at known level-0 pixels, the real command that serves it, and a real browser."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

#: Where Linux distributions put it.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, HEIGHT, PATCH = 6400, 4800, 160
#: The lesion, on the patch grid: columns and rows, the last ones left out.
LESION = {"left": 20, "top": 10, "right": 26, "bottom": 15}
GLASS, TISSUE, TUMOUR = (243, 240, 242), (214, 160, 190), (120, 70, 140)


def paint_slide() -> np.ndarray:
    """An ellipse of tissue on glass, with the lesion as a darker rectangle in it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:] = GLASS
    pixels[((x - WIDTH / 2) / 2700) ** 2 + ((y - HEIGHT / 2) / 2000) ** 2 < 1] = TISSUE
    box = {name: value * PATCH for name, value in LESION.items()}
    pixels[box["top"] : box["bottom"], box["left"] : box["right"]] = TUMOUR
    return pixels


def tissue_places() -> np.ndarray:
    """Patches whose middle lies in the ellipse, in the order of rows."""
    rows, columns = np.mgrid[: HEIGHT // PATCH, : WIDTH // PATCH]
    x, y = (columns + 0.5) * PATCH, (rows + 0.5) * PATCH
    inside = ((x - WIDTH / 2) / 2700) ** 2 + ((y - HEIGHT / 2) / 2000) ** 2 < 1
    return np.stack([columns[inside], rows[inside]], axis=1).astype(np.int64)


def in_lesion(places: np.ndarray) -> np.ndarray:
    x, y = places.T
    inside_x = (x >= LESION["left"]) & (x < LESION["right"])
    return inside_x & (y >= LESION["top"]) & (y < LESION["bottom"])


@pytest.fixture(scope="session")
def facts() -> SimpleNamespace:
    """Where the lesion lies in level-0 pixels, and what colours things have."""
    box = {name: value * PATCH for name, value in LESION.items()}
    # The first and last colour of the map that is used unless another is chosen; 1 in the lesion, 0 beside it.
    return SimpleNamespace(
        PATCH=PATCH, GLASS=GLASS, TISSUE=TISSUE, TUMOUR=TUMOUR, FIRST=(241, 237, 65), LAST=(43, 18, 90), **box
    )


@pytest.fixture(scope="session")
def cohort(tmp_path_factory, write_slide, write_features) -> Path:
    """What `predict` leaves: two slides with values of their patches, one that cannot be opened."""
    root = tmp_path_factory.mktemp("cohort")
    places, generator = tissue_places(), np.random.default_rng(0)
    hot = in_lesion(places)
    lines = [
        "slide_id,path,probability,threshold,decision,patches,mpp,unlike,unlike_why,outcome,detail,remedy"
    ]
    pixels = paint_slide()
    for name, score, decision in (("tumour", 0.97, "positive"), ("normal", 0.08, "negative")):
        shown = (
            pixels
            if name == "tumour"
            else np.where((pixels == TUMOUR).all(-1, keepdims=True), TISSUE, pixels)
        )
        slide = write_slide(
            root / f"{name}.tif", shown.astype(np.uint8), levels=4, tile=256, resolution=(50000, 50000),
            resolutionunit="CENTIMETER",
        )  # fmt: skip
        value = hot if name == "tumour" else np.zeros_like(hot)
        # Neighbours are those of the same kind: the lesion's patches are like each other and like nothing else.
        features = generator.normal(size=(len(places), 12)) * 0.05 + np.where(value, 3.0, -1.0)[:, None]
        features[:, 0] = value
        write_features(
            root / "predicted" / "features", name, places, features, patch_l0=float(PATCH), size_l0=(WIDTH, HEIGHT),
            slide_path=slide,
        )  # fmt: skip
        attention = np.where(value, 10.0, 0.2) * (1 + 0.001 * np.arange(len(places)))
        tensors = {
            "coords_l0": places * PATCH, "attention": (attention / attention.sum()).astype(np.float32),
            "probability": np.where(value, 0.95, 0.05).astype(np.float32),
        }  # fmt: skip
        facts = {"version": 1, "patch_l0": float(PATCH), "patch_px": 64, "target_mpp": 0.5}
        (root / "predicted" / "patches").mkdir(exist_ok=True)
        safetensors.numpy.save_file(
            tensors, root / "predicted" / "patches" / f"{name}.safetensors", {"wsi_vmamba": json.dumps(facts)}
        )
        lines.append(f"{name},{slide},{score},0.5,{decision},{len(places)},0.2,,,done,,")
    lines.append("broken,/no/where.tif,,,,,,,,failed,the disk is gone,")
    (root / "predicted" / "predict.run.json").write_text(json.dumps({"threshold": 0.5}))
    (root / "predicted" / "predictions.csv").write_text("\n".join(lines) + "\n")
    return root / "predicted"


@contextlib.contextmanager
def served(target: Path, *options: str) -> Iterator[str]:
    """The address of the command, started as people start it."""
    command = [
        sys.executable,
        "-m",
        "wsi_vmamba",
        "view",
        str(target),
        "--port",
        "0",
        "--no-browser",
        *options,
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        found = next(
            (m for line in process.stdout if (m := re.search(r"http://127\.0\.0\.1:\d+", line))), None
        )
        assert found is not None, "the command ended"
        yield found[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def serve(pages_of):
    """Start a viewer of one's own: `with serve(target, *options) as address`."""

    @contextlib.contextmanager
    def serving(target: Path, *options: str) -> Iterator[str]:
        with served(target, *options) as found:
            try:
                yield found
            finally:
                pages_of.close()  # or what they ask for just now would fail with the server

    return serving


@pytest.fixture(scope="module")
def address(cohort):
    with served(cohort) as found:
        yield found


@pytest.fixture(scope="module")
def run_address(tmp_path_factory):
    """Of a viewer on a run that is named from outside."""
    run = os.environ.get("WSI_VMAMBA_VIEW_RUN")
    if run is None:
        pytest.skip("WSI_VMAMBA_VIEW_RUN names no run, such as demo/runs/vmamba, to take pictures of")
    with served(Path(run), "--drawings", str(tmp_path_factory.mktemp("drawings"))) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]
        )
        yield chromium
        chromium.close()


#: Changes the address, and waits until the page has been told.
FOLLOW = """(fragment) => new Promise((done) => {
  const before = location.hash;
  addEventListener("popstate", () => done(), { once: true });
  location.hash = fragment;
  if (location.hash === before) done();
})"""
#: Two pictures later: whatever was pressed or moved by then has been seen by the page, which says when it is done.
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


@dataclass
class Page:
    """A page, and everything that went wrong on it."""

    page: object
    address: str
    faults: list[str] = field(default_factory=list)

    def open(self, fragment: str = "") -> None:
        self.page.goto("about:blank")  # so that another fragment is another page
        self.page.goto(f"{self.address}/{fragment}")
        self.settle()

    def go(self, fragment: str) -> None:
        """Follow an address on the page that is open."""
        self.page.evaluate(FOLLOW, fragment)
        self.settle()

    def settle(self) -> None:
        """Until the page says that what was asked for is what is seen; see `stillness.js`."""
        self.page.evaluate(DRAWN)
        self.page.wait_for_selector('#stage[aria-busy="false"]', timeout=60_000)

    def screenshot(self, name: str | None = None) -> np.ndarray:
        """The page once it stands still: two pictures in a row are the same."""
        data, before = self.page.screenshot(), b""
        while data != before:
            self.page.wait_for_timeout(100)
            data, before = self.page.screenshot(), data
        folder = os.environ.get("WSI_VMAMBA_SCREENSHOTS")
        if name and folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.png").write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def at(self, x_l0: float, y_l0: float, pane: int = 0) -> tuple[float, float]:
        """Where a level-0 pixel should be on the screen, by the address alone."""
        parts = self.parts()
        box = self.page.locator(".pane").nth(pane).bounding_box()
        before = "b." if pane else ""
        x, y, k = (float(parts[before + name]) for name in "xyk")
        return box["x"] + box["width"] / 2 + (x_l0 - x) * k, box["y"] + box["height"] / 2 + (y_l0 - y) * k

    def ids(self) -> dict[str, str]:
        """The slides by name."""
        listed = self.page.evaluate("fetch('/slides').then((each) => each.json())")["slides"]
        return {each["name"]: each["id"] for each in listed}

    def parts(self) -> dict[str, str]:
        self.page.wait_for_timeout(400)  # the address follows the view three times a second
        return dict(parse_qsl(self.page.url.partition("#")[2]))


class Pages:
    """Opens pages and watches over them."""

    def __init__(self, browser, address: str) -> None:
        self._browser, self._address = browser, address
        self._made: list[tuple[object, Page]] = []

    def open(self, fragment: str = "", *, width=1440, height=900, scheme="light", **settings) -> Page:
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            **settings,
        )
        found = Page(context.new_page(), self._address)
        self._made.append((context, found))
        page, faults, own = found.page, found.faults, (self._address, "blob:", "data:", "about:")
        page.on("console", lambda m: m.type in {"error", "warning"} and faults.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", lambda r: r.url.startswith(own) or faults.append(f"foreign request: {r.url}"))
        page.on("response", lambda r: r.status >= 400 and faults.append(f"{r.status}: {r.url}"))
        found.open(fragment)
        return found

    def close(self) -> None:
        """Close those that are open."""
        for context, found in self._made:
            if not found.page.is_closed():
                context.close()

    def check(self) -> None:
        """Whatever was an error on the console, a failed or a foreign request, fails the test."""
        assert [fault for _, page in self._made for fault in page.faults] == []


@pytest.fixture
def pages_of(browser):
    """Open pages of one's own at an address."""
    made = []

    def of(address: str):
        made.append(Pages(browser, address))
        return made[-1].open

    def close() -> None:
        for pages in made:
            pages.close()

    of.close = close
    yield of
    close()
    for pages in made:
        pages.check()


@pytest.fixture
def visit(pages_of, address):
    """Open a page of one's own on the cohort."""
    return pages_of(address)


def forget_drawings(cohort: Path) -> None:
    """Remove what was drawn; a page that has read it before keeps showing it."""
    shutil.rmtree(cohort / "drawings", ignore_errors=True)


@pytest.fixture(scope="module")
def shared_page(browser, address, cohort):
    forget_drawings(cohort)  # of other modules, which would lie over what is looked at here
    pages = Pages(browser, address)
    yield pages, pages.open()
    pages.close()


@pytest.fixture
def page(shared_page, cohort, facts):
    """A page that others used before, put back to how it opens on the slide with the lesion."""
    pages, page = shared_page
    forget_drawings(cohort)
    page.faults.clear()
    page.page.locator("#search").fill("")
    page.page.locator("#home").focus()
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("v")
    page.go(f"#s={page.ids()['tumour']}&x=3200&y=2400&k=0.11&l=none&v=none")
    yield page
    pages.check()
