"""Slides whose pixels say where they are: a wrong offset is a wrong colour."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="session")
def coordinates() -> Callable[..., Pixels]:
    """Picture of (width, height) whose colour is x mod 251, y mod 241, and both divided by 251 and 241."""

    def paint(width: int, height: int) -> Pixels:
        y, x = np.mgrid[:height, :width]
        return np.stack([x % 251, y % 241, x // 251 * 16 + y // 241], axis=-1).astype(np.uint8)

    return paint


@pytest.fixture(scope="session")
def expected() -> Callable[..., Pixels]:
    """The rectangle of a picture as a slide must return it: white where the picture is not."""

    def cut(picture: Pixels, *, x: int, y: int, width: int, height: int) -> Pixels:
        out = np.full((height, width, 3), 255, dtype=np.uint8)
        x0, x1 = max(x, 0), min(x + width, picture.shape[1])
        y0, y1 = max(y, 0), min(y + height, picture.shape[0])
        if x0 < x1 and y0 < y1:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = picture[y0:y1, x0:x1]
        return out

    return cut


@pytest.fixture(scope="session")
def write_pyramid() -> Callable[..., Path]:
    """Write pictures as the levels of one TIFF, as SubIFDs or as pages; further options go to tifffile."""

    def write(
        path: Path, pictures: list[Pixels], *, subifds: bool = False, bigtiff: bool = False, **options: object
    ) -> Path:
        options = {"tile": (64, 64), "photometric": "rgb", **options}
        with tifffile.TiffWriter(path, bigtiff=bigtiff) as tif:
            tif.write(pictures[0], subifds=len(pictures) - 1 if subifds else None, metadata=None, **options)
            for picture in pictures[1:]:
                tif.write(picture, subfiletype=1, metadata=None, **options)
        return path

    return write


@pytest.fixture(scope="session")
def vendor_writers() -> dict[str, Callable[..., object]]:
    """Functions that make a small file of a vendor in a folder, by the name of the format."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        modules = [importlib.import_module(name) for name in ("vendor_czi", "vendor_jpegs", "vendor_tiffs")]
    return {
        name.removeprefix("write_"): write
        for module in modules
        for name, write in vars(module).items()
        if name.startswith("write_")
    }


@pytest.fixture(scope="session")
def vendor_files(vendor_writers, tmp_path_factory) -> dict[str, object]:
    """One file of each vendor, all in one folder."""
    folder = tmp_path_factory.mktemp("vendors")
    return {name: write(folder) for name, write in vendor_writers.items()}


@pytest.fixture(scope="module")
def attempt(serve_hostile) -> Callable[[Path | str], dict[str, object]]:
    """Open a file or URL in a process of its own; what became of it, in what time and memory."""
    return serve_hostile()
