"""HDF5 files with equal bytes for equal content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from wsi_vmamba.export.files import require

Arrays = Mapping[str, tuple[Any, Mapping[str, Any]]]


def hdf5_writer(arrays: Arrays, attributes: Mapping[str, Any]) -> Callable[[BinaryIO], None]:
    """Return what writes an HDF5 file.

    Args:
        arrays: dataset name -> (array, attributes of the dataset).
        attributes: attributes of the file.
    """
    h5py = require("h5py")

    def write(out: BinaryIO) -> None:
        # Times would make two exports of the same features differ.
        with h5py.File(out, "w", track_order=False) as file:
            file.attrs.update(attributes)
            for name, (array, described) in arrays.items():
                file.create_dataset(name, data=array, track_times=False).attrs.update(described)

    return write
