"""Small VMambas whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from wsi_vmamba.analysis.network import Network
from wsi_vmamba.model.config import VMambaConfig
from wsi_vmamba.model.ss2d import SS2D
from wsi_vmamba.model.vmamba import VMamba


@pytest.fixture
def small_network() -> Callable[..., Network]:
    """Two stages, stride 8; weights from a seed, with scans that reach far."""

    def make(*, seed: int = 0, **changes: object) -> Network:
        fields = {
            "depths": (1, 2),
            "dims": (8, 16),
            "ssm_ratio": 1.0,
            "d_state": 2,
            "num_classes": 2,
            **changes,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = VMamba(VMambaConfig(**fields))
            for module in model.modules():
                if isinstance(module, SS2D):
                    # Branches as strong as those of trained networks, and norms with a bias.
                    for weight in (module.out_proj.weight, module.in_proj.weight):
                        weight.data.normal_(std=0.5)
                    module.out_norm.bias.data.normal_()
                    module.x_proj_weight.data.normal_(std=0.5)
                    module.Ds.data.normal_()
        model.eval().requires_grad_(False)
        return Network(model=model, backbone="small", note="made")

    return make


@pytest.fixture
def symmetric_network(small_network) -> Callable[..., Network]:
    """A network that knows no difference between a picture, its transpose and its half turn.

    Every convolution kernel is symmetric under all turns and mirrors, strides fit the grid, and all four scans have the
    same parameters; what is left of direction is the order of the walks.
    """

    def make(**changes: object) -> Network:
        network = small_network(patch_embed=1, downsample=2, share_directions=True, **changes)
        for module in network.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                kernel = module.weight.data
                kernel = kernel + kernel.transpose(2, 3)
                kernel = kernel + kernel.flip(2)
                module.weight.data = kernel + kernel.flip(3)
        return network

    return make
