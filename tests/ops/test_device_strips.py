"""Strips of a map one by one, states handed on, against the whole map: in torch here, with Triton in its own tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsi_vmamba.ops.device_strips import (
    Transition,
    entering_columns,
    scan_strip,
    state_shapes,
    transitions,
)


def scan_in_strips(inputs: tuple[Tensor, ...], *, rows: int) -> Tensor:
    """The scan of a map (1, H, W, D), ``rows`` at a time, as a pass over strips does it."""
    u, proj, *rest = inputs
    parameters = (rest[0], rest[1], rest[2], rest[3])
    strips = list(zip(u[0].split(rows), proj[0].split(rows), strict=True))
    found = [transitions(*strip, parameters) for strip in strips]
    down, up = found[0][1], found[-1][3]
    for each in found[1:]:
        down = down.then(each[1])
    for each in found[-2::-1]:
        up = up.then(each[3])
    shapes = state_shapes(parameters, width=u.shape[2])
    row, row_up = (torch.zeros(shapes[0], dtype=down.state.dtype, device=u.device) for _ in range(2))
    column, column_up = entering_columns(down, reverse=False), entering_columns(up, reverse=True)
    from_below = []
    for each in reversed(found):
        from_below.insert(0, (row_up, column_up))
        row_up, column_up = each[2](row_up), each[3](column_up)
    y = []
    for (x, p), (row_up, column_up) in zip(strips, from_below, strict=True):
        out = x.clone()
        row, column, *_ = scan_strip(out, p, parameters, [row, column, row_up, column_up], out=out)
        y.append(out)
    return torch.cat(y)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((1, 5, 9, 19, 2, 3), 1),
        ((1, 5, 9, 19, 2, 3), 2),
        ((1, 1, 37, 24, 2, 1), 64),
        ((1, 37, 1, 24, 2, 1), 2),
    ],
    ids=str,
)
def test_strips_of_any_height_give_the_scan_of_the_whole_map(shape: tuple[int, ...], rows: int, cases):
    case = cases(shape)
    double = tuple(t.double() for t in case.inputs)
    for inputs, tolerance in ((double, 1e-13), (case.inputs, 5e-6)):
        y = scan_in_strips(inputs, rows=rows)
        assert y.dtype == inputs[0].dtype
        assert (y - case.y[0]).abs().max() <= tolerance * case.y.abs().max()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", [1, 2, 7, 8, 33])
def test_columns_are_entered_by_what_all_before_them_leave(width: int, *, reverse: bool):
    generator = torch.Generator().manual_seed(width)
    decay, state = torch.rand(2, width, 3, 2, dtype=torch.float64, generator=generator)
    expected, h = torch.zeros_like(state), torch.zeros_like(state[0])
    for column in reversed(range(width)) if reverse else range(width):
        expected[column] = h
        h = decay[column] * h + state[column]
    found = entering_columns(Transition(decay, state), reverse=reverse)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
