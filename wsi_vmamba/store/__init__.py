"""The feature store: one zarr v3 group per slide, whole or absent, made once, never mixed.

Layout of ``<slide_id>.zarr``: ``features`` (N, D) float16 in chunks of 512 rows, ``coords_l0`` (N, 2) int64
with the top-left corner (x, y) of each patch in level-0 pixels, and the group attributes of `FeatureMeta`.
Every chunk carries a CRC-32C. The content depends on slide and settings only: no times, no host names. Until a slide is
whole, its regions are in a journal beside it.
"""

from wsi_vmamba.store.claims import Claim, end_dead_claims, require_short_name, take_claim
from wsi_vmamba.store.journal import Kept, RegionJournal, count_kept, open_journal, remove_journal
from wsi_vmamba.store.journal_file import DoneRegion
from wsi_vmamba.store.meta import SCHEMA_VERSION, FeatureMeta
from wsi_vmamba.store.partial_folder import remove_stale_partials
from wsi_vmamba.store.reader import (
    FeatureFile,
    check_compatible,
    describe_features,
    is_complete,
    open_features,
)
from wsi_vmamba.store.values import as_stored
from wsi_vmamba.store.writer import FeatureWriter

__all__ = [
    "SCHEMA_VERSION",
    "Claim",
    "DoneRegion",
    "FeatureFile",
    "FeatureMeta",
    "FeatureWriter",
    "Kept",
    "RegionJournal",
    "as_stored",
    "check_compatible",
    "count_kept",
    "describe_features",
    "end_dead_claims",
    "is_complete",
    "open_features",
    "open_journal",
    "remove_journal",
    "remove_stale_partials",
    "require_short_name",
    "take_claim",
]
