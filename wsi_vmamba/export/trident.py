"""The folder that TRIDENT makes of a slide collection: patch coordinates and features as HDF5.

Read by TRIDENT's slide encoders and by data sets for it, such as torchmil's TridentWSIDataset. Facts from
github.com/mahmoodlab/TRIDENT (trident/wsi_objects/WSI.py).
"""

from __future__ import annotations

import json

import numpy as np

from wsi_vmamba.export.cells import ExportCells, whole
from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.hdf5 import hdf5_writer


def export_trident(cells: ExportCells) -> tuple[ExportFile, ...]:
    """``<mag>x_<px>px_0px_overlap/patches/<id>_patches.h5`` and ``.../features_<model>/<id>.h5``.

    Coordinates are rounded up rather than to the nearest pixel: tools find a patch's place on the grid by dividing
    by ``patch_size_level0`` and cutting off, which a corner rounded down would put one place too far left.
    """
    meta = cells.meta
    folder = f"{cells.target_magnification:g}x_{meta.cell_px}px_0px_overlap"
    # The hair keeps a corner that is whole but for floating point from moving by a pixel.
    coords = np.ceil(cells.grid * cells.cell_l0 - 1e-6).astype(np.int64)
    described = {
        "patch_size": meta.cell_px,
        "patch_size_level0": whole(cells.cell_l0),
        "level0_magnification": cells.level0_magnification,
        "target_magnification": cells.target_magnification,
        "overlap": 0,
        "name": cells.slide_id,
        "savetodir": folder,
        "level0_width": cells.width_l0,
        "level0_height": cells.height_l0,
    }
    features = f"features_{meta.model}"
    source = {"wsi_vmamba": json.dumps(cells.facts(), sort_keys=True)}
    of_features = {"name": cells.slide_id, "savetodir": f"{folder}/{features}", "encoder": meta.model}
    return (
        ExportFile(
            path=f"{folder}/patches/{cells.slide_id}_patches.h5",
            write=hdf5_writer({"coords": (coords, described)}, source),
        ),
        ExportFile(
            path=f"{folder}/{features}/{cells.slide_id}.h5",
            write=hdf5_writer(
                {
                    "features": (cells.features.astype(np.float32), of_features),
                    "coords": (coords, described),
                },
                source,
            ),
        ),
    )
