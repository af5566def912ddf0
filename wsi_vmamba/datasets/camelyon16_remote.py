"""Where the files of CAMELYON16 are."""

from __future__ import annotations

from wsi_vmamba.datasets.camelyon16 import manifest_rows
from wsi_vmamba.datasets.remote import RemoteDataset

#: Layout of the bucket as public code that downloads from it uses it; it was not reached while this was written.
REMOTE = RemoteDataset(
    name="camelyon16",
    bucket="camelyon-dataset",
    region="us-west-2",
    prefix="CAMELYON16/",
    images="images",
    annotations="annotations",
    checksums="checksums.md5",
    slide_ids=tuple(row[0] for row in manifest_rows()),
    source="https://registry.opendata.aws/camelyon/ (CC0), https://camelyon17.grand-challenge.org/Data/",
)
