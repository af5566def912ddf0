"""Data sets: each gives the records (slide, label, patient, split) that training and evaluation work on."""

from __future__ import annotations

from wsi_vmamba.registry import Table

#: Each resolves to ``load(*, manifest: Path | None = None, root: Path | None = None) -> list[SlideRecord]``.
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

__all__ = ["DATASETS", "FEATURE_TABLES", "REMOTE_DATASETS"]
