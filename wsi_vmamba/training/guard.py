"""A guard that sees early that a training diverges, and finds the layer in which it begins.

Watching costs two comparisons a step. Only when something is wrong is the step made once more, with hooks.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

#: Steps that the usual size of loss and gradient is known from before anything is taken for an explosion.
_KNOWN_STEPS = 16
#: Steps whose gradients are remembered.
_REMEMBERED_STEPS = 64
#: How far above usual is too far, and for how many steps on end.
_GRADIENT_FACTOR, _LOSS_FACTOR, _STRIKES = 100.0, 4.0, 5
#: Outputs of layers beyond this are what overflows further on; those of sound networks stay far beneath it.
_HUGE = 1e4
#: Layers named with the largest gradients.
_NAMED = 3
#: The part of a parameter's or a module's name that is its layer.
_LAYER = re.compile(r"(.*?layers\.\d+\.(?:blocks\.\d+|downsample)|.*?(?:patch_embed|classifier)|[^.]*)")


@dataclass
class Watch:
    """What is usual in a training; plain numbers, for a checkpoint."""

    first_losses: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    strikes: int = 0

    def see(self, *, loss: float, gradient: float) -> str:
        """Take in a step; say what is wrong with it, or nothing.

        Args:
            loss: of the step.
            gradient: norm of its gradient, before clipping.
        """
        for name, value in (("loss", loss), ("norm of the gradient", gradient)):
            if not math.isfinite(value):
                return f"the {name} is {value}"
        wrong = self._explodes(loss=loss, gradient=gradient)
        self.strikes = self.strikes + 1 if wrong else 0
        if self.strikes >= _STRIKES:
            return f"{wrong}, for {_STRIKES} steps on end"
        if len(self.first_losses) < _KNOWN_STEPS:
            self.first_losses.append(loss)
        if not wrong:  # what is not usual does not become so
            self.gradients = [*self.gradients, gradient][-_REMEMBERED_STEPS:]
        return ""

    def _explodes(self, *, loss: float, gradient: float) -> str:
        if len(self.gradients) < _KNOWN_STEPS:
            return ""
        usual, highest = median(self.gradients), max(map(abs, self.first_losses))
        if gradient > _GRADIENT_FACTOR * usual:
            return f"the norm of the gradient is {gradient:.3g}, usually {usual:.3g}"
        if loss > _LOSS_FACTOR * highest:
            return f"the loss is {loss:.3g}, at the start it was {highest:.3g} at most"
        return ""


def layer_of(name: str) -> str:
    """The layer that a parameter or module belongs to: a block, a downsampling, the stem, a head."""
    found = _LAYER.match(name)
    return found[1] if found else name


def diagnose(model: nn.Module, make_step: Callable[[], object], *, advice: str) -> str:
    """Say in which layer a step goes wrong, and what may help.

    Args:
        model: whose layers are named.
        make_step: makes the step again, forward and backward, from the same weights; gradients are left in the model.
        advice: what may help, in words.
    """
    broken = [name for name, parameter in model.named_parameters() if not _sound(parameter)]
    if broken:
        return f"its weights are not finite already: {_some(broken)}; go on from an earlier checkpoint, and {advice}"
    model.zero_grad(set_to_none=True)
    with _watched_outputs(model) as outputs:
        make_step()
    norms = gradient_norms(model)
    return "; ".join([*_begins(outputs, norms), *_largest(norms), advice])


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Norm of the gradient of each layer, in the order of the model."""
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            squares[layer_of(name)] += float(parameter.grad.double().square().sum())
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def _begins(outputs: Mapping[str, float], norms: Mapping[str, float]) -> Iterator[str]:
    """Where it begins: forward at the first output that is too large, else backward from the last odd gradient."""
    first = next((name for name, size in outputs.items() if not size <= _HUGE), None)
    if first is not None:
        size = outputs[first]
        reach = f"reaches {size:.3g}" if math.isfinite(size) else "is not finite"
        yield f"it begins in {first}, whose output {reach}"
        return
    odd = [layer for layer, norm in norms.items() if not math.isfinite(norm)]
    if odd:
        yield f"it begins in the gradient of {odd[-1]}; all outputs are finite"


def _largest(norms: Mapping[str, float]) -> Iterator[str]:
    finite = {layer: norm for layer, norm in norms.items() if math.isfinite(norm)}
    if finite:
        most = sorted(finite, key=lambda layer: -finite[layer])[:_NAMED]
        yield "largest gradients: " + ", ".join(f"{layer} {finite[layer]:.3g}" for layer in most)


@contextmanager
def _watched_outputs(model: nn.Module) -> Iterator[dict[str, float]]:
    """The largest absolute output of each module, in the order in which they finish; parts before their wholes."""
    outputs: dict[str, float] = {}
    handles: list[RemovableHandle] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                size = float(output.detach().abs().max())  # NaN where any is
                outputs[name] = size if size > outputs.get(name, 0.0) or math.isnan(size) else outputs[name]

        return hook

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(watch(name)))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _sound(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
