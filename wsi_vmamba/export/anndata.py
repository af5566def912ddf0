"""AnnData, for scanpy, squidpy and their relatives: patches are observations, features are variables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wsi_vmamba.export.files import ExportFile, require
from wsi_vmamba.export.patches import ExportPatches


def export_anndata(patches: ExportPatches) -> tuple[ExportFile, ...]:
    """``<id>.h5ad``.

    ``X`` is (N, D) float32; ``obs`` has slide_id, x_l0, y_l0 (top-left corner), column, row and the measurements;
    ``obsm["spatial"]`` is the CENTRE of each patch in level-0 pixels and ``uns["spatial"][slide_id]`` its diameter,
    as squidpy expects them; ``uns["wsi_vmamba"]`` says what made the features.
    """
    anndata, pandas = require("anndata"), require("pandas")

    def write(out: BinaryIO) -> None:
        grid = patches.grid
        obs = pandas.DataFrame(
            {
                "slide_id": pandas.Categorical([patches.slide_id] * len(grid)),
                "x_l0": patches.coords_l0[:, 0],
                "y_l0": patches.coords_l0[:, 1],
                "column": grid[:, 0],
                "row": grid[:, 1],
                **patches.measurements,
            },
            index=[f"{patches.slide_id}_{column}_{row}" for column, row in grid],
        )
        var = pandas.DataFrame(index=[f"feature_{i}" for i in range(patches.features.shape[1])])
        library = {"images": {}, "scalefactors": {"spot_diameter_fullres": patches.patch_l0}}
        table = anndata.AnnData(
            X=patches.features.astype(np.float32),
            obs=obs,
            var=var,
            obsm={"spatial": (grid + 0.5) * patches.patch_l0},
            uns={
                "spatial": {patches.slide_id: library},
                "wsi_vmamba": {**patches.facts(), **patches.slide_measurements},
            },
        )
        # anndata writes to names only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.h5ad"
            table.write_h5ad(path)
            out.write(path.read_bytes())

    return (ExportFile(path=f"{patches.slide_id}.h5ad", write=write),)
