"""Makes small slides of the vendors whose format is TIFF with an arrangement of its own.

What each needs was taken from OpenSlide's pages (openslide.org/formats/leica, ventana, philips, trestle) and from
what its reader accepts. Pixels are stored without loss, so that what must be read is known to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from vendor_picture import Pixels, VendorFile, on_white, tissue

_TILE = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate", "metadata": None}
_XMP = 700


def write_leica(folder: Path) -> VendorFile:
    """Two scanned areas on one glass, each with a pyramid of its own, and a macro that comes first."""
    nm, factor = 500, 4
    glass = (1200, 800)
    areas = [(64, 32, tissue(480, 320)), (640, 400, tissue(384, 256)[::-1])]
    images, pages = [], [tissue(300, 200)]
    for x, y, pixels in areas:
        first = len(pages)
        pages += [pixels, pixels[::factor, ::factor]]
        sizes = [(first + i, page.shape[1], page.shape[0]) for i, page in enumerate(pages[first:])]
        images.append(_leica_image((x * nm, y * nm), (pixels.shape[1] * nm, pixels.shape[0] * nm), sizes))
    size_nm = (glass[0] * nm, glass[1] * nm)
    macro = _leica_image((0, 0), size_nm, [(0, 300, 200)])
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{size_nm[0]}" sizeY="{size_nm[1]}">{macro}{"".join(images)}</collection></scn>'
    )
    path = folder / "leica.scn"
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for number, page in enumerate(pages):
            tif.write(
                page, description=description if number == 0 else None,
                resolution=(1e7 / nm, 1e7 / nm), resolutionunit="CENTIMETER", **_TILE
            )  # fmt: skip
    small = [(x // factor, y // factor, pixels[::factor, ::factor]) for x, y, pixels in areas]
    truth = {0: on_white(*glass, *areas), 1: on_white(glass[0] // factor, glass[1] // factor, *small)}
    return VendorFile(path, "leica", nm / 1000, truth)


def _leica_image(at_nm: tuple[int, int], size_nm: tuple[int, int], sizes: list[tuple[int, int, int]]) -> str:
    dimensions = "".join(f'<dimension ifd="{ifd}" sizeX="{w}" sizeY="{h}"/>' for ifd, w, h in sizes)
    return (
        f'<image><view sizeX="{size_nm[0]}" sizeY="{size_nm[1]}" offsetX="{at_nm[0]}" offsetY="{at_nm[1]}"/>'
        f"<pixels>{dimensions}</pixels><scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
        "</scanSettings></image>"
    )


def write_ventana(
    folder: Path, *, software: str = "ScanOutputManager 1.1.0.15854", first: str = "Label Image"
) -> VendorFile:
    """Two areas of camera frames that overlap by 8 px; the TIFF holds the frames side by side."""
    side, overlap, factor = 128, 8, 2
    step = side - overlap
    # Per area: first column in the TIFF, columns, rows, and where it lies, from the left and above a common bottom.
    areas = [(0, 3, 3, (0, 100)), (3, 2, 3, (600, 0))]
    height = 3 * step + overlap
    mosaic = np.zeros((3 * side, 5 * side, 3), np.uint8)
    pieces, infos, origins = [], [], []
    for number, (start, columns, rows, (left, above_bottom)) in enumerate(areas):
        pixels = tissue(columns * step + overlap, height)[:: (-1) ** number]
        for row in range(rows):
            for column in range(columns):
                frame = pixels[row * step : row * step + side, column * step : column * step + side]
                x = (start + column) * side
                mosaic[row * side : (row + 1) * side, x : x + side] = frame
        pieces.append((left, 100 - above_bottom, pixels))
        infos.append(_ventana_area(side, columns, rows, overlap, left, above_bottom))
        origins.append(f'<AOI{number} OriginX="{start * side}" OriginY="0"/>')
    encode = (
        f"<EncodeInfo><SlideStitchInfo>{''.join(infos)}</SlideStitchInfo>"
        f"<AoiOrigin>{''.join(origins)}</AoiOrigin></EncodeInfo>"
    )
    scan = '<iScan Magnification="20" ScanRes="0.465" Z-layers="1" ScanWhitePoint="235"/>'
    path = folder / "ventana.bif"
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(tissue(90, 60), description=first, software=software, **_xmp(scan), **_TILE)
        tif.write(mosaic, description="level=0 mag=20 quality=95", software=software, **_xmp(encode), **_TILE)
        small = mosaic[::factor, ::factor]
        tif.write(small, description="level=1 mag=10 quality=95", software=software, **_TILE)
    width, bottom = 600 + 2 * step + overlap, 100 + height
    halves = [(x // 2, y // 2, pixels[::2, ::2]) for x, y, pixels in pieces]
    truth = {0: on_white(width, bottom, *pieces), 1: on_white(width // 2, bottom // 2, *halves)}
    return VendorFile(path, "ventana", 0.465, truth)


def _xmp(text: str) -> dict[str, Any]:
    return {"extratags": [(_XMP, 1, len(text), text.encode(), True)]}


def _ventana_area(side: int, columns: int, rows: int, overlap: int, left: int, above_bottom: int) -> str:
    def number(column: int, row: int) -> int:
        """Frames are counted from the bottom, to the right and back in turns."""
        up = rows - 1 - row
        return up * columns + (columns - 1 - column if up % 2 else column) + 1

    joints = [
        (number(c, r), number(c + 1, r), "RIGHT", overlap, 0) for r in range(rows) for c in range(columns - 1)
    ] + [(number(c, r), number(c, r - 1), "UP", 0, overlap) for r in range(1, rows) for c in range(columns)]
    lines = "".join(
        f'<TileJointInfo Tile1="{one}" Tile2="{other}" Direction="{way}" OverlapX="{x}" OverlapY="{y}" '
        'Confidence="99"/>'
        for one, other, way, x, y in joints
    )
    return (
        f'<ImageInfo AOIScanned="1" Width="{side}" Height="{side}" NumRows="{rows}" NumCols="{columns}" '
        f'Pos-X="{left}" Pos-Y="{above_bottom}">{lines}</ImageInfo>'
    )


def write_philips(folder: Path, *, software: str = "Philips DP v1.0") -> VendorFile:
    """A pyramid whose smaller levels are padded to whole tiles, with tiles that were never stored."""
    width, height, side, mpp = 768, 640, 128, 0.25
    whole = tissue(width, height)
    missing = {(column, row) for column in (4, 5) for row in range(5)}
    for column, row in missing:
        whole[row * side : (row + 1) * side, column * side : (column + 1) * side] = 255
    truth = {level: whole[:: 2**level, :: 2**level] for level in range(3)}
    spacings = [f"&quot;{mpp * 2**level / 1000}&quot; &quot;{mpp * 2**level / 1000}&quot;" for level in truth]
    path = folder / "philips.tiff"
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level, pixels in truth.items():
            padded_h, padded_w = (-(-n // side) * side for n in pixels.shape[:2])
            padded = on_white(padded_w, padded_h, (0, 0, pixels))
            tif.write(
                _tiles(padded, side, missing if level == 0 else set()), shape=padded.shape, dtype=np.uint8,
                description=_philips_xml(spacings) if level == 0 else f"level={level}",
                subfiletype=int(level > 0), software=software, **_TILE,
            )  # fmt: skip
    return VendorFile(path, "philips", mpp, truth)


def _tiles(pixels: Pixels, side: int, missing: set[tuple[int, int]]) -> Iterator[Pixels | None]:
    for row in range(pixels.shape[0] // side):
        for column in range(pixels.shape[1] // side):
            tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            yield None if (column, row) in missing else np.ascontiguousarray(tile)


def _philips_xml(spacings: list[str]) -> str:
    def attribute(name: str, content: str) -> str:
        return f'<Attribute Name="{name}">{content}</Attribute>'

    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{attribute("DICOM_PIXEL_SPACING", spacing)}</DataObject>'
        for spacing in spacings
    )
    image = (
        attribute("PIM_DP_IMAGE_TYPE", "WSI")
        + attribute("DICOM_PIXEL_SPACING", spacings[0])
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", f"<Array>{levels}</Array>")
    )
    scanned = f'<Array><DataObject ObjectType="DPScannedImage">{image}</DataObject></Array>'
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        f"{attribute('PIM_DP_SCANNED_IMAGES', scanned)}</DataObject>"
    )


def write_trestle(folder: Path) -> VendorFile:
    """Tiles of level 0 overlap by 8 px; micrometres per pixel stand where TIFF has pixels per unit."""
    side, overlap, columns, rows = 128, 8, 4, 3
    step = side - overlap
    whole = tissue(columns * step + overlap, rows * step + overlap)
    mosaic = np.concatenate(
        [
            np.concatenate(
                [whole[y : y + side, x : x + side] for x in range(0, columns * step, step)], axis=1
            )
            for y in range(0, rows * step, step)
        ]
    )
    small = whole[::2, ::2]
    path = folder / "trestle.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in (mosaic, small):
            tif.write(
                page, software="MedScan v1.0", resolution=(0.5, 0.5), resolutionunit="INCH",
                description=f"Objective Power=20;Background Color=000000;OverlapsXY= {overlap} {overlap} 0 0", **_TILE
            )  # fmt: skip
    return VendorFile(path, "trestle", 0.5, {0: whole, 1: small})
