"""Makes small slides of the vendors that keep pictures in files of their own making: MIRAX, NDPI and VMS.

What each needs was taken from OpenSlide's pages (openslide.org/formats/mirax and hamamatsu) and from what its reader
accepts.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from vendor_picture import Pixels, VendorFile, on_white, tissue

_SLIDE_ID = "00112233445566778899AABBCCDDEEFF"


def write_mirax(folder: Path) -> VendorFile:
    """4 x 3 photos that overlap by 16 px, two never taken; black is named as the colour between them."""
    side, overlap, columns, rows = 128, 16, 4, 3
    step = side - overlap
    whole = tissue(columns * step + overlap, rows * step + overlap)
    photos = {
        (c, r): whole[r * step : r * step + side, c * step : c * step + side]
        for r in range(rows) for c in range(columns) if (c, r) not in {(3, 0), (0, 2)}
    }  # fmt: skip
    halves = {at: photo[::2, ::2] for at, photo in photos.items()}
    levels = [
        {row * columns + column: photo for (column, row), photo in photos.items()},
        {row * columns + column: _four(halves, column, row) for row in (0, 2) for column in (0, 2)},
    ]
    path = folder / "mirax.mrxs"
    data = path.with_suffix("")
    data.mkdir()
    path.write_bytes(_jpeg(tissue(64, 48)))
    blob, places = b"", []
    for level in levels:
        entries = []
        for number, pixels in level.items():
            png = _png(pixels)
            entries.append((number, len(blob), len(png), 0))
            blob += png
        places.append(entries)
    (data / "Data0000.dat").write_bytes(blob)
    (data / "Index.dat").write_bytes(_mirax_index(places))
    (data / "Slidedat.ini").write_text(
        _slidedat(columns, rows, side=side, overlap=overlap), encoding="utf-8-sig"
    )
    truth = {
        level: on_white(
            whole.shape[1] // k, whole.shape[0] // k,
            *[(c * step // k, r * step // k, pixels) for (c, r), pixels in pieces.items()],
        )
        for level, (k, pieces) in enumerate([(1, photos), (2, halves)])
    }  # fmt: skip
    return VendorFile(path, "mirax", 0.5, truth)


def _four(halves: dict[tuple[int, int], Pixels], column: int, row: int) -> Pixels:
    """Four photos at half size, side by side, black where there is none."""
    out = np.zeros((128, 128, 3), np.uint8)
    for c in range(2):
        for r in range(2):
            if (column + c, row + r) in halves:
                out[64 * r : 64 * (r + 1), 64 * c : 64 * (c + 1)] = halves[column + c, row + r]
    return out


def _mirax_index(levels: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Version, slide, pointers to the levels; of each level a pointer to one page of (image, offset, size, file)."""
    head = b"01.02" + _SLIDE_ID.encode()
    table = len(head) + 8
    at = table + 4 * len(levels)
    pointers, body = b"", b""
    for entries in levels:
        pointers += struct.pack("<i", at + len(body))
        page = at + len(body) + 8
        body += struct.pack("<ii", 0, page) + struct.pack("<ii", len(entries), 0)
        body += b"".join(struct.pack("<4i", *entry) for entry in entries)
    return head + struct.pack("<ii", table, 0) + pointers + body


def _slidedat(columns: int, rows: int, *, side: int, overlap: int) -> str:
    sections = "".join(
        f"[LAYER_0_LEVEL_{level}_SECTION]\nOVERLAP_X={overlap / 2**level}\nOVERLAP_Y={overlap / 2**level}\n"
        f"MICROMETER_PER_PIXEL_X={0.5 * 2**level}\nMICROMETER_PER_PIXEL_Y={0.5 * 2**level}\n"
        f"IMAGE_FORMAT=PNG\nIMAGE_FILL_COLOR_BGR=0\nIMAGE_CONCAT_FACTOR={level}\n"
        f"DIGITIZER_WIDTH={side}\nDIGITIZER_HEIGHT={side}\n"
        for level in range(2)
    )
    return (
        f"[GENERAL]\nSLIDE_VERSION=01.02\nSLIDE_ID={_SLIDE_ID}\nIMAGENUMBER_X={columns}\nIMAGENUMBER_Y={rows}\n"
        "OBJECTIVE_MAGNIFICATION=20\nCameraImageDivisionsPerSide=1\n"
        "[HIERARCHICAL]\nHIER_COUNT=1\nNONHIER_COUNT=0\nINDEXFILE=Index.dat\nHIER_0_NAME=Slide zoom level\n"
        "HIER_0_COUNT=2\nHIER_0_VAL_0_SECTION=LAYER_0_LEVEL_0_SECTION\nHIER_0_VAL_1_SECTION=LAYER_0_LEVEL_1_SECTION\n"
        f"[DATAFILE]\nFILE_COUNT=1\nFILE_0=Data0000.dat\n{sections}"
    )


def write_ndpi(folder: Path, *, make: str = "Hamamatsu") -> VendorFile:
    """Each level one JPEG strip with restart markers; a second focal plane and a macro between the levels."""
    whole = tissue(1024, 768)
    jpegs = {0: _jpeg(whole, restart_px=64), 1: _jpeg(whole[::4, ::4], restart_px=64)}
    other_plane = _jpeg(whole[:, ::-1], restart_px=64)
    macro = _jpeg(tissue(200, 100))
    path = folder / "ndpi.ndpi"
    pages = [(jpegs[0], 20.0, 0), (other_plane, 20.0, 4000), (jpegs[1], 5.0, 0), (macro, -1.0, 0)]
    path.write_bytes(_ndpi(pages, make=make))
    # OpenSlide puts levels of its own between the two, at 1/2, and after them.
    return VendorFile(path, "hamamatsu", 0.5, {0: _decoded(jpegs[0]), 2: _decoded(jpegs[1])}, tolerance=1)


def write_vms(folder: Path) -> VendorFile:
    """Two JPEG files side by side, a map, and a text that names them."""
    whole = tissue(1024, 512)
    halves = [_jpeg(whole[:, :512], restart_px=64), _jpeg(whole[:, 512:], restart_px=64)]
    for number, jpeg in enumerate(halves):
        (folder / f"vms-{number}.jpg").write_bytes(jpeg)
    (folder / "vms-map.jpg").write_bytes(_jpeg(whole[::8, ::8], restart_px=64))
    path = folder / "vms.vms"
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=2\nNoJpegRows=1\nImageFile=vms-0.jpg\n"
        "ImageFile(1,0)=vms-1.jpg\nMapFile=vms-map.jpg\nPhysicalWidth=512000\nPhysicalHeight=256000\nSourceLens=20\n"
    )
    truth = np.concatenate([_decoded(jpeg) for jpeg in halves], axis=1)
    return VendorFile(path, "hamamatsu", 0.5, {0: truth}, tolerance=1)


def _ndpi(pages: list[tuple[bytes, float, int]], *, make: str) -> bytes:
    """Classic TIFF whose pointers to directories take eight bytes."""
    out = bytearray(b"II*\0" + bytes(8))
    link = 4
    for jpeg, lens, focal_plane in pages:
        width, height = Image.open(io.BytesIO(jpeg)).size
        strip = len(out)
        out += jpeg
        place = {}
        for name, content in {
            "make": make.encode() + b"\0", "resolution": struct.pack("<II", 20000, 1),
            "starts": struct.pack(f"<{len(_restarts(jpeg))}I", *_restarts(jpeg)),
        }.items():  # fmt: skip
            out += bytes(len(out) % 2)
            place[name] = len(out)
            out += content
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6),
            (273, 4, 1, strip), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(jpeg)),
            (282, 5, 1, place["resolution"]), (283, 5, 1, place["resolution"]), (296, 3, 1, 3),
            (65420, 4, 1, 1), (65421, 11, 1, struct.unpack("<I", struct.pack("<f", lens))[0]),
            (65424, 9, 1, focal_plane), (65426, 4, len(_restarts(jpeg)), place["starts"]),
        ]  # fmt: skip
        if make:
            entries.append((271, 2, len(make) + 1, place["make"]))
        out += bytes(len(out) % 2)
        out[link : link + 8] = struct.pack("<Q", len(out))
        out += struct.pack("<H", len(entries))
        out += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
        link = len(out)
        out += bytes(8 + 4 * len(entries))  # the next directory, and the upper halves of the values
    return bytes(out)


def _restarts(jpeg: bytes) -> list[int]:
    """Where the first pixels and those behind each restart marker begin."""
    scan = jpeg.index(b"\xff\xda")
    first = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")
    data = np.frombuffer(jpeg, np.uint8)
    marks = np.flatnonzero(
        (data[first:-1] == 0xFF) & (data[first + 1 :] >= 0xD0) & (data[first + 1 :] < 0xD8)
    )
    return [first, *(int(mark) + first + 2 for mark in marks)]


def _jpeg(pixels: Pixels, *, restart_px: int = 0) -> bytes:
    """JPEG without subsampling, whose blocks are 8 px wide."""
    file = io.BytesIO()
    options = {"restart_marker_blocks": restart_px // 8} if restart_px else {}
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0, **options)
    return file.getvalue()


def _decoded(jpeg: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
