"""`strip_gradients.StripScan` in plain torch, token by token: what the kernels are measured against, in any dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Tensors of the four directions.
Four = list[Tensor]


class ReferenceStripScan:
    """See `strip_gradients.StripScan`; states are (chains, D, N): rows of a strip are one chain, columns one each."""

    def __init__(self, parameters: tuple[Tensor, Tensor, Tensor, Tensor], *, width: int, strips: int) -> None:
        """Keep the parameters; see `strip_gradients.strip_scan`."""
        self._parameters = parameters
        self._strips = strips
        dt_weight, _, A_logs, _ = parameters
        self._shapes = [(chains, dt_weight.shape[1], A_logs.shape[1]) for chains in (1, width) * 2]
        self._forward: list[tuple[Four, Four]] = [([], [])] * strips
        self._backward: list[tuple[Four, Four]] = [([], [])] * strips
        self._entering: list[Four] = []
        self._leaving: list[Four] = []
        self._totals = [torch.zeros_like(t) for t in parameters]

    def summarize(self, u: Tensor, proj: Tensor, *, strip: int) -> None:
        """See `StripScan.summarize`."""
        _, leaving, decays = walk(u, proj, self._parameters, self._zeros())
        self._forward[strip] = decays, leaving

    def combine(self) -> None:
        """See `StripScan.combine`."""
        self._entering = _combine(self._forward, reverse=False)
        self._forward = []

    def scan(self, u: Tensor, proj: Tensor, *, strip: int) -> Tensor:
        """See `StripScan.scan`."""
        return walk(u, proj, self._parameters, self._entering[strip])[0]

    def summarize_adjoint(self, u: Tensor, proj: Tensor, grad_y: Tensor, *, strip: int) -> None:
        """See `StripScan.summarize_adjoint`."""
        with torch.enable_grad():
            entering = [state.requires_grad_() for state in self._zeros()]
            y, _, decays = walk(torch.zeros_like(u), proj.detach(), self._parameters, entering)
            gradients = torch.autograd.grad(y, entering, grad_y)
        self._backward[strip] = [decay.detach() for decay in decays], list(gradients)

    def combine_adjoint(self) -> None:
        """See `StripScan.combine_adjoint`."""
        self._leaving = _combine(self._backward, reverse=True)
        self._backward = []

    def gradients(self, u: Tensor, proj: Tensor, grad_y: Tensor, *, strip: int) -> tuple[Tensor, Tensor]:
        """See `StripScan.gradients`."""
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (u, proj, *self._parameters)]
            y, leaving, _ = walk(inputs[0], inputs[1], inputs[2:], self._entering[strip])
            found = torch.autograd.grad([y, *leaving], inputs, [grad_y, *self._leaving[strip]])
        for total, share in zip(self._totals, found[2:], strict=True):
            total += share
        return found[0], found[1]

    def weight_gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `StripScan.weight_gradients`."""
        dt_weight, dt_bias, A_logs, Ds = self._totals
        return dt_weight, dt_bias, A_logs, Ds

    def _zeros(self) -> Four:
        return [self._parameters[0].new_zeros(shape) for shape in self._shapes]


def walk(
    u: Tensor, proj: Tensor, parameters: Sequence[Tensor], entering: Sequence[Tensor]
) -> tuple[Tensor, Four, Four]:
    """Walk over a strip in the four directions.

    Args:
        u: (n, width, D).
        proj: (n, width, 4 * (R + 2 N)).
        parameters: dt_weight, dt_bias, A_logs and Ds.
        entering: states (chains, D, N) of the four directions.

    Returns:
        y (n, width, D), the states that leave, and what the strip multiplies the entering ones by.
    """
    dt_weight, dt_bias, A_logs, Ds = parameters
    rank, states = dt_weight.shape[2], A_logs.shape[1]
    rates = -torch.exp(A_logs).view(4, -1, states)
    y = u * Ds.view(4, -1).sum(0)
    leaving, decays = [], []
    for k, own in enumerate(proj.chunk(4, dim=-1)):
        low_rank, b, c = torch.split(_chains(own, k), [rank, states, states], dim=-1)
        step = F.softplus(low_rank @ dt_weight[k].t() + dt_bias[k])  # (chains, length, D)
        decay = torch.exp(step[..., None] * rates[k])
        drive = (step * _chains(u, k))[..., None] * b[:, :, None]
        h, read = entering[k], []
        for t in range(step.shape[1]):
            h = decay[:, t] * h + drive[:, t]
            read.append((h * c[:, t, None]).sum(-1))
        y = y + _on_map(torch.stack(read, dim=1), k, like=u)
        leaving.append(h)
        decays.append(torch.exp(step.sum(1)[..., None] * rates[k]))
    return y, leaving, decays


def _chains(x: Tensor, k: int) -> Tensor:
    """Tokens of a strip (n, width, C) in the order of a direction, (chains, length, C)."""
    chains = x.reshape(1, -1, x.shape[-1]) if k % 2 == 0 else x.transpose(0, 1)
    return chains.flip(1) if k >= 2 else chains


def _on_map(chains: Tensor, k: int, *, like: Tensor) -> Tensor:
    """The way back."""
    chains = chains.flip(1) if k >= 2 else chains
    return chains.reshape(like.shape) if k % 2 == 0 else chains.transpose(0, 1)


def _combine(transitions: Sequence[tuple[Four, Four]], *, reverse: bool) -> list[Four]:
    """What enters every strip in every direction, from decay and state of each: h_out = P h_in + S."""
    found: list[Four] = [[torch.zeros_like(state) for state in states] for _, states in transitions]
    for k in range(4):
        h = torch.zeros_like(transitions[0][1][k][0])
        for strip, chain in _order(transitions, k, backward=(k >= 2) != reverse):
            found[strip][k][chain] = h
            decays, states = transitions[strip]
            h = decays[k][chain] * h + states[k][chain]
    return found


def _order(transitions: Sequence[tuple[Four, Four]], k: int, *, backward: bool) -> Iterator[tuple[int, int]]:
    """Strips and chains in the order in which a direction goes through them: each column through all strips."""
    places = [
        (strip, chain) for chain in range(len(transitions[0][1][k])) for strip in range(len(transitions))
    ]
    return reversed(places) if backward else iter(places)
