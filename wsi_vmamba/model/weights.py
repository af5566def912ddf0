"""Weights in and out: published .pth checkpoints and .safetensors, never through a blind unpickle."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsi_vmamba.content import HEAD_BYTES, look_alike
from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model.containers import find_state
from wsi_vmamba.model.key_names import as_linear, todays_names
from wsi_vmamba.model.shipped import split_choice

#: What wrappers put before every key: data-parallel training, torch.compile, and both in either order.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
#: Names of the part of a larger model that a backbone was, where all keys of a checkpoint begin with one.
_PARTS = ("model", "backbone", "encoder", "net")
_HEAD = "classifier.head.weight"
_ZIP = b"PK\x03\x04"
_LISTED = 6
#: What the two parsers raise on bytes that are no checkpoint.
_DAMAGE = (
    SafetensorError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    zipfile.BadZipFile,
)


#: The function that pickles of NumPy numbers name; it lives in a private module that was renamed once.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
#: What a checkpoint may name besides tensors and plain containers; nothing here runs code of the file's choice.
#: Configuration objects of the training code become plain dictionaries, and are then ignored.
_ALLOWED: list[Any] = [
    (OrderedDict, "yacs.config.CfgNode"),
    (OrderedDict, "argparse.Namespace"),
    (OrderedDict, "easydict.EasyDict"),
    (np.dtype, "numpy.dtype"),
    *(
        (getattr(np.dtypes, name), f"numpy.dtypes.{name}")
        for name in ("Float32DType", "Float64DType", "Int64DType")
    ),
    *((_NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into ``model``, every key accounted for.

    Raises:
        WeightsError: the file is missing, damaged or holds anything but tensors and plain values; or keys are
            missing, unexpected or of the wrong shape, which the message lists.
    """
    apply_state(model, read_state(path), source=str(path))


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint of a VMamba into a state dict with today's key names.

    Raises:
        WeightsError: see `load_weights`.
    """
    return todays_names(read_tensors(path))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint, in either format and whatever its name, into a state dict with the key names of its model.

    Args:
        path: the file; with ``#NAME`` behind it, that of its state dicts.

    Raises:
        WeightsError: see `load_weights`.
    """
    found = read_found(path)
    state = _without_part(without_wrappers(found, source=str(path)), source=str(path))
    check_values(state, source=str(path))
    return state


def read_found(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint as it is, under the keys that it has there; see `read_tensors`.

    Raises:
        WeightsError: see `load_weights`.
    """
    file, choice = split_choice(path)
    if not file.is_file():
        raise WeightsError(f"no weights file at {file}; give the path of a .pth or .safetensors file")
    try:
        content = _read(file)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} was refused: it holds more than tensors and plain values, and unpickling it could run code "
            f"({_cause(error)}). Save the state dict alone, or convert it to .safetensors"
        ) from None
    except _DAMAGE as error:
        raise WeightsError(f"{file} is damaged or not a checkpoint: {_cause(error)}") from error
    return find_state(content, source=str(file), choice=choice)


def _read(file: Path) -> Any:
    """What a file holds: its content says which format it is, not its name."""
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    if head[8:9] == b"{":  # a safetensors header, behind its length
        return load_file(file)
    if not head.startswith(_ZIP):
        found = look_alike(head)
        if found is not None:
            raise WeightsError(
                f"{file} is no checkpoint: expected a .pth or .safetensors file, found {found}"
            )
    _check_zip(file)
    # Opened here: given a name, newer versions of torch believe its ending.
    with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings(), file.open("rb") as opened:
        warnings.simplefilter("ignore", UserWarning)  # about pickle protocols: it loads or is refused
        return torch.load(opened, map_location="cpu", weights_only=True)


def without_wrappers(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Take off what wrappers put before the keys.

    Raises:
        WeightsError: keys are there with and without it; ``source`` names the file.
    """
    plain = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    if len(plain) != len(state):
        raise WeightsError(
            f"{source} holds keys twice, with and without what a wrapper puts before them ('module.', '_orig_mod.'); "
            "save the state dict of one model"
        )
    return plain


def _without_part(state: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Take off the name of the part of a larger model, where it is before all keys, and wrappers beneath it."""
    for part in _PARTS:
        if state and all(key.startswith(f"{part}.") for key in state):
            inner = {key.removeprefix(f"{part}."): value for key, value in state.items()}
            return _without_part(without_wrappers(inner, source=source), source=source)
    return state


def check_values(state: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse weights that would give meaningless features: training that ended in NaN is saved like any other.

    Raises:
        WeightsError: naming the tensors.
    """
    bad = [key for key, value in state.items() if value.is_floating_point() and not _is_finite(value)]
    if bad:
        raise WeightsError(
            f"{source} holds values that are not finite (NaN or infinity) in {len(bad)} of {len(state)} tensors: "
            f"{_some(bad)}; take the checkpoint of an earlier epoch"
        )


def _is_finite(value: Tensor) -> bool:
    # 8-bit floats have no isfinite of their own.
    return bool(torch.isfinite(value.float() if value.element_size() == 1 else value).all())


def _check_zip(file: Path) -> None:
    """Refuse a zip with a program in it, or one whose entries inflate: torch stores tensors as they are."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        if any("/code/__torch__" in name for name in archive.namelist()):
            raise WeightsError(
                f"{file} is a TorchScript archive, a program with weights in it; save its state_dict() instead"
            )
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size:
                raise WeightsError(
                    f"{file} was refused: {entry.filename} in it would inflate from {entry.compress_size} to "
                    f"{entry.file_size} bytes, and checkpoints are never compressed; save it again with torch.save"
                )


def classes_in(state: Mapping[str, Tensor]) -> int | None:
    """How many classes the checkpoint's head has; None without a head."""
    return int(state[_HEAD].shape[0]) if _HEAD in state else None


@torch.no_grad()
def apply_state(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into ``model``; nothing is copied unless everything fits.

    Raises:
        WeightsError: listing missing, unexpected and mis-shaped keys. ``source`` names the file.
    """
    model.load_state_dict(fitted(model, state, source=source), strict=True)


def fitted(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """The tensors of a state dict in the shapes of ``model``, which may be on the device "meta" and is not changed.

    Raises:
        WeightsError: see `apply_state`.
    """
    own = model.state_dict()
    given = {
        key: as_linear(value) if key in own and own[key].ndim == 2 else value for key, value in state.items()
    }
    shapes = [
        f"{key} is {tuple(given[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    quantised = [
        key
        for key in own
        if key in given and own[key].is_floating_point() and not given[key].is_floating_point()
    ]
    problems = [
        f"{len(keys)} {kind}: {_some(keys)}"
        for kind, keys in (
            ("missing", [key for key in own if key not in given]),
            ("unexpected", [key for key in given if key not in own]),
            ("of another shape", shapes),
            ("not floating-point, as of a quantised model", quantised),
        )
        if keys
    ]
    if problems:
        hint = "; check that the model name fits the file"
        if len(shapes) == 2 and all("classifier.head" in line for line in shapes):
            hint = "; leave num_classes out to take the head of the file"
        raise WeightsError(f"{source} does not fit this model: {'; '.join(problems)}{hint}")
    return given


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of all parameters and buffers; the device is no part.

    Where a model says in ``input_facts`` what it does with its input, that is a part too: the same weights give other
    features with another normalisation or other tokens.
    """
    digest = hashlib.sha256()
    facts = getattr(model, "input_facts", None)
    if facts:
        digest.update(json.dumps(facts, sort_keys=True).encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more


def _cause(error: BaseException) -> str:
    """The line of a loader's message that says what is wrong."""
    message = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return (message or type(error).__name__).splitlines()[0]
