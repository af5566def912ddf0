"""Import weights from a name of the table, a URL or a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.errors import DownloadError, UnknownNameError, UsageError, WeightsError
from wsi_vmamba.model.releases import RELEASES
from wsi_vmamba.model.shipped import split_choice
from wsi_vmamba.model.stored import is_name, stored_folder
from wsi_vmamba.weights.convert import Converted, convert
from wsi_vmamba.weights.keep import check_name, keep, sha256_of
from wsi_vmamba.weights.web import download, file_name, is_url

UNSTATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Added:
    """What was imported: under which name, to which file, and what the checkpoint held."""

    name: str
    file: Path
    converted: Converted
    licence: str


def add(
    source: str,
    *,
    name: str | None = None,
    licence: str | None = None,
    part: str | None = None,
    sha256: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Added:
    """Import a checkpoint; a download is removed once it is imported, a file of the user's is left alone.

    Args:
        source: a name of `RELEASES`, a URL, or a file; with ``#NAME`` behind a file, that of its state dicts.
        name: what to call the weights; by default the name in the table, else that of the file.
        licence: of the weights; by default what the table says.
        part: see `convert`.
        sha256: what the checkpoint must hash to.
        overwrite: replace weights of that name.
        say: called with a line before a download.

    Raises:
        UsageError: the name cannot be used, or ``source`` is neither a name, a URL nor a file.
        DownloadError: the download failed.
        WeightsError: the checkpoint does not hash to ``sha256``, is not safe to load, or is of no variant.
    """
    release = RELEASES.get(source)
    url = release.url if release else source if is_url(source) else None
    if url is None and not split_choice(source)[0].is_file():
        if is_name(source):
            raise UnknownNameError("weights", source, RELEASES)
        raise UsageError(
            f"no weights file at {Path(source).absolute()}; give a file, a URL, or one of {', '.join(RELEASES)}"
        )
    name = name or (source if release else _name_of(file_name(url) if url else split_choice(source)[0].name))
    check_name(name, overwrite=overwrite)
    licence = licence or (release.licence if release else UNSTATED)
    if url is None:
        return _import(source, source, name, licence, part, sha256, overwrite)
    say(f"downloading {url}")
    file = download(url, stored_folder() / "downloads")
    added = _import(str(file), url, name, licence, part, sha256, overwrite)
    file.unlink()
    return added


def _import(
    source: str, origin: str, name: str, licence: str, part: str | None, sha256: str | None, overwrite: bool
) -> Added:
    file, _ = split_choice(source)
    found = sha256_of(file)
    if sha256 is not None and found != sha256.lower():
        if is_url(origin):
            file.unlink()
            raise DownloadError(
                f"{origin}: its sha256 is {found}, expected {sha256.lower()}; the download was removed"
            )
        raise WeightsError(
            f"{file}: its sha256 is {found}, expected {sha256.lower()}; it is another file, or damaged"
        )
    converted = convert(source, part=part)
    origin = origin if is_url(origin) else str(Path(origin).absolute())
    kept = keep(
        name, converted, source=origin, source_sha256=found, licence=licence, overwrite=overwrite
    )  # fmt: skip
    return Added(name=name, file=kept, converted=converted, licence=licence)


def _name_of(file: str) -> str:
    """A name for weights, from that of their file."""
    stem = file
    while Path(stem).suffix.lower() in {".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar"}:
        stem = Path(stem).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-")
