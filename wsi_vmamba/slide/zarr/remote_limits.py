"""Whether what zarr metadata at a URL claim can be there: a few chunks are asked for, none is read."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import zarr
from zarr.storage import FsspecStore

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.remote import zip_directory
from wsi_vmamba.slide.web import client_options

#: A million pixels a side; at 0.1 um each that is a glass of 10 cm a side.
_MAX_PX = 1 << 40
#: Chunks asked for. Of a picture with one chunk in fifty written, all of them miss once in 170 times; scans have more.
_SAMPLE = 256
_AT_ONCE, _BATCH = 32, 64
_GOLDEN = (5**0.5 - 1) / 2


def check_size(url: str, *, width_px: int, height_px: int) -> None:
    """Refuse pictures larger than any glass; asks nobody.

    Raises:
        UnreadableSlideError: naming the claim.
    """
    if width_px * height_px > _MAX_PX:
        raise UnreadableSlideError(
            url,
            f"the metadata claim {width_px} x {height_px} px, more than any scanner makes; they are damaged or made to "
            "exhaust memory",
        )


def estimate_stored_bytes(url: str, store: FsspecStore, array: zarr.Array[Any], *, enough: float) -> float:
    """Bytes behind an array: of a zip all there are, else from the sizes of some chunks; missing ones count 0.

    Args:
        url: of the zarr folder or zip the array is in.
        store: made for that URL.
        array: opened from there.
        enough: no more is asked once the estimate reaches this.
    """
    directory = zip_directory(store)
    if directory is not None:
        return float(sum(entry.compress_size for entry in directory))
    system, root = fsspec.core.url_to_fs(url, **client_options(url))
    keys, chunks = _some_keys(array)
    total, estimate = 0, 0.0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            total += sum(pool.map(lambda key: _size(system, f"{root}/{key}"), batch))
            estimate = total / (start + len(batch)) * chunks
            if estimate >= enough:
                break
    return estimate


def _some_keys(array: zarr.Array[Any]) -> tuple[list[str], int]:
    """Keys of some chunks, or shards, evenly spread however many of them are taken; and how many chunks there are."""
    stored_as = array.shards or array.chunks
    counts = [-(-size // side) for size, side in zip(array.shape, stored_as, strict=True)]
    chunks = math.prod(counts)
    # Multiples of the golden ratio fall evenly on the whole, whatever the length of a row.
    picked = dict.fromkeys((np.arange(_SAMPLE) * _GOLDEN % 1 * chunks).astype(np.int64))
    base = f"{array.path}/" if array.path else ""
    places = (tuple(int(i) for i in np.unravel_index(number, counts)) for number in picked)
    return [base + array.metadata.encode_chunk_key(place) for place in places], chunks


def _size(system: Any, place: str) -> int:
    try:
        return int(system.size(place) or 0)
    except OSError:  # not there, or not allowed to be known; opening it would fail the same way
        return 0
