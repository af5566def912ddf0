"""A public S3 bucket, read without an account; needs the extra `download` (botocore)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wsi_vmamba.errors import DownloadError, UsageError

try:
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    available = True
except ImportError:
    available = False

#: Seconds without a byte after which a connection counts as dead.
READ_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One object of a bucket; ``etag`` changes whenever its content does."""

    key: str
    size_bytes: int
    etag: str

    @property
    def md5(self) -> str | None:
        """The MD5 that the tag is for objects uploaded in one piece; None for others."""
        return None if "-" in self.etag else self.etag


class Bucket:
    """Listing and reading of one bucket."""

    def __init__(self, name: str, *, region: str, endpoint_url: str | None = None) -> None:
        """Connect without credentials; ``endpoint_url`` names another server than Amazon's.

        Raises:
            UsageError: the extra is not installed.
        """
        if not available:
            raise UsageError("downloading needs botocore: pip install 'wsi-vmamba[download]'")
        self.name = name
        config = Config(
            signature_version=UNSIGNED,
            read_timeout=READ_TIMEOUT_S,
            retries={"max_attempts": 5, "mode": "standard"},
            max_pool_connections=32,
        )
        session = botocore.session.get_session()
        self._client: Any = session.create_client(
            "s3", region_name=region, endpoint_url=endpoint_url, config=config
        )

    def list(self, prefix: str) -> list[RemoteFile]:
        """Every object whose key begins with ``prefix``.

        Raises:
            DownloadError: the bucket cannot be listed.
        """
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            return [
                RemoteFile(key=item["Key"], size_bytes=item["Size"], etag=item["ETag"].strip('"'))
                for page in pages
                for item in page.get("Contents", ())
            ]
        except (BotoCoreError, ClientError) as error:
            raise DownloadError(f"s3://{self.name}/{prefix}: cannot be listed: {error}") from error

    def read(self, key: str) -> bytes | None:
        """The whole of a small object; None where there is none.

        Raises:
            DownloadError: it cannot be read.
        """
        try:
            content: bytes = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise DownloadError(f"s3://{self.name}/{key}: {error}") from error
        return content

    def stream(self, file: RemoteFile, *, start: int, piece_bytes: int) -> Iterator[bytes]:
        """Yield the object from byte ``start`` on, refusing one that was replaced since it was listed.

        Raises:
            DownloadError: the connection broke, or the object is another one now.
        """
        try:
            answer = self._client.get_object(
                Bucket=self.name, Key=file.key, Range=f"bytes={start}-", IfMatch=f'"{file.etag}"'
            )
            yield from answer["Body"].iter_chunks(piece_bytes)
        except (BotoCoreError, ClientError) as error:
            raise DownloadError(f"s3://{self.name}/{file.key}: {error}") from error
