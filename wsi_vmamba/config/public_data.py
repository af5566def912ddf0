"""Settings of `download` and `check`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_vmamba.config.base import RunConfig
from wsi_vmamba.config.fields import PathText, PublicDataset
from wsi_vmamba.config.marks import Argument, Option


class DownloadConfig(RunConfig):
    """`wsi-vmamba download`: the files of a public data set to a folder."""

    dataset: Annotated[PublicDataset, Argument()]
    """Name of a public data set."""
    to: PathText
    """Folder for the files; what is there already is kept."""
    slides: list[str] = Field(default_factory=list)
    """Only these slides or patterns (a,b or test_*); may be repeated."""
    annotations: bool = True
    """Fetch the outlines of lesions too."""
    workers: Annotated[int, Field(ge=1, le=32)] = 4
    """Files fetched at the same time."""
    endpoint_url: str | None = None
    """Another S3 server that holds the bucket; by default Amazon's."""


class CheckConfig(RunConfig):
    """`wsi-vmamba check`: whether a data set is complete and sound in a folder."""

    dataset: Annotated[PublicDataset, Argument()]
    """Name of a public data set."""
    folder: Annotated[PathText, Argument()]
    """Folder with its files, as `download` lays them out."""
    slides: list[str] = Field(default_factory=list)
    """Only these slides or patterns (a,b or test_*); may be repeated."""
    checksums: bool = False
    """Also hash every file whose checksum is known; takes hours."""
    json_out: Annotated[PathText | None, Option("--json", metavar="FILE")] = None
    """Write the findings as JSON to this file."""
