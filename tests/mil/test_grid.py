"""The grid against dense maps: what is skipped must not change what is computed."""

from __future__ import annotations

import pytest
import torch

from wsi_vmamba.mil.grid import PatchGrid, grid_convolve
from wsi_vmamba.mil.nystrom import NystromAttention, pseudo_inverse
from wsi_vmamba.mil.scan_grid import GridScan
from wsi_vmamba.mil.transmil import GridPosition
from wsi_vmamba.ops import selective_scan, ss2d_scan

HEIGHT, WIDTH = 9, 7


def tissue(*, share: float, seed: int = 0):
    """A mask (HEIGHT, WIDTH) and the (col, row) of its patches, shuffled and moved away from the corner."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(HEIGHT, WIDTH, generator=generator) < share
    mask[0, 0] = mask[-1, -1] = True  # the box is that of the map
    rows, cols = mask.nonzero(as_tuple=True)
    order = torch.randperm(len(rows), generator=generator)
    return mask, torch.stack([cols, rows], dim=1)[order] + torch.tensor([300, 5])


def test_orders_walk_by_row_and_by_column():
    mask, coords = tissue(share=0.5)
    grid = PatchGrid.of(coords)
    by_row = coords[grid.rows_first] - torch.tensor([300, 5])
    assert torch.equal(by_row.flip(1), mask.nonzero())
    assert torch.equal(by_row[grid.columns_first], mask.T.nonzero())
    assert len(grid) == int(mask.sum())


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_convolution_equals_that_of_the_dense_map(radius, share):
    mask, coords = tissue(share=share)
    grid = PatchGrid.of(coords)
    side = 2 * radius + 1
    torch.manual_seed(0)
    patches = torch.randn(len(grid), 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(side * side, 5, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(HEIGHT, WIDTH, 5, dtype=torch.float64).masked_scatter(mask[..., None], patches)
    kernel = weight.T.reshape(5, 1, side, side)
    expected = torch.nn.functional.conv2d(dense.permute(2, 0, 1), kernel, padding=radius, groups=5)
    expected = expected.permute(1, 2, 0)[mask]
    found = grid_convolve(patches, weight, grid.neighbours(radius))
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    for got, wanted in zip(
        torch.autograd.grad(found, (patches, weight), upstream),
        torch.autograd.grad(expected, (patches, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_convolution_in_pieces_equals_the_whole(monkeypatch):
    _, coords = tissue(share=0.6)
    grid = PatchGrid.of(coords)
    patches = torch.randn(len(grid), 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for piece in (1000, 4):
        monkeypatch.setattr("wsi_vmamba.mil.grid._PIECE_PATCHES", piece)
        out = grid_convolve(patches, weight, grid.neighbours(1))
        found.append([out, *torch.autograd.grad(out.square().sum(), (patches, weight))])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole)


def test_rows_do_not_touch_across_the_edge():
    coords = torch.tensor([[0, 1], [4, 0]])  # last of a row and first of the next
    assert PatchGrid.of(coords).neighbours(1).tolist() == [
        [0, 1] if step == 4 else [2, 2] for step in range(9)
    ]


def scan_of(channels: int) -> GridScan:
    torch.manual_seed(3)
    scan = GridScan(channels).double()
    with torch.no_grad():
        scan.A_logs.uniform_(-2, 1)
        scan.skip.uniform_(-1, 1)
    return scan


def test_scan_of_a_full_rectangle_is_ss2d():
    scan, channels = scan_of(6), 6
    rows, cols = torch.ones(HEIGHT, WIDTH).nonzero(as_tuple=True)
    u = torch.randn(HEIGHT * WIDTH, channels, dtype=torch.float64)
    expected = ss2d_scan(
        u.view(1, HEIGHT, WIDTH, channels),
        scan._project(u).reshape(1, HEIGHT, WIDTH, -1),
        scan.dt_weight,
        scan.dt_bias,
        scan.A_logs,
        (scan.skip / 4).repeat(4),
    )
    found = scan(u, PatchGrid.of(torch.stack([cols, rows], dim=1)))
    torch.testing.assert_close(found, expected.view(-1, channels))


def test_skipped_background_is_a_step_size_of_zero():
    """Walks the whole map with dt = 0 on the background, by the 1-D reference, direction by direction."""
    mask, coords = tissue(share=0.4)
    grid, channels = PatchGrid.of(coords), 6
    scan = scan_of(channels)
    u = torch.randn(len(grid), channels, dtype=torch.float64)
    proj = scan._project(u)
    delta = torch.einsum("nkr,kdr->nkd", proj[:, :, : scan.rank], scan.dt_weight) + scan.dt_bias
    delta = torch.nn.functional.softplus(delta)

    def on_map(values):
        flat = values.reshape(len(grid), -1)
        return torch.zeros(HEIGHT, WIDTH, flat.shape[1], dtype=flat.dtype).masked_scatter(
            mask[..., None], flat
        )

    expected = u * scan.skip
    for k in range(4):
        walk = (lambda m: m.transpose(0, 1)) if k % 2 else (lambda m: m)
        turn = (lambda s: s.flip(-1)) if k >= 2 else (lambda s: s)

        def sequence(values, walk=walk, turn=turn):
            return turn(walk(on_map(values)).flatten(0, 1).T[None])

        rates = -torch.exp(scan.A_logs[k * channels : (k + 1) * channels])
        B, C = (sequence(proj[:, k, scan.rank + part])[:, None] for part in (0, 1))
        y = turn(selective_scan(sequence(u), sequence(delta[:, k]), rates, B, C))[0].T
        y = y.reshape(*walk(on_map(u)).shape)
        expected = expected + walk(y)[mask]
    torch.testing.assert_close(scan(u, grid), expected)


def test_step_sizes_are_bounded_whatever_the_features():
    scan = scan_of(32).float()
    with torch.no_grad():
        scan.x_proj.weight.mul_(1e6)
    proj = scan._project(1e6 * torch.randn(100, 32))
    delta = torch.einsum("nkr,kdr->nkd", proj[:, :, : scan.rank], scan.dt_weight)
    assert delta.abs().max() <= 4.0 * scan.dt_weight.abs().amax() * scan.rank**0.5 + 1e-4
    assert torch.isfinite(
        scan(1e6 * torch.randn(100, 32), PatchGrid.of(torch.arange(200).view(100, 2)))
    ).all()


def test_scan_runs_in_float32_under_autocast():
    from wsi_vmamba.mil import AGGREGATORS

    torch.manual_seed(0)
    model = AGGREGATORS.resolve("ss2d")(12, 2, hidden_dim=16).eval()
    seen = []
    model.context.scan.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    model.context.scan.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(20, 12), torch.arange(40).view(20, 2))
    assert seen == [torch.float32, torch.float32]
    assert model.context.scan.A_logs.dtype == torch.float32


def test_position_encoding_is_the_sum_of_three_convolutions():
    mask, coords = tissue(share=0.6)
    grid = PatchGrid.of(coords)
    torch.manual_seed(0)
    layer = GridPosition(4).double()
    torch.nn.init.normal_(layer.bias)
    patches = torch.randn(len(grid), 4, dtype=torch.float64)
    dense = torch.zeros(HEIGHT, WIDTH, 4, dtype=torch.float64).masked_scatter(mask[..., None], patches)
    expected = patches + layer.bias
    for kernel in layer.kernels:
        weight = kernel.permute(2, 0, 1)[:, None]
        out = torch.nn.functional.conv2d(
            dense.permute(2, 0, 1), weight, padding=kernel.shape[0] // 2, groups=4
        )
        expected = expected + out.permute(1, 2, 0)[mask]
    torch.testing.assert_close(layer(patches, grid.neighbours(3)), expected)


def test_pseudo_inverse_converges_and_few_tokens_give_plain_attention():
    torch.manual_seed(0)
    matrix = torch.softmax(torch.randn(2, 6, 6, dtype=torch.float64) + 4 * torch.eye(6), dim=2)
    torch.testing.assert_close(pseudo_inverse(matrix), torch.linalg.pinv(matrix), rtol=1e-6, atol=1e-6)
    # With as many landmarks as tokens the approximation is attention itself, if the inverse is one.
    layer = NystromAttention(8, heads=2, landmarks=16, dropout=0.0).double()
    torch.nn.init.zeros_(layer.residual.weight)
    with torch.no_grad():  # queries and keys alike, so that tokens attend to themselves most
        layer.to_qkv.weight[8:16] = layer.to_qkv.weight[:8] = 2.5 * torch.eye(8)
    tokens = torch.randn(5, 8, dtype=torch.float64)
    q, k, v = (part.unflatten(1, (2, 4)).transpose(0, 1) for part in layer.to_qkv(tokens).chunk(3, dim=1))
    plain = torch.softmax(q @ k.mT / 2, dim=2) @ v
    expected = layer.to_out(plain.transpose(0, 1).flatten(1))
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-4, atol=1e-4)
