"""A segmenter or a detector as one safetensors file, which holds all that is needed to build it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from wsi_vmamba import __version__
from wsi_vmamba.errors import WeightsError
from wsi_vmamba.model.stored import read_header
from wsi_vmamba.model.weights import apply_state, check_values
from wsi_vmamba.pretraining.weights_file import in_one_order

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Name of the file in the folder of a model.
FILE = "model.safetensors"
#: Keys of the header: what the file is, and what it was built from.
_KIND, _SPEC = "kind", "spec"
Spec = TypeVar("Spec", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class ModelFile(Generic[Spec]):
    """How the models of one kind are kept.

    Attributes:
        kind: "segmenter" or "detector".
        command: that writes them.
        spec: what a model is built from: a dataclass of texts, numbers, and tuples of them.
    """

    kind: str
    command: str
    spec: type[Spec]

    def packed(self, model: nn.Module, spec: Spec) -> bytes:
        """A model as a safetensors file; the same model gives the same bytes."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        header = {
            "format": "pt", "wsi_vmamba": __version__, _KIND: self.kind, _SPEC: json.dumps(asdict(spec)),
        }  # fmt: skip
        return in_one_order(safetensors.torch.save(tensors, metadata=header))

    def find(self, place: str | Path) -> tuple[Path, Spec]:
        """The file of a model, given it or the folder that it lies in, and what to build.

        Raises:
            WeightsError: there is none, it is something else, damaged, or of a newer version.
        """
        path = Path(place)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise WeightsError(f"no {self.kind} at {file.absolute()}; {self._remedy}")
        try:
            header = read_header(file)
        except WeightsError as error:
            raise WeightsError(f"{file} is no {self.kind} ({error}); {self._remedy}") from error
        if header.get(_KIND) != self.kind:
            raise WeightsError(f"{file} is {_what(header)}, not a {self.kind}; {self._remedy}")
        try:
            return file, self._spec(header[_SPEC])
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{file} is a {self.kind} that this version does not know ({error}); it was written by wsi-vmamba "
                f"{header.get('wsi_vmamba', 'of an unknown version')}, this is {__version__}; update the package"
            ) from error

    def fill(self, model: nn.Module, file: Path) -> None:
        """Give a model, built as the file says, the weights in it.

        Raises:
            WeightsError: they are damaged, not finite, or do not fit.
        """
        try:
            state = safetensors.torch.load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file} is damaged ({error}); {self._remedy}") from error
        check_values(state, source=str(file))
        apply_state(model, state, source=str(file))

    def _spec(self, text: str) -> Spec:
        values: Mapping[str, Any] = json.loads(text)
        known = {field.name for field in fields(self.spec)}
        if set(values) != known:
            raise ValueError(f"fields {', '.join(sorted(set(values) ^ known))}")
        return self.spec(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        )

    @property
    def _remedy(self) -> str:
        return f"give the folder, or the {FILE} in it, that `wsi-vmamba {self.command}` wrote"


def _what(header: Mapping[str, str]) -> str:
    if _KIND in header:
        return f"a {header[_KIND]}"
    return (
        f"weights of {header['backbone']}" if "backbone" in header else "a safetensors file of another kind"
    )
