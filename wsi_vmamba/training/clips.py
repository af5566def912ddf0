"""Video clips on disk: arrays of frames, or folders of pictures. Nothing here decodes a video."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import DatasetError
from wsi_vmamba.training.pictures import TILE_SUFFIXES, read_tile
from wsi_vmamba.volume.pixels import as_picture

#: Endings of clips that are one file: an array of uint8 RGB frames (T, H, W, 3), in an archive the only one.
CLIP_SUFFIXES = (".npy", ".npz")
#: In words, for messages.
CLIP_KINDS = "clips (.npy or .npz of RGB frames, or folders of pictures)"


def find_clips(folder: Path) -> Iterator[Path]:
    """List the clips beneath a folder: arrays, and every folder that itself holds pictures."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if _pictures(path):
                yield path
            else:
                yield from find_clips(path)
        elif path.suffix.lower() in CLIP_SUFFIXES:
            yield path


def read_clip(path: Path, *, frames: int) -> NDArray[np.uint8]:
    """Read so many frames of a clip, evenly spaced: the middle one of each of as many equal parts.

    Returns:
        (H, W, 3 * frames), frame after frame along the channels.

    Raises:
        DatasetError: it cannot be read, has fewer frames, or they are not RGB of one size.
    """
    if path.is_dir():
        names = _pictures(path)
        chosen = _spread(path, len(names), frames)
        pictures = [read_tile(names[place]) for place in chosen]
        if len({picture.shape for picture in pictures}) > 1:
            raise DatasetError(f"{path}: the pictures of a clip must be of one size")
        return as_picture(np.stack(pictures))
    array = _array(path)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.size == 0:
        raise DatasetError(
            f"{path}: expected uint8 RGB frames (T, H, W, 3), found {array.dtype} {tuple(array.shape)}"
        )
    return as_picture(array[_spread(path, len(array), frames)])


def _spread(path: Path, there: int, frames: int) -> NDArray[np.int64]:
    if there < frames:
        raise DatasetError(
            f"{path} has {there} frames, fewer than clip_frames ({frames}); lower it, or leave it out"
        )
    return (2 * np.arange(frames) + 1) * there // (2 * frames)


def _array(path: Path) -> NDArray[np.uint8]:
    try:
        array: NDArray[np.uint8]
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if len(archive.files) != 1:
                raise DatasetError(f"{path}: expected one array of frames, found {len(archive.files)}")
            array = archive[archive.files[0]]
            return array
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: the clip cannot be read ({error})") from error


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names: 2 before 10."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TILE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(
        found, key=lambda path: [(int(part), "") if part.isdigit() else (0, part) for part in _parts(path)]
    )


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", path.name)
