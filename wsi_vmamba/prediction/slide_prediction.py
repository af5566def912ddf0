"""What a model says of one slide, and the file that keeps it: ``patches/<slide_id>.safetensors``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from wsi_vmamba.bags import grid_coords
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import StoreError
from wsi_vmamba.notebook import facts_html
from wsi_vmamba.prediction.likeness import Likeness

if TYPE_CHECKING:
    from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap

VERSION = 1
_KEY = "wsi_vmamba"
_FORMAT = "prediction"


@dataclass(frozen=True, kw_only=True, eq=False)
class SlidePrediction:
    """What a model, or the models of a cross-validation, say of one slide.

    Attributes:
        slide_id: name of the slide.
        slide_path: its file or URL, as its features say.
        scene: which picture of that file.
        reader: name in the READERS table.
        mpp: micrometres per level-0 pixel.
        target_mpp: micrometres per pixel that the backbone saw.
        patch_px: side of a patch, pixels at ``target_mpp``.
        patch_l0: the same side in level-0 pixels; need not be whole.
        width_l0: width of the slide in level-0 pixels; None where the features do not say it.
        height_l0: height of the slide, likewise.
        coords_l0: (N, 2) int64, top-left corner (x, y) of each patch in level-0 pixels.
        attention: (N,) float32, sums to 1; None where the aggregator weighs no patches.
        patch_probability: (N,) float32, probability of label 1 of each patch; None without a patch head.
        probability: of label 1, the mean of the models; of more than two classes, of the one decided for.
        probabilities: the same of each model.
        threshold: from which probability on the slide is called positive; None of more than two classes.
        decision: "positive" or "negative", or the name of a class.
        likeness: how the slide compares with the training slides.
        left_out_patches: patches that damaged tiles touch and that nothing is known of.
        classes: names of the classes, of more than two.
        shares: probability of each of them.
        class_attention: (K, N) float32, of more than two classes that weigh patches apart; ``attention`` is that of the
            one decided for.
    """

    slide_id: str
    slide_path: str
    scene: int
    reader: str
    mpp: float
    target_mpp: float
    patch_px: int
    patch_l0: float
    width_l0: int | None
    height_l0: int | None
    coords_l0: NDArray[np.int64]
    attention: NDArray[np.float32] | None
    patch_probability: NDArray[np.float32] | None
    probability: float
    probabilities: tuple[float, ...]
    threshold: float | None
    decision: str
    likeness: Likeness
    left_out_patches: int = 0
    classes: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None
    class_attention: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        return f"<SlidePrediction {self.slide_id}: {self.decision}, probability {self.probability:.4f}>"

    @property
    def probability_sd(self) -> float | None:
        """Standard deviation of the probability from model to model, with n - 1; None of one model."""
        return stdev(self.probabilities) if len(self.probabilities) > 1 else None

    @property
    def patch_table(self) -> dict[str, NDArray[Any]]:
        """The patches as columns (N,): x_l0, y_l0, width_l0, height_l0, attention, probability, those that there are.

        Corners and sides are level-0 pixels, exact where a patch is no whole number of them; a patch at the edge of
        the slide is cut there. ``pandas.DataFrame(prediction.patch_table)`` makes a table of it.
        """
        boxes = self.boxes_l0
        columns: dict[str, NDArray[Any]] = {
            "x_l0": boxes[:, 0],
            "y_l0": boxes[:, 1],
            "width_l0": boxes[:, 2] - boxes[:, 0],
            "height_l0": boxes[:, 3] - boxes[:, 1],
        }
        if self.attention is not None:
            columns["attention"] = self.attention
        if self.class_attention is not None:
            columns |= {
                f"attention_{name}": row for name, row in zip(self.classes, self.class_attention, strict=True)
            }
        if self.patch_probability is not None:
            columns["probability"] = self.patch_probability
        return columns

    @property
    def grid(self) -> NDArray[np.int64]:
        """Place (column, row) of each patch on the slide's patch grid, (N, 2)."""
        return grid_coords(self.coords_l0, patch_l0=self.patch_l0, slide_id=self.slide_id)

    @property
    def boxes_l0(self) -> NDArray[np.float64]:
        """(left, top, right, bottom) of each patch in level-0 pixels, cut at the slide's edge, (N, 4)."""
        corners = np.concatenate([self.grid, self.grid + 1], axis=1) * self.patch_l0
        limits = [math.inf if side is None else float(side) for side in (self.width_l0, self.height_l0)]
        boxes: NDArray[np.float64] = np.minimum(corners, np.array(limits * 2))
        return boxes

    def heatmap(self, *, layer: str | None = None, slide: str | Path | None = None) -> Heatmap:
        """What the model says of patches, to be drawn or given to another tool.

        Args:
            layer: "attention" or "probability" (of each patch); by default the probability where there is one.
            slide: the slide's file, where it is not where its features say.

        Raises:
            UsageError: the model says no such thing of patches.
        """
        from wsi_vmamba.prediction.heatmaps.heatmap import Heatmap

        return Heatmap.of(self, layer=layer, slide=slide)

    def save(self, path: Path, *, facts: Mapping[str, Any]) -> None:
        """Write it as safetensors.

        Args:
            path: of the file.
            facts: what made it, kept beside it.
        """
        plain = {name: getattr(self, name) for name in _PLAIN}
        header = {
            "format": _FORMAT, "version": VERSION, **plain, "probabilities": list(self.probabilities),
            "unlike": None if self.likeness.unlike is None else list(self.likeness.unlike),
            "unlike_why": self.likeness.why, "feature_distance": self.likeness.distance,
            "feature_limit": self.likeness.limit, "stain_distance": self.likeness.stain_distance,
            "stain_limit": self.likeness.stain_limit, **facts,
        }  # fmt: skip
        if self.shares is not None:
            header |= {"classes": list(self.classes), "shares": list(self.shares)}
        tensors = {"coords_l0": np.ascontiguousarray(self.coords_l0)}
        if self.attention is not None:
            tensors["attention"] = np.ascontiguousarray(self.attention, dtype=np.float32)
        if self.patch_probability is not None:
            tensors["probability"] = np.ascontiguousarray(self.patch_probability, dtype=np.float32)
        if self.class_attention is not None:
            tensors["class_attention"] = np.ascontiguousarray(self.class_attention.T, dtype=np.float32)
        metadata = {_KEY: json.dumps(header, sort_keys=True)}
        write_atomic(path, safetensors.numpy.save(tensors, metadata))

    def _repr_html_(self) -> str:
        facts = {
            "slide": self.slide_path,
            "probability": f"{self.probability:.4f}",
            "decision": self.decision
            if self.threshold is None
            else f"{self.decision} (threshold {self.threshold:.4f})",
            "unlike the training slides": self.likeness.word or "no",
        }
        return facts_html(self.slide_id, facts)


_PLAIN = (
    "slide_id", "slide_path", "scene", "reader", "mpp", "target_mpp", "patch_px", "patch_l0", "width_l0", "height_l0",
    "probability", "threshold", "decision", "left_out_patches",
)  # fmt: skip


def read_header(path: Path) -> dict[str, Any]:
    """Read what a file of `SlidePrediction.save` says about itself.

    Raises:
        StoreError: it is damaged or something else.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
        if header["format"] != _FORMAT or header["version"] != VERSION:
            raise ValueError(f"{header['format']} of version {header['version']}")
        if Path(header["slide_id"]).name != header["slide_id"]:  # files are named after it
            raise ValueError(f"slide_id {header['slide_id']!r} is no name of a file")
        return header
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def read_prediction(path: Path) -> SlidePrediction:
    """Read a file that `SlidePrediction.save` wrote.

    Raises:
        StoreError: it is damaged or something else.
    """
    header = read_header(path)
    try:
        tensors = safetensors.numpy.load_file(path)
        unlike = header["unlike"]
        return SlidePrediction(
            **{name: header[name] for name in _PLAIN},
            coords_l0=tensors["coords_l0"],
            attention=tensors.get("attention"),
            patch_probability=tensors.get("probability"),
            probabilities=tuple(header["probabilities"]),
            classes=tuple(header.get("classes", ())),
            shares=tuple(header["shares"]) if "shares" in header else None,
            class_attention=tensors["class_attention"].T if "class_attention" in tensors else None,
            likeness=Likeness(
                unlike=None if unlike is None else tuple(unlike), why=header["unlike_why"],
                distance=header["feature_distance"], limit=header["feature_limit"],
                # Predictions of before stain was compared have none.
                stain_distance=header.get("stain_distance"), stain_limit=header.get("stain_limit"),
            ),
        )  # fmt: skip
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> StoreError:
    if not path.exists():
        return StoreError(f"no prediction at {path}; make it with `wsi-vmamba predict`")
    return StoreError(
        f"{path} is damaged or no prediction of a slide ({type(error).__name__}: {error}); predict the slide again "
        "with --overwrite"
    )
