"""The receptive field: against the whole Jacobian, and where the network sees nothing beyond its convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_vmamba.analysis.erf import gradient_norms, measure_erf, profile
from wsi_vmamba.analysis.memory import gradient_bytes, require_memory
from wsi_vmamba.analysis.network import features_in_little_memory, images_of
from wsi_vmamba.errors import MemoryLimitError
from wsi_vmamba.model.ss2d import SS2D
from wsi_vmamba.model.variants import VARIANTS


def pictures(count: int, side_px: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, side_px, side_px, 3), dtype=np.uint8)


def conv_field(token: int, *, depths: tuple[int, ...]) -> tuple[int, int]:
    """First and last pixel that a token of the last stage can see through convolutions alone, along one axis."""
    low = high = token
    for stage in reversed(range(len(depths))):
        low, high = low - depths[stage], high + depths[stage]  # a depthwise 3x3 in each block
        for _ in range(1 if stage else 2):  # 3x3 of stride 2: one before a stage, two in the stem
            low, high = 2 * low - 1, 2 * high + 1
    return low, high


def test_the_map_is_the_norm_of_the_jacobian(small_network) -> None:
    network = small_network()
    model, image = network.model, images_of(network.model, pictures(1, 24))
    norms, point = gradient_norms(model, image, torch.eye(model.dim))
    jacobian = torch.autograd.functional.jacobian(lambda x: model.forward_features(x)[0, :, 1, 1], image)
    expected = jacobian.double().square().sum(dim=(0, 1, 2)).sqrt()
    np.testing.assert_allclose(norms, expected.numpy(), rtol=1e-4, atol=1e-7)
    assert point == (11.5, 11.5)  # token 1 of stride 8 is pixels 8 to 15


def test_the_features_with_gradients_are_those_of_the_network(small_network) -> None:
    for changes in ({}, {"gated": True, "mlp_ratio": 0.0, "patch_embed": 1, "downsample": 1}):
        model = small_network(**changes).model
        image = images_of(model, pictures(1, 40))
        torch.testing.assert_close(
            features_in_little_memory(model, image), model.forward_features(image).permute(0, 2, 3, 1)
        )


def test_without_memory_the_scans_leave_exactly_the_field_of_the_convolutions(small_network) -> None:
    network = small_network()
    for module in network.model.modules():
        if isinstance(module, SS2D):
            module.A_logs.data.fill_(60.0)  # decays of exp(-dt e^60): nothing is handed on
    (region,) = measure_erf(network, pictures(1, 128), sides_px=[128], projections=3, seed=0).regions
    assert region.point_px == (67.5, 67.5)  # token 8
    first, last = conv_field(8, depths=(1, 2))
    assert (first, last) == (37, 91)
    seen = np.zeros((128, 128), dtype=bool)
    seen[first : last + 1, first : last + 1] = True
    assert (region.density[~seen] == 0).all()
    assert (region.density[seen] > 0).all()
    assert region.density.sum() == pytest.approx(1)
    assert region.radii_px.max() <= np.hypot(31, 31)


def test_with_memory_the_scans_see_the_whole_square(small_network) -> None:
    (region,) = measure_erf(small_network(), pictures(1, 96), sides_px=[96], projections=2, seed=0).regions
    assert (region.density > 0).mean() > 0.99


def test_random_directions_come_near_the_exact_map_and_are_those_of_the_seed(small_network) -> None:
    network, shown = small_network(), pictures(1, 48)
    exact, near, same = (
        measure_erf(network, shown, sides_px=[48], projections=n, seed=5).regions[0].density
        for n in (16, 15, 15)
    )
    np.testing.assert_array_equal(near, same)
    assert np.corrcoef(exact.ravel(), near.ravel())[0, 1] > 0.97


def test_a_square_that_would_not_fit_is_refused_with_one_that_does() -> None:
    config = VARIANTS["vmamba_base_s1l20"]
    with pytest.raises(
        MemoryLimitError, match=r"4096 x 4096 px need 19\.\d GB, but .* are left; use --region-px"
    ):
        require_memory(config, side_px=4096, memory_limit=6_000_000_000)
    require_memory(VARIANTS["vmamba_pico"], side_px=32, memory_limit=None)
    assert gradient_bytes(config, side_px=2048) < gradient_bytes(config, side_px=4096)


def test_the_profile_ends_with_all_of_it(small_network) -> None:
    (region,) = measure_erf(small_network(), pictures(1, 48), sides_px=[48], projections=2, seed=0).regions
    rows = np.array(profile(region))
    assert rows[-1, 2] == pytest.approx(1)
    assert (np.diff(rows[:, 2]) >= 0).all()
