"""The features folder of CLAM: one tensor and one HDF5 file per slide.

Facts from github.com/mahmoodlab/CLAM (extract_features_fp.py, dataset_modules/dataset_generic.py).
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import torch

from wsi_vmamba.export.cells import ExportCells
from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.hdf5 import hdf5_writer


def export_clam(cells: ExportCells) -> tuple[ExportFile, ...]:
    """``pt_files/<id>.pt`` (float32 tensor, N x D) and ``h5_files/<id>.h5`` (features, coords)."""
    features = cells.features.astype(np.float32)
    # CLAM reads a patch as patch_size pixels of patch_level; at level 0 that is the cell, to the pixel.
    described = {
        "patch_size": round(cells.cell_l0),
        "patch_level": 0,
        "level_dim": (cells.width_l0, cells.height_l0),
        "name": cells.slide_id,
    }

    def write_tensor(out: BinaryIO) -> None:
        torch.save(torch.from_numpy(features), out)

    return (
        ExportFile(path=f"pt_files/{cells.slide_id}.pt", write=write_tensor),
        ExportFile(
            path=f"h5_files/{cells.slide_id}.h5",
            write=hdf5_writer(
                {"features": (features, {}), "coords": (cells.coords_l0.astype(np.int32), described)}, {}
            ),
        ),
    )
