"""The folder that TRIDENT makes of a slide collection: patch coordinates and features as HDF5.

Read by TRIDENT's slide encoders and by data sets for it, such as torchmil's TridentWSIDataset. Facts from
github.com/mahmoodlab/TRIDENT (trident/wsi_objects/WSI.py).
"""

from __future__ import annotations

import json

import numpy as np

from wsi_vmamba.export.files import ExportFile
from wsi_vmamba.export.hdf5 import hdf5_writer
from wsi_vmamba.export.patches import ExportPatches, whole


def export_trident(patches: ExportPatches) -> tuple[ExportFile, ...]:
    """``<mag>x_<px>px_0px_overlap/patches/<id>_patches.h5`` and ``.../features_<model>/<id>.h5``.

    Coordinates are rounded up rather than to the nearest pixel: tools find a patch's place on the grid by dividing
    by ``patch_size_level0`` and cutting off, which a corner rounded down would put one place too far left.
    """
    meta = patches.meta
    folder = f"{patches.target_magnification:g}x_{meta.patch_px}px_0px_overlap"
    # The hair keeps a corner that is whole but for floating point from moving by a pixel.
    coords = np.ceil(patches.grid * patches.patch_l0 - 1e-6).astype(np.int64)
    described = {
        "patch_size": meta.patch_px,
        "patch_size_level0": whole(patches.patch_l0),
        "level0_magnification": patches.level0_magnification,
        "target_magnification": patches.target_magnification,
        "overlap": 0,
        "name": patches.slide_id,
        "savetodir": folder,
        "level0_width": patches.width_l0,
        "level0_height": patches.height_l0,
    }
    features = f"features_{meta.model}"
    source = {"wsi_vmamba": json.dumps(patches.facts(), sort_keys=True)}
    of_features = {"name": patches.slide_id, "savetodir": f"{folder}/{features}", "encoder": meta.model}
    return (
        ExportFile(
            path=f"{folder}/patches/{patches.slide_id}_patches.h5",
            write=hdf5_writer({"coords": (coords, described)}, source),
        ),
        ExportFile(
            path=f"{folder}/{features}/{patches.slide_id}.h5",
            write=hdf5_writer(
                {
                    "features": (patches.features.astype(np.float32), of_features),
                    "coords": (coords, described),
                },
                source,
            ),
        ),
    )
