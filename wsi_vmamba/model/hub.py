"""VMamba on the hub and in folders laid out like its repositories, by `PyTorchModelHubMixin`; needs the extra `hub`.

``config.json`` holds the fields of `VMambaConfig`, ``model.safetensors`` the weights, under the published keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from wsi_vmamba.errors import UsageError, WeightsError
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.model.weights import load_weights

_WEIGHTS = "model.safetensors"


@cache
def hub_class() -> type[Any]:
    """VMamba with the mixin: its classes need huggingface_hub when they are made.

    Raises:
        UsageError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
    except ImportError as error:
        raise UsageError(f"the hub needs huggingface_hub ({error}): pip install 'wsi-vmamba[hub]'") from error

    class HubVMamba(  # type: ignore[call-arg]  # the mixin has no types
        PyTorchModelHubMixin,  # type: ignore[misc]  # first: its methods, which those of VMamba call
        VMamba,
        library_name="wsi-vmamba",
        tags=["vmamba", "pathology"],
        repo_url="https://github.com/wsi-vmamba/wsi-vmamba",
        paper_url="https://arxiv.org/abs/2401.10166",
    ):
        """A VMamba that was made from plain fields, which become its config.json."""

        def __init__(self, config: Mapping[str, Any]) -> None:
            super().__init__(VMambaConfig.from_mapping(config))

        @classmethod
        def _from_pretrained(cls, *, model_id: str, **options: Any) -> HubVMamba:
            where = {
                name: options.pop(name)
                for name in ("revision", "cache_dir", "force_download", "local_files_only", "token")
            }
            if "config" not in options:
                raise WeightsError(f"{model_id} holds no config.json with the fields of a VMamba")
            is_folder = Path(model_id).is_dir()
            file = Path(model_id) / _WEIGHTS if is_folder else hf_hub_download(model_id, _WEIGHTS, **where)
            model = cls(options.pop("config"))
            if options:
                raise UsageError(f"from_pretrained takes no {', '.join(sorted(options))}")
            load_weights(model, file)  # every key accounted for; the mixin's own loading leaves gaps random
            return model.eval()

    return HubVMamba


def with_hub(model: VMamba) -> Any:
    """The same network, its tensors shared, with the methods of the mixin."""
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, though none of them stays
        found = hub_class()(_plain(model.config))
    found.load_state_dict(model.state_dict(), assign=True)
    return found


def _plain(config: VMambaConfig) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()
    }
