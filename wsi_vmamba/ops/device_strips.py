"""The scan of one strip of rows on a torch device: what it does to states, and its output from the states that enter.

A strip is u (n, width, D) and proj (n, width, 4 * (R + 2 N)). States of the four directions are tensors (chains, D, N):
row directions have one chain for the whole strip, column directions one for each column. Triton runs it where the maps
are its own; elsewhere `strip_reference.walk` does, token by token, in the dtype of the maps or float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wsi_vmamba.ops import triton
from wsi_vmamba.ops.strip_reference import walk

#: dt_weight (4, D, R), dt_bias (4, D), A_logs (4 D, N) and Ds (4 D,).
ScanParameters = tuple[Tensor, Tensor, Tensor, Tensor]


class Transition(NamedTuple):
    """What a strip, or several in a row, does to states h that pass through: ``decay * h + state``."""

    decay: Tensor
    state: Tensor

    def then(self, other: Transition) -> Transition:
        """First this one, then the other."""
        return Transition(self.decay * other.decay, other(self.state))

    def __call__(self, entering: Tensor) -> Tensor:
        """The states that leave."""
        return torch.addcmul(self.state, self.decay, entering)


def state_shapes(parameters: ScanParameters, *, width: int) -> list[tuple[int, int, int]]:
    """Shapes of the states of the four directions of a strip that is ``width`` tokens wide."""
    channels, states = parameters[0].shape[1], parameters[2].shape[1]
    return [(chains, channels, states) for chains in (1, width) * 2]


def transitions(u: Tensor, proj: Tensor, parameters: ScanParameters) -> list[Transition]:
    """What a strip does to the states of the four directions."""
    if triton.supports(u):
        from wsi_vmamba.ops import triton_strips

        return [Transition(*pair) for pair in triton_strips.transitions(u, proj, parameters)]
    u, proj = _exact(u), _exact(proj)
    zeros = [u.new_zeros(shape) for shape in state_shapes(parameters, width=u.shape[1])]
    _, leaving, decays = walk(u, proj, parameters, zeros)
    return [Transition(*pair) for pair in zip(decays, leaving, strict=True)]


def scan_strip(
    u: Tensor, proj: Tensor, parameters: ScanParameters, entering: list[Tensor], *, out: Tensor
) -> list[Tensor]:
    """Write the scan of a strip to ``out``, four directions and skip, and return the states that leave.

    Args:
        u: of the strip.
        proj: of the strip.
        parameters: of the scan.
        entering: the states of the four directions that enter the strip.
        out: (n, width, D); may be ``u`` itself.
    """
    if triton.supports(u):
        from wsi_vmamba.ops import triton_strips

        return triton_strips.scan_strip(u, proj, parameters, entering, out=out)
    y, leaving, _ = walk(_exact(u), _exact(proj), parameters, entering)
    out.copy_(y)
    return leaving


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def entering_columns(whole: Transition, *, reverse: bool) -> Tensor:
    """What enters every column of a map, from what each does to states: columns follow each other, by doubling.

    Args:
        whole: transitions of whole columns, (width, D, N) each.
        reverse: the columns run from right to left.
    """
    decay, state = (t.flip(0) if reverse else t for t in whole)
    step = 1
    while step < len(state):
        # After this, each holds itself and the 2 * step - 1 columns before it.
        state = torch.cat([state[:step], torch.addcmul(state[step:], decay[step:], state[:-step])])
        decay = torch.cat([decay[:step], decay[step:] * decay[:-step]])
        step *= 2
    entering = torch.cat([torch.zeros_like(state[:1]), state[:-1]])
    return entering.flip(0) if reverse else entering
