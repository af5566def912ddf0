"""Whether the features of the slides that a data set names are on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_vmamba.bags import other_names
from wsi_vmamba.errors import MissingDataError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.store import is_complete

#: Where to get the slides of data sets that are public.
SOURCES = {
    "camelyon16": (
        "The CAMELYON16 slides are public (CC0, https://camelyon17.grand-challenge.org/Data/): "
        "`wsi-vmamba download camelyon16 --to DIR` fetches them"
    )
}


def require_features(records: Sequence[SlideRecord], features_dir: Path, *, dataset: str) -> None:
    """Refuse to go on unless every slide has a complete feature file.

    Raises:
        MissingDataError: which slides, where they were looked for, and what to run.
    """
    slides = [slide.slide_id for record in records for slide in record.slides]
    missing = [name for name in slides if not is_complete(features_dir / f"{name}.zarr")]
    if missing:
        raise MissingDataError(
            f"{dataset}: {len(missing)} of {len(slides)} slides have no features ({_first(missing)}); "
            f"looked for <slide_id>.zarr in {features_dir.absolute()}; {other_names(missing, features_dir)}make "
            f"them with `wsi-vmamba extract SLIDES --out {features_dir}`, SLIDES being the folder of the slides; "
            f"finished ones are skipped.{_source(dataset)}"
        )


def _first(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _source(dataset: str) -> str:
    return f" {SOURCES[dataset]}" if dataset in SOURCES else ""
