"""Public data sets: where their files are, which of them belong to which slide, and what they must hash to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from wsi_vmamba.datasets.bucket import Bucket, RemoteFile
from wsi_vmamba.errors import DownloadError, UsageError


@dataclass(frozen=True, kw_only=True)
class RemoteDataset:
    """A data set in a public bucket.

    Attributes:
        name: of the data set, as in messages.
        bucket: name of the bucket.
        region: where it is.
        prefix: what the keys of the data set begin with, ending in a slash.
        images: folder of the slides below the prefix.
        annotations: folder of the outlines below the prefix.
        checksums: file below the prefix with lines "MD5 path", the paths relative to the prefix.
        slide_ids: every slide, in order.
        source: where these facts are from.
    """

    name: str
    bucket: str
    region: str
    prefix: str
    images: str
    annotations: str
    checksums: str
    slide_ids: tuple[str, ...]
    source: str

    def open(self, *, endpoint_url: str | None = None) -> Bucket:
        """Connect to the bucket, or to one of the same name on another server."""
        return Bucket(self.bucket, region=self.region, endpoint_url=endpoint_url)

    def choose(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Slides by name or pattern (``test_*``), several of them divided by commas; all for an empty list.

        Raises:
            UsageError: a name or pattern fits no slide.
        """
        wanted = [name.strip() for item in wanted for name in item.split(",")]
        if not wanted:
            return self.slide_ids
        for pattern in wanted:
            if not any(fnmatchcase(slide_id, pattern) for slide_id in self.slide_ids):
                near = get_close_matches(pattern, self.slide_ids, n=3)
                hint = f"; did you mean {', '.join(near)}?" if near else ""
                raise UsageError(f"{self.name} has no slide {pattern!r}{hint}")
        return tuple(
            slide_id for slide_id in self.slide_ids if any(fnmatchcase(slide_id, one) for one in wanted)
        )

    def files(
        self, bucket: Bucket, slide_ids: Sequence[str], *, annotations: bool
    ) -> dict[PurePosixPath, RemoteFile]:
        """Files of the slides by their path below the prefix; outlines where a slide has them.

        Raises:
            DownloadError: the bucket cannot be listed, or lacks a slide.
        """
        folders = [self.images, self.annotations] if annotations else [self.images]
        chosen = set(slide_ids)
        found = {
            PurePosixPath(file.key).relative_to(self.prefix): file
            for folder in folders
            for file in bucket.list(f"{self.prefix}{folder}/")
            if PurePosixPath(file.key).stem in chosen
        }
        absent = sorted(chosen - {path.stem for path in found if str(path.parent) == self.images})
        if absent:
            raise DownloadError(
                f"s3://{self.bucket}/{self.prefix}{self.images}: {len(absent)} slides are not there "
                f"({', '.join(absent[:5])}); the layout of the bucket may have changed"
            )
        return found

    def read_checksums(self, bucket: Bucket) -> dict[PurePosixPath, str]:
        """MD5 of every file that the publishers list, by its path below the prefix; empty where they list none."""
        content = bucket.read(f"{self.prefix}{self.checksums}")
        return parse_checksums(content.decode("utf-8", "replace")) if content else {}


def parse_checksums(text: str) -> dict[PurePosixPath, str]:
    """Read the lines of md5sum ("hash  path" or "hash *path"); anything else is passed over."""
    found = {}
    for line in text.splitlines():
        digest, _, path = line.strip().partition(" ")
        if len(digest) == 32 and path.strip(" *"):
            found[PurePosixPath(path.lstrip(" *"))] = digest.lower()
    return found
