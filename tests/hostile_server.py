"""Opens files that mean harm, each in a forked process of its own: a path or URL a line in, a JSON report a line out.

The report: the error's name and message, seconds, and by how many MB the peak memory grew.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import openslide  # noqa: F401  (imported before forking)
import zarr

from wsi_vmamba.annotation import read_annotation
from wsi_vmamba.errors import AnnotationError, SlideError, WeightsError
from wsi_vmamba.slide import open_slide
from wsi_vmamba.slide.location import Location, place_of
from wsi_vmamba.slide.tiff import slide as tiff
from wsi_vmamba.slide.web import client_options
from wsi_vmamba.slide.zarr import slide as _  # noqa: F401


def main() -> None:
    """Answer requests until standard input ends."""
    warm_up()
    for line in sys.stdin:
        inside, outside = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(outside, json.dumps(attempt(place_of(json.loads(line)))).encode())
            os._exit(0)
        os.close(outside)
        with os.fdopen(inside) as report:
            words = report.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(words or json.dumps({"error": f"died of {status}", "message": "", "s": 0, "mb": 0}), flush=True)


def warm_up() -> None:
    """Have every codec loaded, so that loading it does not count."""
    imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(np.zeros((8, 8, 3), np.uint8)))
    imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8)))
    imagecodecs.deflate_decode(imagecodecs.deflate_encode(b"0"))
    imagecodecs.lzma_decode(imagecodecs.lzma_encode(b"0"))
    for codec in ("webp", "jpegxl", "lerc"):
        encoded = getattr(imagecodecs, f"{codec}_encode")(np.zeros((64, 64, 3), np.uint8))
        getattr(imagecodecs, f"{codec}_decode")(encoded)
    zarr.create_array(zarr.storage.MemoryStore(), data=np.zeros((4, 4), np.uint8))[:]
    assert tiff
    client_options("http://")
    if "weights" in sys.argv:
        import wsi_vmamba.model.weights  # noqa: F401  (brings torch)


def attempt(place: Location) -> dict[str, object]:
    """Open a file and read a little of every level."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    error, message = "none", ""
    path = Path(place)
    try:
        if path.suffix in (".pth", ".safetensors"):
            from wsi_vmamba.model.weights import read_state

            read_state(path)
        elif path.suffix in (".xml", ".geojson"):
            read_annotation(path).rasterize(width_px=100, height_px=100, downsample=10)
        else:
            with open_slide(place) as slide:
                for level in range(len(slide.levels)):
                    slide.read_region(x_l0=0, y_l0=0, level=level, width_px=64, height_px=64)
    except (SlideError, AnnotationError, WeightsError) as refused:
        error, message = type(refused).__name__, str(refused)
    except BaseException as crash:  # noqa: BLE001  (whatever it is, the report says so)
        error, message = f"unforeseen {type(crash).__name__}", str(crash)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"error": error, "message": message, "s": time.perf_counter() - started, "mb": grown / 1024}


if __name__ == "__main__":
    main()
