"""The features of a region with their gradients, as one step of autograd that holds none of the maps between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from wsi_vmamba.errors import MemoryLimitError, UsageError
from wsi_vmamba.gradients.block import BlockPass
from wsi_vmamba.gradients.halving import shrink, shrink_gradients
from wsi_vmamba.gradients.strips import needed_bytes, plan_strips
from wsi_vmamba.gradients.totals import Totals
from wsi_vmamba.inference.convolve import pixel_tensor
from wsi_vmamba.inference.memory import available_bytes, largest_side_px
from wsi_vmamba.model.blocks import Block
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.model.vmamba import VMamba

_DTYPES = (torch.float32, torch.float64)
#: From the gradient of a part's result to that of its input, None of pixels; those of parameters go to the totals.
Undo = Callable[[Tensor, Totals], Tensor | None]


def region_features(model: VMamba, pixels: NDArray[np.uint8], *, strip_rows: int | None = None) -> Tensor:
    """Features of a whole region in one forward pass, with gradients for the parameters of the backbone.

    They are those of ``model.forward_features``, and so are the gradients, to rounding; memory is that of the maps
    between the blocks, not of all that is between those.

    Args:
        model: a VMamba on the CPU, in float32 or float64.
        pixels: RGB (H, W, 3), which must not change until the gradients have been computed.
        strip_rows: rows per strip; None chooses. It changes rounding, nothing else.

    Returns:
        (h, w, dim). Under `torch.no_grad` they have no gradients and nothing is kept.

    Raises:
        UsageError: the backbone is none that this is for, or the region smaller than one token.
        MemoryLimitError: there is not the memory; nothing has been allocated, and the message has a size that fits.
    """
    dtype = _check(model, pixels)
    learning = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    _check_memory(model, pixels, strip_rows=strip_rows, dtype=dtype, learning=learning)
    passing = _RegionPass(model, pixels, dtype=dtype, strip_rows=strip_rows, learning=learning)
    tokens: Tensor
    if learning:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        tokens = _Through.apply(passing, *parameters)  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            tokens = passing.forward()
    normed: Tensor = model.classifier.get_submodule("norm")(tokens)
    return normed[0]


def _check(model: nn.Module, pixels: NDArray[np.uint8]) -> torch.dtype:
    if not isinstance(model, VMamba):
        raise UsageError(
            f"gradients of a whole region are computed for VMambas, got a {type(model).__name__}"
        )
    kinds = {(parameter.device.type, parameter.dtype) for parameter in model.parameters()}
    if len(kinds) != 1 or not kinds <= {("cpu", dtype) for dtype in _DTYPES}:
        found = ", ".join(f"{dtype} on {device}" for device, dtype in sorted(kinds, key=str))
        raise UsageError(f"expected a backbone in float32 (or float64) on the CPU, got {found}")
    if torch.is_autocast_enabled("cpu"):
        raise UsageError(
            "gradients of a whole region are computed in the precision of the weights; leave out autocast"
        )
    if model.training and any(getattr(part, "drop_path_rate", 0.0) for part in model.modules()):
        raise UsageError(
            "stochastic depth would drop other branches when a strip is computed again; set_drop_path(model, 0)"
        )
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise UsageError(f"expected RGB pixels (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    return next(iter(kinds))[1]


def _check_memory(
    model: VMamba, pixels: NDArray[np.uint8], *, strip_rows: int | None, dtype: torch.dtype, learning: bool
) -> None:
    def needed(height_px: int, width_px: int) -> int:
        stages = plan_strips(
            model.config, height_px=height_px, width_px=width_px, itemsize=dtype.itemsize, strip_rows=strip_rows
        )  # fmt: skip
        if min(min(cut.height, cut.width) for cut in stages) < 1:
            raise UsageError(f"a region of {width_px} x {height_px} px is too small for this backbone")
        return needed_bytes(model.config, stages, itemsize=dtype.itemsize, learning=learning)

    height_px, width_px = pixels.shape[:2]
    wanted, free = needed(height_px, width_px), available_bytes()
    if wanted > free:
        side_px = largest_side_px(lambda side: needed(side, side) <= free)
        raise MemoryLimitError(
            f"learning from a region of {width_px} x {height_px} px needs {wanted / 1e9:.1f} GB, but "
            f"{max(free, 0) / 1e9:.1f} GB are free; take regions of {side_px} px or less, or a smaller backbone"
        )


class _Through(Function):
    @staticmethod
    def forward(ctx: Any, passing: _RegionPass, *parameters: nn.Parameter) -> Tensor:
        ctx.passing = passing
        ctx.parameters = parameters
        ctx.save_for_backward(*parameters)  # so that torch notices when they change before the gradients come
        return passing.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        totals = ctx.passing.backward(grad)
        return None, *(totals.of(parameter) for parameter in ctx.parameters)


class _RegionPass:
    """One region through the network: `forward` once, then `backward` once.

    What is kept between them: the map that enters each block and each downsampling, and the states between strips.
    """

    def __init__(
        self,
        model: VMamba,
        pixels: NDArray[np.uint8],
        *,
        dtype: torch.dtype,
        strip_rows: int | None,
        learning: bool,
    ) -> None:
        self._model = model
        self._pixels = pixel_tensor(pixels)[None]
        self._dtype = dtype
        height_px, width_px = pixels.shape[:2]
        self._stages = plan_strips(
            model.config, height_px=height_px, width_px=width_px, itemsize=dtype.itemsize, strip_rows=strip_rows
        )  # fmt: skip
        self._learning = learning
        self._undo: list[Undo] = []

    def forward(self) -> Tensor:
        """The last map, (1, h, w, dim)."""
        x = self._embedded()
        for i, stage in enumerate(self._model.layers):
            for block in stage.get_submodule("blocks").children():
                x = self._through_block(cast(Block, block), i, x)
            if i + 1 < len(self._stages):
                x = self._halved(stage.get_submodule("downsample"), i + 1, x)
        return x

    def backward(self, grad: Tensor) -> Totals:
        """The gradients of the parameters, from that of the last map.

        Raises:
            UsageError: it was called before; the maps are given back as the gradients pass them.
        """
        if not self._undo:
            raise UsageError(
                "the gradients of this region have been computed, and what they need is gone; encode it again"
            )
        totals = Totals()
        passed: Tensor | None = grad.clone(memory_format=torch.contiguous_format)
        while self._undo:
            assert passed is not None  # only what is undone last, the stem, ends it
            passed = self._undo.pop()(passed, totals)
        return totals

    def _through_block(self, block: Block, stage: int, x: Tensor) -> Tensor:
        passing = BlockPass(block, self._stages[stage])
        out = passing.forward(x)

        def undo(grad: Tensor, totals: Totals) -> Tensor:
            passing.backward(x, grad, totals)
            return grad

        return self._remember(undo, out, block)

    def _halved(self, layer: nn.Module, stage: int, x: Tensor) -> Tensor:
        cut = self._stages[stage]
        out = self._new_map(stage)
        shrink(layer, x, cut, out, factor=2)

        def undo(grad: Tensor, totals: Totals) -> Tensor | None:
            return shrink_gradients(layer, x, cut, grad, totals, module=layer, factor=2)

        return self._remember(undo, out, layer)

    def _embedded(self) -> Tensor:
        stem, cut = self._model.patch_embed, self._stages[0]
        out = self._new_map(0)
        shrink(self._stem, self._pixels, cut, out, factor=4)

        def undo(grad: Tensor, totals: Totals) -> Tensor | None:
            return shrink_gradients(self._stem, self._pixels, cut, grad, totals, module=stem, factor=4)

        return self._remember(undo, out, stem)

    def _stem(self, pixels: Tensor) -> Tensor:
        images = normalise(pixels, mean=self._model.mean, std=self._model.std)
        tokens: Tensor = self._model.patch_embed(images.to(self._dtype))
        return tokens

    def _new_map(self, stage: int) -> Tensor:
        cut = self._stages[stage]
        return torch.empty(1, cut.height, cut.width, self._model.config.dims[stage], dtype=self._dtype)

    def _remember(self, undo: Undo, out: Tensor, part: nn.Module) -> Tensor:
        """Keep what undoes a part, from the first on that learns: gradients need not reach what is beneath."""
        if self._learning and (self._undo or any(p.requires_grad for p in part.parameters())):
            self._undo.append(undo)
        return out
