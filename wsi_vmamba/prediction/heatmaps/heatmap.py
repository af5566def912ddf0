"""One layer of a slide, ready to be drawn or written for another tool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import MissingDataError
from wsi_vmamba.prediction.heatmaps.layers import layer_of
from wsi_vmamba.prediction.slide_prediction import SlidePrediction
from wsi_vmamba.report.heatmap import PatchValues, blend, draw_patches, paint_patches, read_picture
from wsi_vmamba.report.style import FigureFiles
from wsi_vmamba.slide import Slide, open_slide
from wsi_vmamba.slide.location import Location, may_exist, place_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Heatmap:
    """One value per patch of a slide.

    Attributes:
        prediction: of the slide.
        layer: name of the value.
        patches: the values, where they lie, and the range of their colours.
        slide_path: the slide's file or URL.
    """

    prediction: SlidePrediction
    layer: str
    patches: PatchValues
    slide_path: Location

    @classmethod
    def of(
        cls, prediction: SlidePrediction, *, layer: str | None = None, slide: str | Path | None = None
    ) -> Self:
        """See `SlidePrediction.heatmap`."""
        name, patches = layer_of(prediction, layer)
        place = place_of(str(slide if slide is not None else prediction.slide_path))
        return cls(prediction=prediction, layer=name, patches=patches, slide_path=place)

    @property
    def slide_id(self) -> str:
        """Name of the slide."""
        return self.prediction.slide_id

    @contextmanager
    def open_slide(self) -> Iterator[Slide]:
        """Open the slide.

        Raises:
            MissingDataError: its file is not there, or is of another size than the one that was predicted.
        """
        if not may_exist(self.slide_path):
            raise MissingDataError(
                f"{self.slide_id}: a heatmap is laid over the slide, but its file is not at {self.slide_path}; give "
                "the file"
            )
        with open_slide(self.slide_path, scene=self.prediction.scene) as slide:
            expected = (self.prediction.width_l0, self.prediction.height_l0)
            got = (slide.levels[0].width_px, slide.levels[0].height_px)
            if None not in expected and expected != got:
                raise MissingDataError(
                    f"{self.slide_id}: expected a slide of {expected[0]} x {expected[1]} px, {self.slide_path} has "
                    f"{got[0]} x {got[1]}; give the file that was predicted"
                )
            yield slide

    def draw(self, folder: str | Path, *, name: str | None = None) -> FigureFiles:
        """Draw the slide and the slide under its colours: ``<name>.png`` and ``.json`` in ``folder``.

        Args:
            folder: made if need be.
            name: of the two files; by default the slide's.

        Raises:
            MissingDataError: the slide's file is not there.
        """
        found = self.prediction
        title = f"{found.slide_id}: probability {found.probability:.3f}, {found.decision}"
        with self.open_slide() as slide:
            return draw_patches(
                slide, self.patches, Path(folder), mpp=found.mpp, name=name or found.slide_id, title=title
            )

    def picture(self) -> NDArray[np.uint8]:
        """The slide in grey under the colours of its patches, RGB (H, W, 3).

        Raises:
            MissingDataError: the slide's file is not there.
        """
        with self.open_slide() as slide:
            overview = read_picture(slide, mpp=self.prediction.mpp)
        heat = paint_patches(self.patches, shape_px=overview.pixels.shape[:2], downsample=overview.downsample)
        return blend(overview.pixels, heat, low=self.patches.low, high=self.patches.high)

    def save(self, folder: str | Path, *, format: str = "png", bands: int = 5) -> Path:
        """Write it as a file of a format of `wsi-vmamba heatmap`: png, ometiff, geojson or csv.

        Args:
            folder: made if need be.
            format: of the file.
            bands: how many bands of values a GeoJSON is divided into.

        Returns:
            The file, ``<slide_id>-<layer>`` with the ending of its format.

        Raises:
            UnknownNameError: there is no such format.
            MissingDataError: the slide's file is not there, and the format draws over it.
        """
        from wsi_vmamba.prediction.heatmaps.formats import save

        return save(self, Path(folder), name=format, bands=bands)
