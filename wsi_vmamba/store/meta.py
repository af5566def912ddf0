"""What a feature file says about itself: enough to refuse mixing, nothing that changes from run to run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from wsi_vmamba.errors import StoreError, UsageError

#: Raised by one whenever the layout or the meaning of a stored field changes.
SCHEMA_VERSION = 2

#: The version of feature files whose patches were called cells.
_OF_CELLS = 1

#: Fields that may differ between a stored file and a new request: where the slide lay, what made the file.
NOT_SETTINGS = frozenset({"slide_path", "versions", "left_out", "stain"})

#: Fields that files of before they were recorded lack.
_ADDED_LATER = frozenset({"stain", "encoder"})


@dataclass(frozen=True, kw_only=True)
class FeatureMeta:
    """Attributes of a feature file.

    Attributes:
        slide_id: names the slide and the file.
        slide_path: where the slide was read from; not compared, slides may be moved.
        reader: name in the READERS table.
        mpp: micrometres per level-0 pixel, as resolved.
        mpp_source: where that value came from.
        target_mpp: micrometres per pixel the encoder saw.
        patch_px: side of one patch, pixels at ``target_mpp``.
        patch_l0: the same side in level-0 pixels; need not be whole.
        plan: the region plan, as JSON values.
        segmenter: name in the SEGMENTERS table, or "mask" and the start of the SHA-256 of the user's own.
        model: name of the encoder.
        weights_hash: sha-256 of its weights.
        precision: the arithmetic it ran in.
        versions: package -> version; not compared.
        left_out: what of the plan has no features, and why: empty, or ``patches`` as runs of [row, first column,
            count] on the patch grid and ``tiles``, each [level, x, y, width, height] in pixels of its level. Not
            compared.
        scene: which picture of the slide's file was read; 0 where it holds one.
        segmenter_settings: name -> number of what the segmenter went by; empty where it has none, or a mask was given.
        stain: what the stain of the slide is like, see `stains.describe_stain`; empty where it was not looked at. Not
            compared.
        encoder: what else makes the features what they are, of a network of timm: its version, how windows are resized
            and normalised, what is taken of its tokens. Empty of others.
        schema_version: layout of the file.
    """

    slide_id: str
    slide_path: str
    reader: str
    mpp: float
    mpp_source: str
    target_mpp: float
    patch_px: int
    patch_l0: float
    plan: Mapping[str, Any]
    segmenter: str
    model: str
    weights_hash: str
    precision: str
    versions: Mapping[str, str]
    left_out: Mapping[str, Any] = field(default_factory=dict)
    scene: int = 0
    segmenter_settings: Mapping[str, float] = field(default_factory=dict)
    stain: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.slide_id:
            raise UsageError("a feature file needs a slide_id, got an empty one")
        for name in ("mpp", "target_mpp", "patch_px", "patch_l0"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} of a feature file must be positive, got {value!r}")
        try:
            self.to_dict()
        except (TypeError, ValueError) as error:
            raise UsageError(f"the settings of a feature file must be plain JSON values: {error}") from error

    @property
    def n_left_out(self) -> int:
        """Patches of the plan that have no features."""
        return sum(count for _, _, count in self.left_out.get("patches", []))

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON values, keys sorted, so that equal settings give equal bytes."""
        # Not `asdict`: it copies every patch of the plan, which takes far longer than the rest of opening a file.
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        found: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False, sort_keys=True))
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object) -> Self:
        """Rebuild the attributes from a stored group.

        Args:
            values: the group's attributes.
            where: the file, for messages.

        Raises:
            StoreError: another schema version, or attributes that are missing, unknown or invalid.
        """
        version = values.get("schema_version")
        if version == _OF_CELLS:
            raise StoreError(
                f"{where}: made before a stored square was called a patch (cell_px is patch_px now); extract the slide "
                "again with --overwrite, or into another --out"
            )
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{where}: expected a feature file of schema version {SCHEMA_VERSION}, got {version!r}; "
                "extract the slide again with --overwrite, or into another --out"
            )
        expected = {known.name for known in fields(cls)}
        if odd_names := (expected ^ set(values)) - (_ADDED_LATER - set(values)):
            odd = ", ".join(sorted(odd_names))
            raise StoreError(
                f"{where}: missing or unknown attributes ({odd}); extract the slide again with --overwrite"
            )
        try:
            return cls(**values)
        except (UsageError, TypeError) as error:
            raise StoreError(
                f"{where}: damaged attributes ({error}); extract it again with --overwrite"
            ) from error


def differing_settings(stored: FeatureMeta, asked: FeatureMeta) -> list[str]:
    """Name each setting that differs, as ``name: stored X, asked Y``; a nested one as ``plan.region_px``."""
    return list(differences(_settings(stored), _settings(asked)))


def _settings(meta: FeatureMeta) -> dict[str, Any]:
    return {name: value for name, value in meta.to_dict().items() if name not in NOT_SETTINGS}


def differences(stored: object, asked: object, *, prefix: str = "") -> Iterator[str]:
    """Name each value of two nested mappings that differs, as ``name: stored X, asked Y``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            name = f"{prefix}.{key}" if prefix else key
            yield from differences(stored.get(key), asked.get(key), prefix=name)
    elif stored != asked:
        yield f"{prefix}: stored {_brief(stored)}, asked {_brief(asked)}"


def _brief(value: object, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
