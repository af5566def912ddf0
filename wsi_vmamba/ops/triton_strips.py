"""The scan of one strip of rows with the Triton kernels, from states that enter it: see `device_strips`.

Tiles are summarized and scanned by the kernels of a whole map. Between the two, the rows of a strip are one chain of
segments, as those of a map are. Its columns are not: each continues in the strips above and below and not in its
neighbour, so their few segments are combined column by column in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wsi_vmamba.ops import triton_launch
from wsi_vmamba.ops.triton import _check, on_device, plan_for
from wsi_vmamba.ops.triton_launch import Inputs, TileLaunch
from wsi_vmamba.ops.triton_plan import Plan

#: States of the four directions inside this module: (chains, N, channels), chains in scan order.
Four = list[Tensor]


def transitions(u: Tensor, proj: Tensor, parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Decay and state of the four directions, float32; see `device_strips.transitions`."""
    plan, inputs = _prepare(u, proj, parameters)
    decays, states = _new_states(plan, u), _new_states(plan, u)
    with torch.no_grad(), on_device(u):
        launch = TileLaunch.of(plan, inputs)
        for first in plan.groups():
            group = plan.group_at(first)
            step, state, _ = triton_launch.summarise(launch, first=first, group=group, gy=None)
            rates = _rates(inputs.A_logs, plan, first, group)
            zeros = [torch.zeros_like(t[..., first : first + group]) for t in states]
            totals = _total_steps(plan, step[0])
            leaving = _enter(plan, step, state, inputs.A_logs, rates, zeros, first=first)
            for k in range(4):
                decays[k][..., first : first + group] = torch.exp(totals[k][:, None] * rates[k])
                states[k][..., first : first + group] = leaving[k]
    return list(zip(_outside(decays), _outside(states), strict=True))


def scan_strip(
    u: Tensor, proj: Tensor, parameters: Sequence[Tensor], entering: Sequence[Tensor], *, out: Tensor
) -> list[Tensor]:
    """Write the scan to ``out`` and return what leaves, float32; see `device_strips.scan_strip`."""
    plan, inputs = _prepare(u, proj, parameters)
    inside, leaving = _inside(entering), _new_states(plan, u)
    with torch.no_grad(), on_device(u):
        launch = TileLaunch.of(plan, inputs, out[None])
        for first in plan.groups():
            group = plan.group_at(first)
            step, state, _ = triton_launch.summarise(launch, first=first, group=group, gy=None)
            rates = _rates(inputs.A_logs, plan, first, group)
            part = [t[..., first : first + group] for t in inside]
            left = _enter(plan, step, state, inputs.A_logs, rates, part, first=first)
            for into, found in zip(leaving, left, strict=True):
                into[..., first : first + group] = found
            triton_launch.apply(launch, state, out[None], first=first, group=group)
    return _outside(leaving)


def _prepare(u: Tensor, proj: Tensor, parameters: Sequence[Tensor]) -> tuple[Plan, Inputs]:
    dt_weight, dt_bias, A_logs, Ds = parameters
    _check(u[None], proj[None], dt_weight, A_logs)
    inputs = triton_launch.prepare(u[None], proj[None], dt_weight, dt_bias, A_logs, Ds)
    return plan_for(u[None], dt_weight, A_logs), inputs


def _enter(
    plan: Plan, step: Tensor, state: Tensor, A_logs: Tensor, rates: Four, entering: Four, *, first: int
) -> Four:
    """Replace, in place, what each segment yields by what enters it, given what enters the strip; give what leaves.

    ``step`` (1, segments, channels) and ``state`` (1, segments, N, channels) are those of `triton_launch.summarise`.
    """
    rows = (0, 2)
    last, leaving = {}, {}
    for k in rows:
        own, steps = state[0, _span(plan, k)], step[0, _span(plan, k)]
        last[k] = own[-1].clone()
        own[0] += torch.exp(steps[0] * rates[k]) * entering[k][0]
    triton_launch.combine(
        plan, step, state, A_logs, first=first, group=state.shape[3], reverse=False, rows_only=True
    )
    for k in rows:
        own, steps = state[0, _span(plan, k)], step[0, _span(plan, k)]
        own[0] = entering[k][0]
        leaving[k] = (last[k] + torch.exp(steps[-1] * rates[k]) * own[-1])[None]
    for k in (1, 3):
        # Segments of a column lie beside each other, in scan order.
        own = state[0, _span(plan, k)].view(plan.width, plan.tiles_h, *state.shape[2:])
        steps = step[0, _span(plan, k)].view(plan.width, plan.tiles_h, 1, -1)
        h = entering[k]
        for i in range(plan.tiles_h):
            after = torch.addcmul(own[:, i], torch.exp(steps[:, i] * rates[k]), h)
            own[:, i] = h
            h = after
        leaving[k] = h
    return [leaving[k] for k in range(4)]


def _span(plan: Plan, k: int) -> slice:
    """Where the segments of a direction lie: see `triton_tiles.segment_offset`."""
    length = plan.length_columns if k % 2 else plan.length_rows
    begin = (2 * plan.length_rows if k % 2 else 0) + k // 2 * length
    return slice(begin, begin + length)


def _total_steps(plan: Plan, step: Tensor) -> Four:
    """The sum of the steps of each chain, (chains, channels), of ``step`` (segments, channels)."""
    parts = [step[_span(plan, k)] for k in range(4)]
    chains = [1, plan.width] * 2
    return [part.view(n, -1, step.shape[1]).sum(1) for n, part in zip(chains, parts, strict=True)]


def _rates(A_logs: Tensor, plan: Plan, first: int, group: int) -> Four:
    """A = -exp(A_logs) of a group of channels in the four directions, (N, channels)."""
    rates = -torch.exp(A_logs).view(4, plan.channels, plan.state)[:, first : first + group]
    return list(rates.transpose(1, 2))


def _new_states(plan: Plan, like: Tensor) -> Four:
    shapes = [(chains, plan.state, plan.channels) for chains in (1, plan.width) * 2]
    return [torch.empty(shape, dtype=torch.float32, device=like.device) for shape in shapes]


def _inside(states: Sequence[Tensor]) -> Four:
    """States (chains, D, N) by column as this module has them."""
    turned = [state.transpose(1, 2) for state in states]
    return [*turned[:3], turned[3].flip(0)]


def _outside(states: Four) -> Four:
    """The way back."""
    return [state.transpose(1, 2).contiguous() for state in (*states[:3], states[3].flip(0))]
