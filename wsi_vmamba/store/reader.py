"""Open a feature file; files that are missing, damaged or made with other settings are refused, with the remedy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.errors import IncompatibleStoreError, StoreError
from wsi_vmamba.notebook import facts_html
from wsi_vmamba.store.meta import FeatureMeta, differing_settings

#: What zarr and its codecs raise on files that are gone, cut short or changed, beside errors of zarr's own.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class FeatureFile:
    """An open feature file; the arrays are read from disk when first used and kept.

    Attributes:
        path: the file.
        meta: its attributes.
        n_patches: number N of stored patches.
        dim: length D of one feature.
    """

    path: Path
    meta: FeatureMeta
    n_patches: int
    dim: int

    def __repr__(self) -> str:
        return f"<FeatureFile {self.path}: {self.n_patches} patches, {self.dim} features each, of {self.meta.model}>"

    @cached_property
    def features(self) -> NDArray[np.float16]:
        """Features, shape (N, D), float16.

        Raises:
            StoreError: a chunk is missing or damaged.
        """
        found: NDArray[np.float16] = self._read("features")
        return found

    @cached_property
    def coords_l0(self) -> NDArray[np.int64]:
        """Top-left corner (x, y) of each patch in level-0 pixels, shape (N, 2), int64.

        Raises:
            StoreError: a chunk is missing or damaged.
        """
        found: NDArray[np.int64] = self._read("coords_l0")
        return found

    def _repr_html_(self) -> str:
        return facts_html(
            str(self.path), describe_features(self.meta, n_patches=self.n_patches, dim=self.dim)
        )

    def _read(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(_open_whole_array(self.path, name)[:])
        except StoreError:
            raise
        except _damage() as error:
            raise _damaged(self.path, f"{name}: {_one_line(error)}") from error


def describe_features(meta: FeatureMeta, *, n_patches: int, dim: int) -> dict[str, str]:
    """What a person wants to know of the features of a slide, in words."""
    facts = {
        "slide": f"{meta.slide_path} ({meta.reader})",
        "patches": f"{n_patches} of {meta.patch_px} px at {meta.target_mpp:g} um/px, "
        f"{len(meta.plan.get('regions', []))} region(s)",
        "features": f"{dim} each, {meta.model} in {meta.precision}, weights {meta.weights_hash[:12]}",
        "level 0": f"{meta.mpp:g} um/px ({meta.mpp_source}); a patch is {meta.patch_l0:g} px",
        "tissue": meta.segmenter,
    }
    return facts | ({"left out": f"{meta.n_left_out} patches"} if meta.n_left_out else {})


def open_features(path: str | Path) -> FeatureFile:
    """Open a feature file and check that it is whole; the content of the chunks is checked when read.

    Raises:
        StoreError: there is no such file, it lacks parts, is damaged, or is of another schema version.
    """
    path = Path(path)
    inside = [] if (path / "zarr.json").exists() or not path.is_dir() else sorted(path.glob("*.zarr"))
    if inside:
        raise StoreError(
            f"{path} is a folder of {len(inside)} feature files; name one of them, as {inside[0]}"
        )
    meta = _read_meta(path)
    try:
        for name in ("features", "coords_l0"):
            _read_object(path / name / "zarr.json")
        features = _open_whole_array(path, "features")
        coords_l0 = _open_whole_array(path, "coords_l0")
    except StoreError:
        raise
    except _damage() as error:
        raise _damaged(path, _one_line(error)) from error
    shapes = (features.shape, features.dtype.name, coords_l0.shape, coords_l0.dtype.name)
    if (
        len(features.shape) != 2
        or 0 in features.shape
        or shapes[1:] != ("float16", (features.shape[0], 2), "int64")
    ):
        raise _damaged(path, f"expected float16 (N, D) and int64 (N, 2), got {shapes}")
    return FeatureFile(path=path, meta=meta, n_patches=features.shape[0], dim=features.shape[1])


def is_complete(path: Path) -> bool:
    """Whether a feature file exists under its final name, which means that it was written completely."""
    return path.is_dir()


def check_compatible(path: Path, meta: FeatureMeta) -> None:
    """Refuse to take an existing feature file for the one that ``meta`` would make.

    Raises:
        IncompatibleStoreError: settings differ; each is named with both values.
        StoreError: the file is missing or damaged.
    """
    differing = differing_settings(open_features(path).meta, meta)
    if differing:
        raise IncompatibleStoreError(
            f"{path} was made with other settings ({'; '.join(differing)}); "
            "choose another --out, or replace it with --overwrite"
        )


def _read_meta(path: Path) -> FeatureMeta:
    if not path.is_dir():
        raise StoreError(f"no feature file at {path}; make it with `wsi-vmamba extract`")
    try:
        attributes = dict(_read_object(path / "zarr.json")["attributes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"zarr.json: {_one_line(error)}") from error
    return FeatureMeta.from_dict(attributes, where=path)


def _read_object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise TypeError(f"{path.parent.name}: expected a JSON object, got a {type(found).__name__}")
    return found


def _damage() -> tuple[type[Exception], ...]:
    from zarr.errors import BaseZarrError

    return (*_DAMAGE, BaseZarrError)


def _open_whole_array(path: Path, name: str) -> Any:
    """An array of a feature file, all of whose chunks are there."""
    # Half a second, which those who look at no feature file need not wait.
    import zarr

    array = zarr.open_array(path / name, mode="r")
    # zarr reads a chunk that is not there as zeros, which would pass for features.
    missing = array.nchunks - array.nchunks_initialized
    if missing:
        raise _damaged(path, f"{name}: {missing} of {array.nchunks} chunks are missing")
    return array


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged ({what}); extract the slide again with --overwrite")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
