"""The features folder of CLAM: one tensor and one HDF5 file per slide.

Facts from github.com/mahmoodlab/CLAM (extract_features_fp.py, dataset_modules/dataset_generic.py).
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import torch

from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.hdf5 import hdf5_writer
from wsi_vmamba.export.patches import ExportPatches


def export_clam(patches: ExportPatches) -> tuple[ExportFile, ...]:
    """``pt_files/<id>.pt`` (float32 tensor, N x D) and ``h5_files/<id>.h5`` (features, coords)."""
    features = patches.features.astype(np.float32)
    # CLAM reads a patch as patch_size pixels of patch_level; at level 0 that is the patch, to the pixel.
    described = {
        "patch_size": round(patches.patch_l0),
        "patch_level": 0,
        "level_dim": (patches.width_l0, patches.height_l0),
        "name": patches.slide_id,
    }

    def write_tensor(out: BinaryIO) -> None:
        torch.save(torch.from_numpy(features), out)

    return (
        ExportFile(path=f"pt_files/{patches.slide_id}.pt", write=write_tensor),
        ExportFile(
            path=f"h5_files/{patches.slide_id}.h5",
            write=hdf5_writer(
                {"features": (features, {}), "coords": (patches.coords_l0.astype(np.int32), described)}, {}
            ),
        ),
    )
