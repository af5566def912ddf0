"""Gradients of parameters, added up over strips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Totals:
    """Adds up gradients by parameter."""

    def __init__(self) -> None:
        self._found: dict[nn.Parameter, Tensor] = {}

    def add(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
        """Add a gradient to each parameter; None adds nothing."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter in self._found:
                self._found[parameter] += gradient
            else:
                self._found[parameter] = gradient.clone()

    def of(self, parameter: nn.Parameter) -> Tensor | None:
        """What was added to a parameter; None where nothing was."""
        return self._found.get(parameter)

    def backward(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor],
        *,
        inputs: Sequence[Tensor],
        module: nn.Module,
    ) -> list[Tensor]:
        """Add the gradients of a module's parameters, and return those of ``inputs``."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(outputs, [*inputs, *parameters], gradients, allow_unused=True)
        self.add(parameters, found[len(inputs) :])
        return [
            torch.zeros_like(leaf) if one is None else one for leaf, one in zip(inputs, found, strict=False)
        ]
