"""A trained model as one file: safetensors with a JSON header, and nothing that could run.

Tensors are named ``member/<number>/<parameter>`` (the classifiers), ``reference/<array>`` (of the training slides) and
``encoder/<parameter>`` (the backbone, where it is in the file). The header says what they are, and their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from wsi_vmamba.content import HEAD_BYTES, describe
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import TrainingError, UsageError, WeightsError
from wsi_vmamba.prediction.model import TrainedModel
from wsi_vmamba.provenance import now_utc, package_versions
from wsi_vmamba.training.model import ModelSpec, SlideClassifier
from wsi_vmamba.training.reference import Reference

#: How the names of packed models end.
SUFFIX = ".wsivm"
VERSION = 1
_KEY, _FORMAT = "wsi_vmamba", "model"
_MEMBER, _REFERENCE, _ENCODER = "member", "reference", "encoder"
_AGAIN = "pack it again with `wsi-vmamba pack`, or copy the file again"


def write_packed(
    path: Path,
    model: TrainedModel,
    *,
    encoder: Mapping[str, Tensor] | None,
    training: Mapping[str, Any],
) -> None:
    """Write a model with all that predicting needs.

    Args:
        path: of the file.
        model: with the reference of its training slides.
        encoder: weights of the backbone; None leaves them out, for a backbone whose weights are shipped.
        training: what is known of the training, for people.

    Raises:
        TrainingError: nothing is known of the training slides, so that the file could read no slide.
        StoreError: the file cannot be written.
    """
    if model.reference is None:
        raise TrainingError(
            f"{model.path} cannot be packed: {model.missing}; give --trained-on DIR, the features that it was trained "
            "on"
        )
    tensors: dict[str, Tensor] = {}
    for number, member in enumerate(model.members):
        tensors |= {f"{_MEMBER}/{number}/{name}": value for name, value in member.state_dict().items()}
    tensors |= {
        f"{_REFERENCE}/{name}": torch.from_numpy(value) for name, value in model.reference.tensors().items()
    }
    tensors |= {f"{_ENCODER}/{name}": value for name, value in (encoder or {}).items()}
    # Clones, since safetensors takes no two tensors of one memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {
        "format": _FORMAT,
        "version": VERSION,
        "members": [member.spec.to_dict() for member in model.members],
        "reference": model.reference.header(),
        "classes": list(model.classes),
        "with_encoder": encoder is not None,
        "training": dict(training),
        "packed": now_utc(),
        "versions": package_versions(),
    }
    header["sha256"] = _digest(header, tensors)
    write_atomic(path, safetensors.torch.save(tensors, {_KEY: json.dumps(header)}))


def read_packed(path: Path) -> TrainedModel:
    """Read a model that `write_packed` wrote; its hash is verified.

    Raises:
        UsageError: the file is something else.
        WeightsError: it is cut short or damaged, or the model in it cannot be built.
    """
    header, tensors = _read(path)
    stated = header.pop("sha256", None)
    if stated != _digest(header, tensors):
        raise WeightsError(f"{path} is damaged: its content does not have the hash that it states; {_AGAIN}")
    if header.get("version") != VERSION:
        raise UsageError(
            f"{path}: expected a packed model of version {VERSION}, got {header.get('version')!r}; use the release "
            "of wsi-vmamba that packed it, or pack the run again with this one"
        )
    try:
        members = tuple(
            _member(ModelSpec.from_dict(spec), _below(tensors, f"{_MEMBER}/{number}/"), where=path)
            for number, spec in enumerate(header["members"])
        )
        arrays = {name: value.numpy() for name, value in _below(tensors, f"{_REFERENCE}/").items()}
        reference = Reference.from_parts(header["reference"], arrays, where=path)
        if not members:
            raise ValueError("it holds no model")
        classes = tuple(map(str, header["classes"]))
        if any(member.spec.num_classes != len(classes) for member in members):
            raise ValueError(f"{len(classes)} names of classes")
        encoder = _below(tensors, f"{_ENCODER}/") if header["with_encoder"] else None
    except (KeyError, TypeError, ValueError, TrainingError) as error:
        raise WeightsError(f"{path} is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    return TrainedModel(path=path, members=members, reference=reference, encoder=encoder, classes=classes)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            if header["format"] != _FORMAT:
                raise KeyError(_FORMAT)
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is a safetensors file but no packed model; give the folder of a run, or a file that `wsi-vmamba "
            "pack` made of one"
        ) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise _no_safetensors(path, error) from error


def _no_safetensors(path: Path, error: BaseException) -> UsageError | WeightsError:
    """A file that began as one of ours was cut short; any other is something else."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head[8:9] == b"{":
        return WeightsError(f"{path} is damaged or cut short ({error}); {_AGAIN}")
    return UsageError(
        f"{path} is {describe(head)}, no packed model; give the folder of a run, or a file that `wsi-vmamba pack` "
        "made of one"
    )


def _member(spec: ModelSpec, state: Mapping[str, Tensor], *, where: Path) -> SlideClassifier:
    with torch.device("meta"):  # takes no memory, whatever sizes the file claims
        expected = {name: value.shape for name, value in SlideClassifier(spec).state_dict().items()}
    if expected != {name: value.shape for name, value in state.items()}:
        raise WeightsError(f"{where}: its tensors are not those of the model it describes; {_AGAIN}")
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, though none of them stays
        model = SlideClassifier(spec)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{where}: {error}; {_AGAIN}") from error
    return model.eval()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header and of every tensor with its name, shape and type."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
