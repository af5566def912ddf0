"""Write one feature file: append while regions come, commit once; until then nothing has the final name."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.durable import describe_os_error
from wsi_vmamba.errors import StoreError, UsageError
from wsi_vmamba.store.meta import FeatureMeta
from wsi_vmamba.store.partial_folder import PartialFolder
from wsi_vmamba.store.reader import check_compatible
from wsi_vmamba.store.values import as_stored

#: Rows per chunk of ``features`` and of ``coords_l0``.
CHUNK_ROWS = 512
COORD_CHUNK_ROWS = 8192


class FeatureWriter:
    """Context manager that writes one feature file; leaving it without `commit` removes what was written.

    Example:
        with FeatureWriter(path, meta, dim) as writer:
            writer.append(features, coords_l0)
            writer.commit()
    """

    def __init__(self, path: Path, meta: FeatureMeta, dim: int, *, overwrite: bool = False) -> None:
        """Keep the settings; nothing is written to disk before ``with``.

        Args:
            path: final name, ``<features>/<slide_id>.zarr``.
            meta: the attributes.
            dim: length D of one feature.
            overwrite: replace an existing file on commit; it stays whole until then.
        """
        if dim <= 0:
            raise UsageError(f"a feature needs a positive length, got dim={dim}")
        self.path = path
        self.meta = meta
        self.dim = dim
        self.overwrite = overwrite
        self._partial: PartialFolder | None = None
        self._features: Any = None
        self._rows = 0
        self._pending: list[NDArray[np.float16]] = []
        self._coords: list[NDArray[np.int64]] = []

    def __enter__(self) -> Self:
        # Half a second, which those who only look, or keep features in memory, need not wait.
        import zarr

        if self.path.exists() and not self.overwrite:
            raise StoreError(
                f"{self.path} exists already; skip the slide, use --overwrite, or choose another --out"
            )
        try:
            self._partial = PartialFolder(self.path)
            group = zarr.create_group(self._partial.path, attributes=self.meta.to_dict())
            self._features = _create(group, "features", np.zeros((0, self.dim), np.float16), CHUNK_ROWS)
        except OSError as error:
            self._abort()
            raise self._failure(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abort()

    def append(self, features: NDArray[np.floating[Any]], coords_l0: NDArray[np.int64]) -> None:
        """Add patches; their order in the file is the order of the calls.

        Args:
            features: (n, D) floating point; stored as float16.
            coords_l0: (n, 2) int64, top-left corner (x, y) of each patch in level-0 pixels.

        Raises:
            UsageError: shapes or types do not match.
            StoreError: a value is not finite or does not fit float16, or the disk refuses.
        """
        if self._partial is None:
            raise UsageError(f"{self.path}: append only inside the with block and before commit")
        self._check(features, coords_l0)
        self._pending.append(as_stored(features, coords_l0, where=self.path, model=self.meta.model))
        self._coords.append(coords_l0.copy())
        waiting = sum(len(block) for block in self._pending)
        if waiting >= CHUNK_ROWS:
            self._flush(waiting - waiting % CHUNK_ROWS)

    def commit(self, *, left_out: Mapping[str, Any] | None = None) -> None:
        """Write what is left, make it durable and give it its final name.

        When another run has published the same file with the same settings meanwhile, that one stays.

        Args:
            left_out: what turned out to have no features, see `FeatureMeta`; nothing unless given.

        Raises:
            StoreError: nothing was appended, or the disk refuses; the partial file is gone.
            IncompatibleStoreError: another run has published the file with other settings meanwhile.
        """
        if self._partial is None:
            raise UsageError(f"{self.path}: commit once, inside the with block")
        if not self._coords or not sum(map(len, self._coords)):
            raise StoreError(f"{self.path}: no patch was appended; an empty feature file is never written")
        self._flush(sum(len(block) for block in self._pending))
        import zarr

        if left_out:
            self.meta = replace(self.meta, left_out=left_out)
        try:
            coords_l0 = np.concatenate(self._coords)
            group = zarr.open_group(self._partial.path, mode="r+")
            _create(group, "coords_l0", coords_l0, COORD_CHUNK_ROWS)
            if left_out:
                group.attrs.put(self.meta.to_dict())
            self._publish(self._partial)
        except OSError as error:
            self._abort()
            raise error if isinstance(error, StoreError) else self._failure(error) from error
        self._partial = None

    def _publish(self, partial: PartialFolder) -> None:
        try:
            partial.publish(replace=self.overwrite)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            check_compatible(self.path, self.meta)
            partial.discard()

    def _flush(self, n_rows: int) -> None:
        """Write the first ``n_rows`` waiting rows; all but the last call write whole chunks."""
        if n_rows == 0:
            return
        waiting = np.concatenate(self._pending)
        try:
            self._features.resize((self._rows + n_rows, self.dim))
            self._features[self._rows :] = waiting[:n_rows]
        except OSError as error:
            self._abort()
            raise self._failure(error) from error
        self._rows += n_rows
        self._pending = [waiting[n_rows:]]

    def _check(self, features: NDArray[np.floating[Any]], coords_l0: NDArray[np.int64]) -> None:
        if (
            features.ndim != 2
            or features.shape[1] != self.dim
            or not np.issubdtype(features.dtype, np.floating)
        ):
            raise UsageError(
                f"{self.path}: expected features of shape (n, {self.dim}), floating point; "
                f"got {features.shape} {features.dtype}"
            )
        if coords_l0.shape != (len(features), 2) or coords_l0.dtype != np.int64:
            raise UsageError(
                f"{self.path}: expected coords_l0 of shape ({len(features)}, 2), int64; "
                f"got {coords_l0.shape} {coords_l0.dtype}"
            )

    def _abort(self) -> None:
        if self._partial is not None:
            self._partial.discard()
            self._partial = None

    def _failure(self, error: OSError) -> StoreError:
        if isinstance(error, StoreError):
            return error
        return StoreError(
            f"cannot write {self.path}: {describe_os_error(error, folder=self.path.parent)}; no partial file is left"
        )


def _create(group: Any, name: str, data: NDArray[Any], chunk_rows: int) -> Any:
    """Create an array of the group; every chunk is written, even zeros, so that a missing one is noticed."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return group.create_array(
        name,
        data=data,
        chunks=(chunk_rows, data.shape[1]),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
