"""Weights of the scans: against autograd, a loop by hand, and sums that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_vmamba.analysis.activation import measure_activation
from wsi_vmamba.analysis.scan_weights import scan_weights
from wsi_vmamba.analysis.windows import Window
from wsi_vmamba.errors import UnknownNameError
from wsi_vmamba.ops.reference import ss2d_scan


def window(side_px: int, point_px: tuple[int, int]) -> Window:
    pixels = np.random.default_rng(1).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    return Window(name="noise", pixels=pixels, point_px=point_px, corner_l0=(100.0, 200.0), l0_per_px=2.0)


def scan_of(network, *, seed: int = 0, height: int = 5, width: int = 7):
    """One layer in float64 with a map it scans."""
    op = network.model.layers[0].blocks[0].op.double()
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, height, width, 8)))
    u, proj, _ = op.scan_inputs(x)
    return op, u.detach(), proj.detach()


@pytest.mark.parametrize("token", [(0, 0), (4, 6), (2, 3), (3, 0)])
@pytest.mark.parametrize("shared", [False, True])
def test_weights_are_the_gradients_of_the_scan_by_its_input(small_network, token, shared) -> None:
    op, u, proj = scan_of(small_network(share_directions=shared))
    u.requires_grad_(True)
    _, dt_weight, dt_bias, A_logs, Ds = op.scan_parameters()
    y = ss2d_scan(u, proj, dt_weight, dt_bias, A_logs, Ds)
    # A channel of the output depends on the same channel of the input only.
    (expected,) = torch.autograd.grad(y[0, token[0], token[1]].sum(), u)
    found = scan_weights(op, proj[0], row=token[0], column=token[1]).sum(0)
    found[token] += Ds.view(4, -1).sum(0)
    torch.testing.assert_close(found, expected[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scan", range(4))
def test_each_scan_is_the_recurrence_by_hand_in_its_own_order(small_network, scan) -> None:
    op, _, proj = scan_of(small_network(), height=3, width=4)
    row, column, height, width = 1, 2, 3, 4
    order = [(r, c) for r in range(height) for c in range(width)]
    if scan % 2:
        order = [(r, c) for c in range(width) for r in range(height)]
    if scan >= 2:
        order = order[::-1]
    own = proj[0].reshape(height, width, 4, -1)[:, :, scan].numpy()
    rank, state = op.dt_rank, op.d_state
    dt_weight, dt_bias = op.dt_projs_weight[scan].double().numpy(), op.dt_projs_bias[scan].double().numpy()
    A = -np.exp(op.A_logs.double().numpy().reshape(4, 8, state)[scan])
    steps = {at: np.log1p(np.exp(dt_weight @ own[at][:rank] + dt_bias)) for at in order}
    last = order.index((row, column))
    expected = np.zeros((height, width, 8))
    for s in range(last + 1):
        decay = np.ones((8, state))
        for between in order[s + 1 : last + 1]:
            decay *= np.exp(steps[between][:, None] * A)
        b, c = own[order[s]][rank : rank + state], own[order[last]][rank + state :]
        expected[order[s]] = (decay * b * c).sum(1) * steps[order[s]]
    found = scan_weights(op, proj[0], row=row, column=column)[scan].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_all_contributions_with_the_skip_are_what_the_network_scans(small_network) -> None:
    found = measure_activation(small_network(), window(96, (50, 20)), block="layers.1.blocks.1")
    assert found.rebuilt_error < 1e-5
    assert found.pixels_per_token == 8
    assert found.token == (2, 6)  # row of y, column of x
    assert found.response.shape == (5, 12, 12)
    # Scans that come from above and from the left have not met what lies behind the token.
    assert (found.response[0, 3:] == 0).all()
    assert (found.response[0, 2, 7:] == 0).all()
    assert (found.response[0, 2, :7] > 0).all()
    assert (found.response[1, :, 7:] == 0).all()
    assert (found.response[2, :2] == 0).all()
    assert (found.response[3, :, :6] == 0).all()


def test_places_are_told_in_pixels_of_the_slide(small_network) -> None:
    found = measure_activation(small_network(), window(32, (0, 0)), block="layers.0.blocks.0")
    assert found.token == (0, 0)
    rows = found.sheets()["tokens"].rows
    assert len(rows) == 5 * 8 * 8
    # The middle of the second token of the first row, 4 px wide at 2 level-0 pixels each, from (100, 200).
    assert rows[1][:5] == ("rows", 0, 1, 100 + 6 * 2, 200 + 2 * 2)


def test_the_default_block_is_the_last_of_the_last_but_one_stage_and_others_are_listed(small_network) -> None:
    assert measure_activation(small_network(), window(32, (5, 5))).block == "layers.0.blocks.0"
    with pytest.raises(UnknownNameError, match=r"did you mean 'layers\.1\.blocks\.1'.*layers\.0\.blocks\.0"):
        measure_activation(small_network(), window(32, (5, 5)), block="layers.1.blocks.2")
