"""Where the descriptor and the tiles of a Deep Zoom slide lie: a folder or a zip, with the same two questions."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from wsi_vmamba.errors import UnreadableSlideError
from wsi_vmamba.slide.deepzoom import DESCRIPTOR, TILES_FOLDER, descriptors_in
from wsi_vmamba.slide.deepzoom.descriptor import MAX_DESCRIPTOR_BYTES
from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.shared_file import failed_read
from wsi_vmamba.slide.zips import ZIP_MAGIC, check_zip

#: What a damaged zip raises while an entry is read: a wrong checksum, data that do not inflate or end too soon, an odd
#: compression, a password.
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class TileFiles(Protocol):
    """Files of one Deep Zoom slide."""

    #: The descriptor, not yet looked at.
    descriptor: bytes

    def has_level(self, number: int) -> bool:
        """Whether there is a folder of a level, by Deep Zoom's number."""

    def tile_sizes(self, number: int) -> Iterator[int]:
        """Bytes of each of the files of a level, in any order."""

    def read(self, number: int, name: str, *, max_bytes: int) -> bytes | None:
        """The file of a tile, None where there is none.

        Raises:
            DamagedTileError: it cannot be read, or is larger than ``max_bytes``.
            UnreadableSlideError: the slide went away or is closed.
        """

    def beside(self, name: str, *, max_bytes: int) -> bytes | None:
        """A file that lies among the folders of the levels; None where there is none that can be read."""

    def close(self) -> None:
        """Let go of the files."""


def open_files(path: Path) -> TileFiles:
    """Find the files of a descriptor or a zip.

    Raises:
        UnreadableSlideError: they are not there, or the zip is damaged or malicious.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == ZIP_MAGIC
        return ZipFiles(path) if is_zip else FolderFiles(path)
    except FileNotFoundError as error:
        raise UnreadableSlideError(path, "no such file") from error
    except zipfile.BadZipFile as error:
        raise UnreadableSlideError(path, f"the zip is damaged or cut short ({error})") from error
    except OSError as error:
        if isinstance(error, UnreadableSlideError):
            raise
        raise UnreadableSlideError(path, f"cannot read the file ({error.strerror})") from error


class FolderFiles:
    """A descriptor with the folder ``_files`` beside it."""

    def __init__(self, path: Path) -> None:
        """Look for the folder."""
        self._path = path
        # Descriptors in JSON may be called .json or .dzi.json.
        stem = path.stem if path.suffix.lower() == DESCRIPTOR else path.stem.removesuffix(DESCRIPTOR)
        self._tiles = path.with_name(f"{stem}{TILES_FOLDER}")
        with path.open("rb") as file:
            self.descriptor = file.read(MAX_DESCRIPTOR_BYTES + 1)
        if not self._tiles.is_dir():
            raise UnreadableSlideError(
                path, f"the folder {self._tiles.name} with the tiles is not beside it; copy both"
            )
        self._closed = False

    def has_level(self, number: int) -> bool:
        """Whether there is a folder of a level."""
        return (self._tiles / str(number)).is_dir()

    def tile_sizes(self, number: int) -> Iterator[int]:
        """Bytes of each of the files of a level."""
        with os.scandir(self._tiles / str(number)) as entries:
            for entry in entries:
                yield entry.stat().st_size

    def read(self, number: int, name: str, *, max_bytes: int) -> bytes | None:
        """The file of a tile; see `TileFiles`."""
        return self._read(f"{number}/{name}", max_bytes)

    def beside(self, name: str, *, max_bytes: int) -> bytes | None:
        """A file among the folders of the levels; see `TileFiles`."""
        try:
            return self._read(name, max_bytes)
        except DamagedTileError:
            return None

    def _read(self, name: str, max_bytes: int) -> bytes | None:
        if self._closed:
            raise _closed_error(self._path)
        try:
            # Not to hang where it is a named pipe.
            descriptor = os.open(self._tiles / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self._tiles.is_dir():
                raise UnreadableSlideError(self._path, "it went away while it was read") from error
            return None
        except OSError as error:
            raise DamagedTileError(f"its file cannot be opened ({error.strerror})") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DamagedTileError("there is something else than a file in its place")
            _check_bytes(status.st_size, max_bytes)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(max_bytes)
        except OSError as error:
            raise failed_read(self._path, error) from error
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Refuse further reads."""
        self._closed = True


class ZipFiles:
    """A zip that holds one descriptor and its folder ``_files``, such as ``.dzi.zip`` or ``.szi``."""

    def __init__(self, path: Path) -> None:
        """Read the directory of the zip."""
        check_zip(path)
        self._path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = zipfile.ZipFile(path)
        entries = {entry.filename: entry for entry in self._archive.infolist()}
        found = descriptors_in(list(entries))
        if len(found) != 1:
            self._archive.close()
            held = (
                f"{len(found)} Deep Zoom slides ({', '.join(found[:5])})" if found else "no Deep Zoom slide"
            )
            raise UnreadableSlideError(
                path, f"expected one slide in a zip, it holds {held}; make a zip of each"
            )
        self._tiles = f"{found[0].removesuffix(DESCRIPTOR)}{TILES_FOLDER}/"
        self._entries = {
            name.removeprefix(self._tiles): entry
            for name, entry in entries.items()
            if name.startswith(self._tiles) and not entry.is_dir()
        }
        self._levels = {name.partition("/")[0] for name in self._entries}
        try:
            self.descriptor = self._inflate(entries[found[0]], MAX_DESCRIPTOR_BYTES)
        except DamagedTileError as error:
            self._archive.close()
            raise UnreadableSlideError(path, f"the descriptor in the zip is damaged: {error}") from error

    def has_level(self, number: int) -> bool:
        """Whether there are files of a level."""
        return str(number) in self._levels

    def tile_sizes(self, number: int) -> Iterator[int]:
        """Bytes of each of the files of a level, compressed."""
        return (entry.compress_size for name, entry in self._entries.items() if name.startswith(f"{number}/"))

    def read(self, number: int, name: str, *, max_bytes: int) -> bytes | None:
        """The file of a tile; see `TileFiles`."""
        entry = self._entries.get(f"{number}/{name}")
        return None if entry is None else self._inflate(entry, max_bytes)

    def beside(self, name: str, *, max_bytes: int) -> bytes | None:
        """A file among the folders of the levels; see `TileFiles`."""
        try:
            return self._inflate(self._entries[name], max_bytes) if name in self._entries else None
        except DamagedTileError:
            return None

    def _inflate(self, entry: zipfile.ZipInfo, max_bytes: int) -> bytes:
        _check_bytes(entry.file_size, max_bytes)
        with self._lock:  # closing waits for running reads
            if self._archive is None:
                raise _closed_error(self._path)
            try:
                return self._archive.read(entry)
            except _ZIP_DAMAGE as error:
                raise DamagedTileError(f"its entry in the zip is damaged ({error})") from error
            except OSError as error:
                raise failed_read(self._path, error) from error

    def close(self) -> None:
        """Close the zip once running reads are done."""
        with self._lock:
            if self._archive is not None:
                self._archive.close()
                self._archive = None


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DamagedTileError(
            f"its file has {size} bytes, expected at most {max_bytes} for a tile of its size"
        )


def _closed_error(path: Path) -> UnreadableSlideError:
    return UnreadableSlideError(path, "the slide is closed; open it again to read")
