"""Converted weights to a file in the user's folder, with where they are from in its header; and its check."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch

from wsi_vmamba import __version__
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model.releases import RELEASES
from wsi_vmamba.model.shipped import named_files, shipped_files
from wsi_vmamba.model.stored import (
    BLANK,
    DIGEST,
    VARIANT,
    WORDS,
    digest_of,
    is_name,
    read_header,
    stored_files,
    stored_path,
    with_digest,
)
from wsi_vmamba.model.variants import VARIANTS
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import classes_in, fitted, read_state
from wsi_vmamba.provenance import now_utc
from wsi_vmamba.weights.convert import Converted


def keep(
    name: str, converted: Converted, *, source: str, source_sha256: str, licence: str, overwrite: bool = False
) -> Path:
    """Write weights under a name and return the file.

    Args:
        name: what they will be called.
        converted: what to write.
        source: path or URL that they are from.
        source_sha256: of the file there.
        licence: as it was stated.
        overwrite: replace weights of that name.

    Raises:
        UsageError: see `check_name`.
        StoreError: the file cannot be written.
    """
    check_name(name, overwrite=overwrite)
    header = {
        "format": "pt",
        "name": name,
        VARIANT: converted.variant,
        "source": source,
        "source_sha256": source_sha256,
        "changes": json.dumps(converted.changes),
        "licence": licence,
        "imported": now_utc(),
        "wsi_vmamba": __version__,
        DIGEST: BLANK,
    }
    tensors = {key: value.contiguous() for key, value in converted.tensors.items()}
    file = stored_path(name)
    write_atomic(file, with_digest(safetensors.torch.save(tensors, metadata=header)))
    return file


def check_name(name: str, *, overwrite: bool) -> None:
    """Refuse what cannot be the name of imported weights.

    Raises:
        UsageError: it is a word with another meaning, looks like a file, is shipped with the package, or is taken.
    """
    if not is_name(name) or name in WORDS:
        raise UsageError(
            f"{name!r} cannot be a name of weights: letters, digits, dots, hyphens and underscores, no ending of a "
            f"checkpoint, and none of {', '.join(WORDS)}; give --name"
        )
    if name in shipped_files():
        raise UsageError(f"weights {name} come with the package; choose another --name")
    if name in stored_files() and not overwrite:
        raise UsageError(
            f"there are weights {name} already ({stored_path(name)}); replace them with --overwrite, or give --name"
        )


def problem_of(file: Path) -> str | None:
    """What is wrong with weights that have a name; None where every byte and every key is as it should be."""
    try:
        header = read_header(file)
        if DIGEST in header and (found := digest_of(file)) != header[DIGEST]:
            return f"its sha256 is {found}, its header says {header[DIGEST]}"
        state = read_state(file)
        if header.get(VARIANT) not in VARIANTS:
            return f"its header names no backbone of the table ({header.get(VARIANT)})"
        with torch.device("meta"):
            model = VMamba(VARIANTS[header[VARIANT]].with_classes(classes_in(state) or 1))
        fitted(model, state, source=str(file))
    except WeightsError as error:
        return str(error)
    if DIGEST not in header and file in stored_files().values():
        return "its header holds no sha256: `wsi-vmamba weights add` did not write it; import it"
    return None


def choose_stored(name: str | None) -> dict[str, Path]:
    """The weights of that name, or all that are here.

    Raises:
        UsageError: there are none of that name here.
    """
    here = named_files()
    if name is None:
        return here
    if name not in here:
        why = "are published but not on this machine" if name in RELEASES else "are not in the list"
        raise UsageError(f"weights {name} {why}; here are {', '.join(here)}")
    return {name: here[name]}


def sha256_of(file: Path) -> str:
    """SHA-256 (hex) of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
