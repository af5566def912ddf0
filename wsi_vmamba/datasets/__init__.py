"""Data sets: each gives the records (slide, label, patient, split) that training and evaluation work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_vmamba.errors import UsageError
from wsi_vmamba.registry import Table

if TYPE_CHECKING:
    from wsi_vmamba.records import SlideRecord

#: Each resolves to ``load(*, manifest: Path | None = None, root: Path | None = None) -> list[SlideRecord]``; one whose
#: classes the user may name also takes ``classes: Sequence[str] = ()``.
DATASETS = Table(
    "dataset",
    {
        "camelyon16": "wsi_vmamba.datasets.camelyon16:load",
        "camelyon17": "wsi_vmamba.datasets.camelyon17:load",
        # A generated cohort is described by the manifest its generator writes.
        "synthetic": "wsi_vmamba.datasets.csv:load",
        "csv": "wsi_vmamba.datasets.csv:load",
        # One row of numbers a slide, in place of feature files.
        "csv_features": "wsi_vmamba.datasets.csv:load",
    },
)

#: Data sets whose slides are rows of numbers; a classifier takes the place of an aggregator.
FEATURE_TABLES = frozenset({"csv_features"})

#: Data sets that can be downloaded; each resolves to a `RemoteDataset`.
REMOTE_DATASETS = Table("public data set", {"camelyon16": "wsi_vmamba.datasets.camelyon16_remote:REMOTE"})

__all__ = ["DATASETS", "FEATURE_TABLES", "REMOTE_DATASETS", "load_dataset"]


def load_dataset(name: str, *, manifest: Path | None, classes: Sequence[str] = ()) -> list[SlideRecord]:
    """Return the slides of a data set.

    Args:
        name: in DATASETS.
        manifest: in place of the data set's own.
        classes: names of its classes in their order, where the user names them.

    Raises:
        UsageError: classes are named, and the data set has some of its own.
    """
    load: Callable[..., list[SlideRecord]] = DATASETS.resolve(name)
    if not classes:
        return load(manifest=manifest)
    if "classes" not in signature(load).parameters:
        raise UsageError(f"the data set {name} has classes of its own; leave out --class")
    return load(manifest=manifest, classes=tuple(classes))
