"""Makes a small slide of Zeiss' format: a file of segments, each with a name of 16 bytes and two sizes before it.

What it needs was taken from OpenSlide's page (openslide.org/formats/zeiss) and from what its reader accepts.
"""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
from vendor_picture import Pixels, VendorFile, on_white, tissue

_BGR24, _PLAIN, _ZSTD = 3, 0, 5
_GUID = bytes(range(16))


def write_czi(folder: Path) -> VendorFile:
    """Two scenes whose places begin below zero, frames that overlap by 8 px, and a pyramid of one more level."""
    side, overlap, factor = 128, 8, 2
    step = side - overlap
    scenes = [(0, 0, tissue(4 * step + overlap, 3 * step + overlap)), (600, 200, tissue(248, 368)[::-1])]
    width, height = 848, 568
    out = bytearray(struct.pack("<16sqq", b"ZISRAWFILE", 512, 512) + bytes(512))
    entries = []
    for scene, (left, top, pixels) in enumerate(scenes):
        for level in (1, factor):
            for y in range(0, pixels.shape[0] - overlap, step):
                for x in range(0, pixels.shape[1] - overlap, step):
                    part = pixels[y : y + side : level, x : x + side : level]
                    # Zeiss counts from where the stage was switched on.
                    place = (left + x - 5000, top + y - 70)
                    entries.append(
                        _add_frame(out, part, place, level=level, scene=scene, number=len(entries))
                    )
    directory = b"".join(entries)
    positions = {"directory": len(out)}
    out += struct.pack(
        "<16sqqi124x", b"ZISRAWDIRECTORY", 128 + len(directory), 128 + len(directory), len(entries)
    )
    out += directory
    positions["metadata"] = len(out)
    xml = _metadata(width, height, scenes=len(scenes)).encode()
    out += struct.pack("<16sqqii248x", b"ZISRAWMETADATA", 256 + len(xml), 256 + len(xml), len(xml), 0) + xml
    positions["attachments"] = len(out)
    out += struct.pack("<16sqqi252x", b"ZISRAWATTDIR", 256, 256, 0)
    out[32:112] = struct.pack(
        "<4i16s16siqqiq", 1, 0, 0, 0, _GUID, _GUID, 0, positions["directory"], positions["metadata"], 0,
        positions["attachments"],
    )  # fmt: skip
    path = folder / "czi.czi"
    path.write_bytes(out)
    halves = [(x // 2, y // 2, pixels[::2, ::2]) for x, y, pixels in scenes]
    truth = {0: on_white(width, height, *scenes), 1: on_white(width // 2, height // 2, *halves)}
    return VendorFile(path, "zeiss", 0.5, truth)


def _add_frame(
    out: bytearray, pixels: Pixels, place: tuple[int, int], *, level: int, scene: int, number: int
) -> bytes:
    """Append the frame, every other one compressed, and return its line for the directory."""
    compression = _ZSTD if number % 2 else _PLAIN
    content = np.ascontiguousarray(pixels[..., ::-1]).tobytes()
    if compression == _ZSTD:
        content = imagecodecs.zstd_encode(content)
    stored_h, stored_w = pixels.shape[:2]
    dimensions = [
        (b"X", place[0], stored_w * level, stored_w), (b"Y", place[1], stored_h * level, stored_h), (b"C", 0, 1, 1),
        (b"S", scene, 1, 1), (b"M", number, 1, 1),
    ]  # fmt: skip
    entry = struct.pack("<2siqiib5xi", b"DV", _BGR24, len(out), 0, compression, level > 1, len(dimensions))
    entry += b"".join(
        struct.pack("<4siifi", name, at, size, 0.0, kept) for name, at, size, kept in dimensions
    )
    size = 256 + len(content)
    head = struct.pack("<16sqqiiq", b"ZISRAWSUBBLOCK", size, size, 0, 0, len(content)) + entry
    out += head.ljust(288, b"\0") + content
    return entry


def _metadata(width: int, height: int, *, scenes: int) -> str:
    distances = "".join(f'<Distance Id="{axis}"><Value>5e-07</Value></Distance>' for axis in "XY")
    return (
        "<ImageDocument><Metadata><Information><Image>"
        f"<SizeX>{width}</SizeX><SizeY>{height}</SizeY><SizeS>{scenes}</SizeS></Image></Information>"
        f"<Scaling><Items>{distances}</Items></Scaling></Metadata></ImageDocument>"
    )
