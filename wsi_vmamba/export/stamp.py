"""The tile features of STAMP 2: one HDF5 file per slide, coordinates in micrometres.

Facts from github.com/KatherLab/STAMP (src/stamp/preprocessing, src/stamp/modeling/data.py). ``stamp_version`` is
left out on purpose: STAMP refuses files of a version newer than itself.
"""

from __future__ import annotations

import numpy as np

from wsi_vmamba.export.cells import ExportCells
from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.hdf5 import Arrays, hdf5_writer


def export_stamp(cells: ExportCells) -> tuple[ExportFile, ...]:
    """``<id>.h5`` with ``feats`` (N, D) float16 and ``coords`` (N, 2) float32, top-left (x, y) in um."""
    meta = cells.meta
    attributes = {
        "extractor": f"wsi-vmamba-{meta.model}",
        "unit": "um",
        "tile_size_um": cells.tile_um,
        "tile_size_px": meta.cell_px,
        "feat_type": "tile",
    }
    coords_um = (cells.grid * cells.tile_um).astype(np.float32)
    arrays: Arrays = {"feats": (cells.features, {}), "coords": (coords_um, {})}
    return (ExportFile(path=f"{cells.slide_id}.h5", write=hdf5_writer(arrays, attributes)),)
