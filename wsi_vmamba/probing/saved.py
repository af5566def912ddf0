"""A probe as a file, and what it says of the features of a slide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.probing.linear import LinearProbe
from wsi_vmamba.store import FeatureMeta

SCHEMA = 1
_KEY = "wsi_vmamba_probe"
_ARRAYS = ("mean", "scale", "weight", "bias")
#: Patches of another scale or size than the tiles by more than this factor are worth a note.
_SCALE, _SIZE = 1.25, 2.0


@dataclass(frozen=True, kw_only=True)
class ProbeFacts:
    """Where a probe comes from.

    Attributes:
        classes: names.
        encoder: name of the backbone, or the function, whose features it takes.
        weights_hash: SHA-256 (hex) of that encoder's parameters; empty where nobody knows.
        precision: in which it was trained; empty where nobody knows.
        mpp: micrometres per pixel of the tiles as they were encoded; None where not told.
        tile_px: sides of the tiles as they were encoded, shortest and longest.
        tiles: how many it learned from.
        groups: of how many patients or slides they were.
        auc: cross-validated, or on another site.
        penalty_c: scikit-learn's C.
    """

    classes: tuple[str, ...]
    encoder: str
    weights_hash: str
    precision: str
    mpp: float | None
    tile_px: tuple[int, int]
    tiles: int
    groups: int
    auc: float | None
    penalty_c: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedProbe:
    """A probe that was trained on tiles and can be asked about other features of the same encoder."""

    linear: LinearProbe
    facts: ProbeFacts

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.facts.classes

    def predict(self, features: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (..., classes) of features (..., D): those of patches (N, D), or a map (h, w, D).

        Raises:
            UsageError: they are of another width than the probe's.
        """
        values = np.asarray(features, dtype=np.float64)
        width = len(self.linear.mean)
        if values.ndim < 1 or values.shape[-1] != width:
            raise UsageError(
                f"the probe takes features of width {width} (of {self.facts.encoder}), got {values.shape}; they must "
                "come from the same encoder"
            )
        shares = self.linear.predict(values.reshape(-1, width))
        return shares.reshape(*values.shape[:-1], len(self.classes))

    def check(self, meta: FeatureMeta) -> list[str]:
        """Refuse features of another encoder; say what else of a feature file differs from the tiles.

        Raises:
            UsageError: the features are of another encoder, or of other weights.
        """
        facts = self.facts
        if (facts.encoder, facts.weights_hash) != (meta.model, meta.weights_hash):
            raise UsageError(
                f"the probe is for features of {facts.encoder} with weights {facts.weights_hash[:12] or 'unknown'}, "
                f"those of {meta.slide_id} are of {meta.model} with weights {meta.weights_hash[:12]}; extract the "
                "slide with that encoder, or train the probe with this one"
            )
        notes = []
        mpp, tile_px = facts.mpp, facts.tile_px
        if mpp is None:
            notes.append("the probe does not say at what resolution its tiles were (probe --mpp)")
        elif not 1 / _SCALE <= mpp / meta.target_mpp <= _SCALE:
            notes.append(f"the probe's tiles had {mpp:g} um/px, these patches {meta.target_mpp:g}")
        if not tile_px[0] / _SIZE <= meta.patch_px <= tile_px[1] * _SIZE:
            notes.append(f"the probe's tiles had {_between(tile_px)} px, these patches {meta.patch_px}")
        return notes

    def save(self, path: str | Path) -> None:
        """Write it as safetensors.

        Raises:
            StoreError: the file cannot be written.
        """
        arrays = {
            name: np.ascontiguousarray(getattr(self.linear, name), dtype=np.float64) for name in _ARRAYS
        }
        text = json.dumps({"schema": SCHEMA, **asdict(self.facts)}, sort_keys=True)
        write_atomic(Path(path), save(arrays, metadata={_KEY: text}))


def load_probe(path: str | Path) -> SavedProbe:
    """Read a probe that `wsi-vmamba probe --save` or ``wv.probe(...).save`` wrote.

    Returns:
        The probe: ``.classes``, ``.facts`` and ``.predict(features)``, features of patches (N, D) or a map (h, w, D).

    Raises:
        WeightsError: the file is missing, damaged or no probe.

    Example:
        >>> import wsi_vmamba as wv
        >>> tumour = wv.load_probe("tumour.safetensors")  # doctest: +SKIP
        >>> tumour.predict(wv.embed("slide.svs").features)[:, 1]  # doctest: +SKIP
        array([0.02, 0.91, ...])
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(
            f"no probe at {file.absolute()}; make one with `wsi-vmamba probe TILES --save FILE`"
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            written = (opened.metadata() or {}).get(_KEY)
            arrays = {name: np.asarray(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file}: cannot be read as a probe ({error}); make it again") from error
    if written is None or set(arrays) != set(_ARRAYS):
        raise WeightsError(f"{file} is no probe; make one with `wsi-vmamba probe TILES --save FILE`")
    return _rebuilt(json.loads(written), arrays, file)


def _rebuilt(values: dict[str, Any], arrays: dict[str, NDArray[np.float64]], file: Path) -> SavedProbe:
    schema = values.pop("schema", None)
    if schema != SCHEMA:
        raise WeightsError(f"{file}: expected a probe of schema {SCHEMA}, got {schema!r}; make it again")
    values["classes"], values["tile_px"] = tuple(values["classes"]), tuple(values["tile_px"])
    facts = ProbeFacts(**values)
    n_classes, width = len(facts.classes), len(arrays["mean"])
    expected = {"mean": (width,), "scale": (width,), "weight": (n_classes, width), "bias": (n_classes,)}
    if any(arrays[name].shape != shape for name, shape in expected.items()):
        raise WeightsError(f"{file}: its arrays do not fit each other; make it again")
    return SavedProbe(linear=LinearProbe(**arrays, penalty_c=facts.penalty_c, chosen_by="file"), facts=facts)


def _between(sides: Sequence[int]) -> str:
    return str(sides[0]) if sides[0] == sides[1] else f"{sides[0]} to {sides[1]}"
