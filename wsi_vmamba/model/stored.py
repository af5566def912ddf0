"""Weights that have a name: those in the user's folder, imported by `wsi-vmamba weights add`. No torch here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from wsi_vmamba.errors import WeightsError
from wsi_vmamba.home import user_folder

#: Keys of the header of a stored file.
VARIANT, DIGEST = "backbone", "sha256"
#: What stands where the digest will be while it is computed.
BLANK = "0" * 64
#: Words that `--weights` takes and that therefore name no weights.
WORDS = ("auto", "random")
_SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILES = frozenset({".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar", ".onnx"})
#: Headers of safetensors files are no longer than this.
_HEADER_BYTES = 100_000_000
_PIECE_BYTES = 2**20


def stored_folder() -> Path:
    """Where imported weights lie."""
    return user_folder() / "weights"


def stored_files() -> dict[str, Path]:
    """Name -> file of all imported weights, sorted."""
    files = sorted(stored_folder().glob(f"*{_SUFFIX}"))
    return {file.name.removesuffix(_SUFFIX): file for file in files if file.name[0] != "."}


def stored_path(name: str) -> Path:
    """The file that weights of that name have, whether they are there or not."""
    return stored_folder() / f"{name}{_SUFFIX}"


def is_name(text: str) -> bool:
    """Whether a text is a name of weights rather than a file's: no folder in it, no ending of a checkpoint."""
    return bool(_NAME.fullmatch(text)) and Path(text).suffix.lower() not in _FILES


def read_header(file: Path) -> Mapping[str, str]:
    """What a safetensors file says of itself, name -> text.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            content = opened.read(length) if length <= _HEADER_BYTES else b""
        found = json.loads(content).get("__metadata__", {})
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{file} is damaged: it has no header of a safetensors file") from error
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror})") from error
    return {str(key): str(value) for key, value in found.items()}


def digest_of(file: Path) -> str:
    """SHA-256 (hex) of a file as it was before its own digest was written into its header: zeros in that place.

    Raises:
        WeightsError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            length = opened.read(8)
            header = opened.read(min(int.from_bytes(length, "little"), _HEADER_BYTES))
            digest.update(
                length + re.sub(_digest_field(rb"[0-9a-f]{64}"), _digest_field(BLANK.encode()), header)
            )
            while piece := opened.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def with_digest(content: bytes) -> bytes:
    """The content of a safetensors file whose header holds `BLANK` under `DIGEST`, with its SHA-256 in that place."""
    blank, found = _digest_field(BLANK.encode()), hashlib.sha256(content).hexdigest()
    return content.replace(blank, _digest_field(found.encode()), 1)


def _digest_field(value: bytes) -> bytes:
    # Quotation marks inside other values are escaped, so this is the key itself wherever it is found.
    return b'"%s":"%s"' % (DIGEST.encode(), value)
