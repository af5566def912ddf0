"""The tile features of STAMP 2: one HDF5 file per slide, coordinates in micrometres.

Facts from github.com/KatherLab/STAMP (src/stamp/preprocessing, src/stamp/modeling/data.py). ``stamp_version`` is
left out on purpose: STAMP refuses files of a version newer than itself.
"""

from __future__ import annotations

import numpy as np

from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.hdf5 import Arrays, hdf5_writer
from wsi_vmamba.export.patches import ExportPatches


def export_stamp(patches: ExportPatches) -> tuple[ExportFile, ...]:
    """``<id>.h5`` with ``feats`` (N, D) float16 and ``coords`` (N, 2) float32, top-left (x, y) in um."""
    meta = patches.meta
    attributes = {
        "extractor": f"wsi-vmamba-{meta.model}",
        "unit": "um",
        "tile_size_um": patches.tile_um,
        "tile_size_px": meta.patch_px,
        "feat_type": "tile",
    }
    coords_um = (patches.grid * patches.tile_um).astype(np.float32)
    arrays: Arrays = {"feats": (patches.features, {}), "coords": (coords_um, {})}
    return (ExportFile(path=f"{patches.slide_id}.h5", write=hdf5_writer(arrays, attributes)),)
