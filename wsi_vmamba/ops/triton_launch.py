"""Launch the Triton kernels of the four-direction scan: allocate scratch, choose grids, go through the passes."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsi_vmamba.ops import triton_grad_kernels, triton_kernels
from wsi_vmamba.ops.triton_plan import Plan, ceil_div, power_of_two

#: Channels one program combines carries of; a warp for each 32.
_CARRY_CHANNELS = 64
#: Segments whose summaries are loaded at once.
_CARRY_STEPS = 16


class Inputs(NamedTuple):
    """The tensors of one scan as the kernels take them: channel stride 1, parameters float32 contiguous."""

    u: Tensor
    proj: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_logs: Tensor
    Ds: Tensor


class Gradients(NamedTuple):
    """Gradients in the order of `Inputs`; those of the parameters are float32."""

    u: Tensor
    proj: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_logs: Tensor
    Ds: Tensor


def prepare(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> Inputs:
    """Return the inputs as the kernels take them; maps that are already channels-last are not copied."""
    parameters = (t.detach().to(torch.float32).contiguous() for t in (dt_weight, dt_bias, A_logs, Ds))
    return Inputs(_channels_last(u), _channels_last(proj), *parameters)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(3) == 1 else tensor.contiguous()


def _strides(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.stride(0), tensor.stride(1), tensor.stride(2)


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Scratch; tests replace this by one that is filled with NaN."""
    return torch.empty(shape, dtype=torch.float32, device=device)


def _units(step: int, *tensors: Tensor) -> int:
    """The largest power of two up to ``step`` that divides every stride of the maps ``tensors``."""
    return gcd(step, *(stride for tensor in tensors for stride in _strides(tensor)))


def _in_units(tensor: Tensor, unit: int) -> tuple[int, ...]:
    return tuple(stride // unit for stride in _strides(tensor))


@dataclass(frozen=True)
class TileLaunch:
    """What the launches over tiles of one scan share: the units strides are counted in, and compile-time options.

    Attributes:
        vector: channels of a map that a thread loads at once.
        pack: values of the projection that are loaded at once.
    """

    plan: Plan
    inputs: Inputs
    vector: int
    pack: int

    @classmethod
    def of(cls, plan: Plan, inputs: Inputs, *others: Tensor) -> TileLaunch:
        """Find the units for the maps ``inputs.u``, ``inputs.proj`` and ``others``."""
        per_direction = plan.rank + 2 * plan.state
        return cls(
            plan=plan,
            inputs=inputs,
            # Two channels a thread spread 32 channels over half a warp, see `triton_tiles`.
            vector=_units(2, inputs.u, *others),
            pack=gcd(per_direction, _units(8, inputs.proj)),
        )

    def sizes(self, first: int, group: int) -> tuple[int, ...]:
        """The integers every kernel over tiles takes after its pointers."""
        plan = self.plan
        packed = (plan.rank + 2 * plan.state) // self.pack
        blocks = ceil_div(group, plan.tiling.channels)
        sizes = (plan.height, plan.width, plan.channels, plan.rank, packed, first, group)
        return (*sizes, plan.tiles_h, plan.tiles_w, blocks)

    def grid(self, group: int) -> tuple[int]:
        """One program per tile and channel block."""
        return (self.plan.tiles * ceil_div(group, self.plan.tiling.channels),)

    def strides(self, *maps: Tensor) -> tuple[int, ...]:
        """Strides of maps, in units of ``vector``."""
        return tuple(stride for tensor in maps for stride in _in_units(tensor, self.vector))

    @property
    def proj_strides(self) -> tuple[int, ...]:
        """Strides of the projections, in units of ``pack``."""
        return _in_units(self.inputs.proj, self.pack)

    @property
    def options(self) -> dict[str, Any]:
        """Compile-time arguments."""
        tiling = self.plan.tiling
        return {
            "N": self.plan.state,
            "TH": tiling.rows,
            "TW": tiling.columns,
            "BD": tiling.channels,
            "RP": power_of_two(self.plan.rank, least=16),
            "VEC": self.vector,
            "PACK": self.pack,
            # 16-bit values are exact in tf32; float32 takes three products.
            "PRECISION": "tf32x3" if self.inputs.proj.dtype == torch.float32 else "tf32",
            "num_warps": tiling.warps,
            "enable_fp_fusion": True,
        }


def summarise(
    launch: TileLaunch, *, first: int, group: int, gy: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (step, state, adjoint) of every segment; ``adjoint`` only when output gradients are given.

    ``step`` is (batch, segments, group), the others (batch, segments, state, group), all float32.
    """
    plan, inputs = launch.plan, launch.inputs
    device = inputs.u.device
    step = _empty((plan.batch, plan.segments, group), device)
    state = _empty((plan.batch, plan.segments, plan.state, group), device)
    adjoint = None if gy is None else _empty((plan.batch, plan.segments, plan.state, group), device)
    gradient = inputs.u if gy is None else gy
    triton_kernels.summary_kernel[launch.grid(group)](
        inputs.u, gradient, inputs.proj, inputs.dt_weight, inputs.dt_bias, inputs.A_logs,
        step, state, state if adjoint is None else adjoint,
        *launch.sizes(first, group), *launch.strides(inputs.u, gradient), *launch.proj_strides,
        ADJOINT=gy is not None, **launch.options,
    )  # fmt: skip
    return step, state, adjoint


def combine(
    plan: Plan,
    step: Tensor,
    state: Tensor,
    A_logs: Tensor,
    *,
    first: int,
    group: int,
    reverse: bool,
    rows_only: bool = False,
) -> None:
    """Replace, in place, the state each segment yields by the state that enters it.

    ``reverse`` walks against the scan order, as gradients do; ``rows_only`` leaves the column directions as they are.
    """
    lengths = plan.length_rows, 0 if rows_only else plan.length_columns
    chunk_step = _empty((plan.batch, 4, plan.chunks, group), step.device)
    chunk_state = _empty((plan.batch, 4, plan.chunks, plan.state, group), step.device)
    width = min(_CARRY_CHANNELS, power_of_two(group, least=16))
    blocks = ceil_div(group, width)
    options: dict[str, Any] = {
        "N": plan.state,
        "BD": width,
        "STEPS": _CARRY_STEPS,
        "num_warps": max(1, width // 32),
        "enable_fp_fusion": True,
    }
    grid = (plan.chunks * blocks, 4 * plan.state, plan.batch)
    triton_kernels.chunk_kernel[grid](
        step, state, A_logs, chunk_step, chunk_state, *lengths, plan.channels,
        first, group, plan.chunks, plan.chunk_length, blocks, REVERSE=reverse, **options,
    )  # fmt: skip
    triton_kernels.carry_kernel[(blocks, 4 * plan.state, plan.batch)](
        chunk_step, chunk_state, A_logs, plan.channels, first, group, plan.chunks, **options
    )
    triton_kernels.enter_kernel[grid](
        step, state, A_logs, chunk_state, *lengths, plan.channels,
        first, group, plan.chunks, plan.chunk_length, blocks, REVERSE=reverse, **options,
    )  # fmt: skip


def forward(plan: Plan, inputs: Inputs, out: Tensor) -> None:
    """Scan ``inputs`` and write the sum of the four directions to ``out``, which may be ``inputs.u`` itself."""
    launch = TileLaunch.of(plan, inputs, out)
    for first in plan.groups():
        group = plan.group_at(first)
        step, state, _ = summarise(launch, first=first, group=group, gy=None)
        combine(plan, step, state, inputs.A_logs, first=first, group=group, reverse=False)
        apply(launch, state, out, first=first, group=group)


def apply(launch: TileLaunch, state: Tensor, out: Tensor, *, first: int, group: int) -> None:
    """Scan a group of channels from the states that enter its segments and write the sum to ``out``."""
    inputs = launch.inputs
    triton_kernels.apply_kernel[launch.grid(group)](
        *inputs, state, out, *launch.sizes(first, group),
        *launch.strides(inputs.u), *launch.proj_strides, *launch.strides(out), **launch.options,
    )  # fmt: skip


def backward(plan: Plan, inputs: Inputs, gy: Tensor) -> Gradients:
    """Return the gradients of every input; states are recomputed, nothing of the forward pass is needed.

    Sums over tiles and channel blocks are made from partial sums in a fixed order, so results are repeatable.
    """
    gy = _channels_last(gy)
    device, channels, rank, state = gy.device, plan.channels, plan.rank, plan.state
    planes = ceil_div(channels, plan.tiling.channels)
    du = torch.empty(inputs.u.shape, dtype=inputs.u.dtype, device=device)
    dproj = _empty((planes, *inputs.proj.shape), device)
    dweight = _empty((plan.tiles, 4, channels, rank), device)
    dbias = _empty((plan.tiles, 4, channels), device)
    dA_logs = _empty((plan.tiles, 4 * channels, state), device)
    dskip = _empty((plan.tiles, channels), device)
    launch = TileLaunch.of(plan, inputs, gy, du)
    for first in plan.groups():
        group = plan.group_at(first)
        step, enter, adjoint = summarise(launch, first=first, group=group, gy=gy)
        assert adjoint is not None
        combine(plan, step, enter, inputs.A_logs, first=first, group=group, reverse=False)
        combine(plan, step, adjoint, inputs.A_logs, first=first, group=group, reverse=True)
        triton_grad_kernels.grad_kernel[launch.grid(group)](
            inputs.u, gy, inputs.proj, inputs.dt_weight, inputs.dt_bias, inputs.A_logs, inputs.Ds, enter, adjoint,
            du, dproj, dweight, dbias, dA_logs, dskip, plan.batch, *launch.sizes(first, group),
            *launch.strides(inputs.u, gy), *launch.proj_strides, *launch.strides(du), **launch.options,
        )  # fmt: skip
    return Gradients(
        du,
        dproj.sum(0).to(inputs.proj.dtype),
        dweight.sum(0),
        dbias.sum(0),
        dA_logs.sum(0),
        dskip.sum(0).repeat(4),
    )
