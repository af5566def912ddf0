"""JPEG XR tiles, decoded in a process of their own: on damaged data the decoder ends the process that it runs in.

Tried with jxrlib as imagecodecs 2026.3.6 ships it: of some hundred damaged tiles one divides by zero, reads where it
must not or never ends.
"""

from __future__ import annotations

import atexit
import os
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_vmamba.slide.jpeg import DamagedTileError
from wsi_vmamba.slide.jpegxr_helper import ANSWER, REQUEST

_HELPER = Path(__file__).with_name("jpegxr_helper.py")
#: A tile takes milliseconds.
_LONGEST_S = 20.0
#: Tags of the directory that JPEG XR data begin with.
_OFFSET, _LENGTH = 0xBCC0, 0xBCC1
_MAX_TAGS = 64


def decode_jpegxr(data: bytes, *, height_px: int, width_px: int, samples: int) -> NDArray[np.uint8]:
    """Decode one picture of exactly that size to (h, w, samples).

    Raises:
        DamagedTileError: cut short, damaged, or of another size.
    """
    _check_whole(data)
    pixels = _DECODER.decode(data, (height_px, width_px, samples))
    return np.frombuffer(pixels, dtype=np.uint8).reshape(height_px, width_px, samples)


def _check_whole(data: bytes) -> None:
    """Follow the directory to the end of the compressed part: the decoder fills up what is missing without a word.

    Raises:
        DamagedTileError: it is cut short, or the directory before it is damaged.
    """
    if data[:3] != b"II\xbc" or len(data) < 8:
        raise DamagedTileError(f"expected JPEG XR data, found bytes {data[:4].hex(' ')}")
    (at,) = struct.unpack_from("<I", data, 4)
    count = struct.unpack_from("<H", data, at)[0] if at + 2 <= len(data) else 0
    if not 0 < count <= _MAX_TAGS or at + 2 + 12 * count > len(data):
        raise DamagedTileError("the directory of JPEG XR data is damaged or cut short")
    tags = {}
    for entry in range(count):
        tag, _, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * entry)
        tags[tag] = value
    start, length = tags.get(_OFFSET, 0), tags.get(_LENGTH, 0)
    if not start or not length or start + length > len(data):
        raise DamagedTileError(f"JPEG XR data should end at byte {start + length}, they end at {len(data)}")


class _Decoder:
    """The process that decodes; started with the first tile, and again when a tile has ended it. One tile at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, data: bytes, shape: tuple[int, int, int]) -> bytes:
        """Pixels of one tile.

        Raises:
            DamagedTileError: the data are damaged.
        """
        with self._lock:
            process = self._running()
            try:
                answer = _ask(process, data, shape)
            except (EOFError, BrokenPipeError, TimeoutError) as error:
                self._end()
                raise DamagedTileError("JPEG XR data ended or stopped their decoder") from error
        if isinstance(answer, str):
            raise DamagedTileError(f"JPEG XR data do not decode ({answer})")
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        """The process of this process: one that was forked has to start its own."""
        if self._process is None or self._owner != os.getpid():
            # -P: the folder of the script holds modules that are named as libraries are.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_HELPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._owner = os.getpid()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was left to send has nobody to go to
                    continue

    def close(self) -> None:
        """End the process, at the end of this one."""
        with self._lock:
            self._end()


def _ask(process: subprocess.Popen[bytes], data: bytes, shape: tuple[int, int, int]) -> bytes | str:
    """Pixels, or what the decoder says is wrong."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(REQUEST.pack(len(data), *shape) + data)
    process.stdin.flush()
    if not select.select([process.stdout], [], [], _LONGEST_S)[0]:
        raise TimeoutError
    (words,) = ANSWER.unpack(_read(process.stdout.fileno(), ANSWER.size))
    if words:
        return _read(process.stdout.fileno(), words).decode(errors="replace")
    return _read(process.stdout.fileno(), shape[0] * shape[1] * shape[2])


def _read(descriptor: int, length: int) -> bytes:
    parts: list[bytes] = []
    missing = length
    while missing:
        part = os.read(descriptor, missing)
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


_DECODER = _Decoder()
atexit.register(_DECODER.close)
