"""Whole-slide DICOM files of JPEG frames, as scanners write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit

SERIES = "1.2.826.0.1.3680043.8.498.7"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def jpeg_frames(pixels: np.ndarray, tile: int, *, photometric: str) -> Iterator[bytes]:
    """The tiles of a picture, by rows, padded at its edges with white."""
    padded = np.full(
        (-(-pixels.shape[0] // tile) * tile, -(-pixels.shape[1] // tile) * tile, 3), 255, np.uint8
    )
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    stored = "RGB" if photometric == "RGB" else "YCBCR"
    for y in range(0, padded.shape[0], tile):
        for x in range(0, padded.shape[1], tile):
            part = np.ascontiguousarray(padded[y : y + tile, x : x + tile])
            data = imagecodecs.jpeg8_encode(part, level=95, colorspace="RGB", outcolorspace=stored)
            yield data + b"\0" * (len(data) % 2)


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    *,
    tile: int = 64,
    photometric: str = "YBR_FULL_422",
    offsets: str = "basic",
    order: list[int] | None = None,
    series: str = SERIES,
    frames: list[bytes] | None = None,
) -> Path:
    """Write one level.

    Args:
        path: the file.
        pixels: RGB, (height, width, 3).
        tile: side of a frame.
        photometric: what the components of the frames are.
        offsets: the table of frames: "basic", "extended" or "none".
        order: which tiles are stored, by rows, in which order, each with its place; None stores all, TILED_FULL.
        series: UID of the series.
        frames: JPEG data instead of those of the pixels.
    """
    height, width = pixels.shape[:2]
    tiles = frames or list(jpeg_frames(pixels, tile, photometric=photometric))
    stored = tiles if order is None else [tiles[number] for number in order]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = WHOLE_SLIDE, f"{series}.{width}"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "SM", series, f"{series}.1"
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = (
        3,
        0,
        photometric,
    )
    dataset.Rows = dataset.Columns = tile
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.NumberOfFrames = len(stored)
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = width, height
    dataset.TotalPixelMatrixFocalPlanes = 1
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.0005, 0.0005]
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.DimensionOrganizationType = "TILED_FULL" if order is None else "TILED_SPARSE"
    if order is not None:
        dataset.PerFrameFunctionalGroupsSequence = Sequence([_place(each, tile, width) for each in order])
    if offsets == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
            encapsulate_extended(stored)
        )
    else:
        dataset.PixelData = encapsulate(stored, has_bot=offsets == "basic")
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = WHOLE_SLIDE
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _place(number: int, tile: int, width_px: int) -> Dataset:
    """Where a tile lies, counted from 1."""
    columns = -(-width_px // tile)
    position, group = Dataset(), Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = number % columns * tile + 1
    position.RowPositionInTotalImagePixelMatrix = number // columns * tile + 1
    group.PlanePositionSlideSequence = Sequence([position])
    return group
