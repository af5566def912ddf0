"""What a run remembers of the slides it was trained on: how their features were made, what they are like, a threshold.

Written by `train` beside the model, so that new slides are read in the same way, judged by the threshold that the
validation slides chose, and compared with the training slides, on a machine that has none of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import IncompatibleStoreError, TrainingError
from wsi_vmamba.metrics.thresholds import choose_threshold
from wsi_vmamba.stains import stain_vector
from wsi_vmamba.store import FeatureMeta

#: In the folder of a run, or of a cross-validation.
REFERENCE = "reference.safetensors"
VERSION = 1
_KEY = "wsi_vmamba"
#: Written by `extract` beside the feature files.
_EXTRACT_RECORD = "extract.run.json"
#: Parts of an origin that make features of another kind; the others change a little, or which patches there are.
DECISIVE = ("model", "weights_hash", "focal_planes", "target_mpp", "patch_px")
LESS_DECISIVE = (
    "precision", "region_px", "min_tissue", "background", "shuffle_px", "segmenter", "segmenter_settings",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How the features of the training slides were made: all that it takes to make those of a new slide.

    Attributes:
        model: name of the backbone.
        weights_hash: SHA-256 of its weights.
        focal_planes: "all" where it saw the planes of a focal stack as one volume.
        target_mpp: micrometres per pixel that it saw.
        patch_px: side of a patch, pixels at ``target_mpp``.
        precision: the arithmetic it ran in.
        region_px: largest side of a region at ``target_mpp``; None where the features do not say it.
        min_tissue: share of a patch that had to be tissue; None where the features do not say it.
        background: whether the backbone read patches without tissue.
        shuffle_px: side of the blocks whose pixels were at each other's places; None where none were.
        segmenter: what found the tissue; "mask" where the masks were the user's own.
        segmenter_settings: its numbers.
        weights: what `extract --weights` was given, where that is known.
        seed: of random weights.
    """

    model: str
    weights_hash: str
    target_mpp: float
    patch_px: int
    precision: str
    focal_planes: str = "one"
    region_px: int | Literal["whole"] | None = None
    min_tissue: float | None = None
    background: str = "read"
    shuffle_px: int | None = None
    segmenter: str = "otsu"
    segmenter_settings: Mapping[str, float] = field(default_factory=dict)
    weights: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, meta: FeatureMeta) -> Self:
        """Take it from the attributes of a feature file."""
        spec = meta.plan.get("spec", {})
        return cls(
            model=meta.model,
            weights_hash=meta.weights_hash,
            target_mpp=meta.target_mpp,
            patch_px=meta.patch_px,
            precision=meta.precision,
            focal_planes=meta.encoder.get("focal_planes", "one"),
            region_px=spec.get("region_px"),
            min_tissue=spec.get("min_tissue"),
            background=spec.get("background", "read"),
            shuffle_px=spec.get("shuffle_px"),
            segmenter="mask" if meta.segmenter.startswith("mask ") else meta.segmenter,
            segmenter_settings=dict(meta.segmenter_settings),
        )

    def to_dict(self) -> dict[str, Any]:
        """The values as plain JSON, for `Origin(**values)`; what older files lack only where it is set."""
        return {
            name: value for name, value in asdict(self).items() if (name, value) != ("focal_planes", "one")
        }

    def differences(self, other: Origin, names: Sequence[str]) -> list[str]:
        """Name what differs, as ``patch_px: expected 256, got 224``."""
        return [
            f"{name}: expected {getattr(self, name)!r}, got {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The training slides of a run, in a few numbers each.

    Attributes:
        origin: how their features were made.
        slide_ids: their names.
        means: (N, D) float32, mean feature of each.
        mpp: (N,) float64, micrometres per level-0 pixel of each.
        stain: (N, 6) float64, what the stain of each is like, see `stains.stain_vector`; rows of NaN where its features
            do not say it.
        threshold: from which probability on a slide is called positive; None where none was chosen.
        threshold_source: what it was chosen on, in words.
        notes: what of ``origin`` was not the same for all slides.
    """

    origin: Origin
    slide_ids: tuple[str, ...]
    means: NDArray[np.float32]
    mpp: NDArray[np.float64]
    stain: NDArray[np.float64]
    threshold: float | None = None
    threshold_source: str = ""
    notes: tuple[str, ...] = ()

    def header(self) -> dict[str, Any]:
        """All of it that is no array, as JSON values."""
        return {
            "version": VERSION,
            "origin": self.origin.to_dict(),
            "slide_ids": list(self.slide_ids),
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "notes": list(self.notes),
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays."""
        found = {"means": self.means, "mpp": self.mpp, "stain": self.stain}
        return {name: np.ascontiguousarray(values) for name, values in found.items()}

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return safetensors.numpy.save(self.tensors(), {_KEY: json.dumps(self.header(), allow_nan=False)})

    @classmethod
    def from_parts(cls, header: Mapping[str, Any], tensors: Mapping[str, Any], *, where: object) -> Self:
        """Rebuild it from the header and the tensors of `to_bytes`.

        Raises:
            TrainingError: they are not as `to_bytes` writes them.
        """
        try:
            if header["version"] != VERSION:
                raise ValueError(f"version {header['version']!r}, expected {VERSION}")
            n_slides = len(header["slide_ids"])
            # References of before it was looked at have none.
            stain = tensors["stain"] if "stain" in tensors else np.full((n_slides, 6), np.nan)
            found = cls(
                origin=Origin(**header["origin"]),
                slide_ids=tuple(header["slide_ids"]),
                means=np.asarray(tensors["means"], dtype=np.float32),
                mpp=np.asarray(tensors["mpp"], dtype=np.float64),
                stain=np.asarray(stain, dtype=np.float64),
                threshold=header["threshold"],
                threshold_source=header["threshold_source"],
                notes=tuple(header["notes"]),
            )
            if found.means.ndim != 2 or len(found.means) != n_slides or found.mpp.shape != (n_slides,):
                raise ValueError(f"{n_slides} slides, means {found.means.shape}, mpp {found.mpp.shape}")
            threshold = found.threshold
            if threshold is not None and not (
                isinstance(threshold, int | float) and not math.isnan(threshold)
            ):
                raise ValueError(f"expected a number as threshold, got {threshold!r}")
            if found.stain.shape != (n_slides, 6):
                raise ValueError(f"{n_slides} slides, stain {found.stain.shape}")
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{where}: damaged ({type(error).__name__}: {error}); remove it to have it made anew from the features"
            ) from error


def save_reference(folder: Path, reference: Reference) -> None:
    """Write ``reference.safetensors``."""
    write_atomic(folder / REFERENCE, reference.to_bytes())


def read_reference(folder: Path) -> Reference | None:
    """Read ``reference.safetensors``; None where there is none, as in runs of earlier releases.

    Raises:
        TrainingError: it is damaged.
    """
    path = folder / REFERENCE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = json.loads(file.metadata()[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: damaged ({type(error).__name__}); remove it to have it made anew from the features"
        ) from error
    return Reference.from_parts(header, tensors, where=path)


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideFacts:
    """What a reference keeps of one slide."""

    slide_id: str
    meta: FeatureMeta
    mean: NDArray[np.float32]


def build_reference(
    slides: Sequence[SlideFacts],
    *,
    features: Path,
    held_out: tuple[Sequence[int], Sequence[float]] | None = None,
) -> Reference:
    """Sum up the training slides.

    Args:
        slides: of the training.
        features: folder of their features, whose record says which weights were given.
        held_out: labels and probabilities of validation slides, to choose the threshold on.

    Raises:
        IncompatibleStoreError: their features are of several kinds.
    """
    origins = [Origin.of(slide.meta) for slide in slides]
    origin = origins[0]
    notes: dict[str, None] = {}
    for slide, other in zip(slides, origins, strict=True):
        if differing := origin.differences(other, DECISIVE):
            raise IncompatibleStoreError(
                f"{slide.slide_id}: its features were made with other settings ({'; '.join(differing)}); extract all "
                "slides with the same settings into one folder"
            )
        notes |= dict.fromkeys(origin.differences(other, LESS_DECISIVE))
    threshold, source = None, ""
    if held_out is not None:
        labels, scores = np.array(held_out[0]), np.array(held_out[1], dtype=np.float64)
        threshold = choose_threshold(labels, scores)
        source = f"highest balanced accuracy on {len(labels)} validation slides"
    return Reference(
        origin=Origin(**{**asdict(origin), **_weights_given(features, origin)}),
        slide_ids=tuple(slide.slide_id for slide in slides),
        means=np.stack([slide.mean for slide in slides]),
        mpp=np.array([slide.meta.mpp for slide in slides]),
        stain=np.stack([stain_vector(slide.meta.stain) for slide in slides]),
        threshold=threshold,
        threshold_source=source,
        notes=tuple(notes),
    )


def _weights_given(features: Path, origin: Origin) -> dict[str, Any]:
    """What `extract` was told of the weights, as far as its record is of these features."""
    try:
        record = json.loads((features / _EXTRACT_RECORD).read_text(encoding="utf-8"))
        config = record["config"]
        if record["weights_hash"] != origin.weights_hash or config["backbone"] != origin.model:
            return {}
        return {"weights": str(config["weights"]), "seed": int(config["seed"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # the record is no part of the features, and may be of a later run
