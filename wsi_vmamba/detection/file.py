"""A detector as one safetensors file, which holds all that is needed to build it again."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch

from wsi_vmamba import __version__
from wsi_vmamba.detection.model import Detector, DetectorSpec
from wsi_vmamba.durable import write_atomic
from wsi_vmamba.errors import MissingDataError, WeightsError

#: Name of the file in the folder of a detector, and of what it was built from in the file's header.
FILE, _SPEC = "detector.safetensors", "detector"


def save_detector(detector: Detector, path: Path) -> None:
    """Write weights and specification."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    header = {"format": "pt", _SPEC: json.dumps(detector.spec.to_dict()), "wsi_vmamba": __version__}
    write_atomic(path, safetensors.torch.save(tensors, metadata=header))


def load_detector(place: str | Path, *, device: str = "cpu") -> Detector:
    """Read a detector, in evaluation mode.

    Args:
        place: the file, or the folder it is in.
        device: where it shall compute.

    Raises:
        UsageError: torchvision is not installed.
        MissingDataError: there is none.
        WeightsError: the file is damaged or no detector, or weights are missing.
    """
    path = detector_file(place)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
        spec = _spec_of(json.loads(header[_SPEC]))
    except (safetensors.SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(
            f"{path} is no detector of `wsi-vmamba detector`, or damaged ({type(error).__name__}: {error})"
        ) from error
    detector = Detector(spec, seed=0)
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: the weights do not fit the detector that its header describes"
        ) from error
    return detector.to(device).eval()


def detector_file(place: str | Path) -> Path:
    """The file of a detector, given it or the folder it is in.

    Raises:
        MissingDataError: there is none.
    """
    given = Path(place)
    path = given / FILE if given.is_dir() else given
    if not path.is_file():
        raise MissingDataError(
            f"no detector at {path.absolute()}; train one with `wsi-vmamba detector DATA --out {given}`"
        )
    return path


def _spec_of(values: dict[str, object]) -> DetectorSpec:
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return DetectorSpec(**lists)  # type: ignore[arg-type]
