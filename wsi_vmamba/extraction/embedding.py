"""The features of one slide in memory: looked at, passed on, and saved if wanted."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.notebook import facts_html
from wsi_vmamba.slide import open_slide
from wsi_vmamba.store import (
    FeatureMeta,
    FeatureWriter,
    check_compatible,
    describe_features,
    is_complete,
    require_short_name,
    take_claim,
)
from wsi_vmamba.tissue import TissueMask

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """Features of the tissue patches of one slide; made by `wsi_vmamba.embed`.

    Attributes:
        features: (N, D) float16, one row a patch.
        coords_l0: (N, 2) int64, top-left corner (x, y) of each patch in level-0 pixels.
        tissue: where tissue was found; a low-resolution mask, see `TissueMask`.
        meta: slide, settings, model and versions, as a feature file records them.
        notes: what a person should know of how the slide was read.
    """

    features: NDArray[np.float16]
    coords_l0: NDArray[np.int64]
    tissue: TissueMask
    meta: FeatureMeta
    notes: tuple[str, ...] = ()

    @property
    def slide_id(self) -> str:
        """Name of the slide."""
        return self.meta.slide_id

    @property
    def patch_l0(self) -> float:
        """Side of a patch in level-0 pixels; need not be whole."""
        return self.meta.patch_l0

    @property
    def mpp(self) -> float:
        """Micrometres per level-0 pixel, as resolved."""
        return self.meta.mpp

    def __len__(self) -> int:
        return len(self.features)

    def show(self) -> Image:
        """Draw the slide and, beside it, its patches: their first three principal components are red, green, blue.

        Returns:
            A PIL image, which a notebook shows.

        Raises:
            UsageError: fewer than three patches or features.
            UnreadableSlideError: the slide is not where it was read.
        """
        from PIL import Image

        # Matplotlib and scikit-learn, which only a picture needs.
        from wsi_vmamba.report.components import components_png

        meta = self.meta
        with open_slide(meta.slide_path, reader=meta.reader, scene=meta.scene) as slide:
            return Image.open(io.BytesIO(components_png(slide, self)))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``<folder>/<slide_id>.zarr``, byte for byte the file that `wsi-vmamba extract` makes.

        A file that is there already and holds what this one would is left alone.

        Args:
            folder: made if need be.
            overwrite: replace a file that is there.

        Returns:
            The path of the file, for `wsi_vmamba.open_features`.

        Raises:
            IncompatibleStoreError: a file is there that was made with other settings.
            ClaimedError: another run is making it.
            StoreError: the disk refuses.
        """
        path = Path(folder) / f"{self.slide_id}.zarr"
        if is_complete(path) and not overwrite:
            check_compatible(path, self.meta)
            return path
        require_short_name(path, slide=self.meta.slide_path)
        as_planned = replace(self.meta, left_out={})
        with (
            take_claim(path),
            FeatureWriter(path, as_planned, self.features.shape[1], overwrite=overwrite) as writer,
        ):
            writer.append(self.features, self.coords_l0)
            writer.commit(left_out=self.meta.left_out)
        return path

    @cached_property
    def _facts(self) -> dict[str, str]:
        facts = describe_features(self.meta, n_patches=len(self), dim=self.features.shape[1])
        return facts | ({"notes": "; ".join(self.notes)} if self.notes else {})

    def __repr__(self) -> str:
        lines = [f"  {name:<12} {value}" for name, value in self._facts.items()]
        return "\n".join([f"Embedding of {self.slide_id}", *lines])

    def _repr_html_(self) -> str:
        return facts_html(f"Embedding of {self.slide_id}", self._facts)
