"""Training on the CPU: pieces of a VMamba block as single steps of autograd, with the C++ kernels between matmuls.

Each takes channels-last maps of float32 or bfloat16 and float32 parameters, computes in the dtype of the map, and keeps
for its gradient little more than its inputs: what lies between is computed again, block by block, while it is in the
cache. `wsi_vmamba.model.fused` decides when they run; the modules themselves are the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsi_vmamba.ops.cpu_module import array, native
from wsi_vmamba.ops.packing import pack_scan, unpack_gradients
from wsi_vmamba.ops.walked_map import STORAGE, walk_map, walk_map_gradients

#: Tokens that go through an MLP together.
BLOCK_TOKENS = 8192
# Below this many numbers per thread, starting the thread costs more than it saves.
_WORK_PER_THREAD = 400_000


def mlp(
    x: Tensor, norm: tuple[Tensor, Tensor, float], fc1: tuple[Tensor, Tensor], fc2: tuple[Tensor, Tensor]
) -> Tensor:
    """Return x + fc2(GELU(fc1(norm(x)))), the exact GELU.

    Args:
        x: (..., D).
        norm: weight (D,), bias (D,) and eps of the layer norm.
        fc1: weight (hidden, D) and bias (hidden,).
        fc2: weight (D, hidden) and bias (D,).
    """
    return _apply(_Mlp, x, *norm, *fc1, *fc2)


def norm_linear(
    x: Tensor, norm: tuple[Tensor, Tensor, float], weight: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Return norm(x) times ``weight`` (out, D), plus ``residual`` (..., out) where there is one."""
    return _apply(_NormLinear, x, *norm, weight, residual)


def scan(u: Tensor, x_proj: Tensor, parameters: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Scan small maps u (B, H, W, D) with the projections u times ``x_proj`` (4 (R + 2), D); see `ss2d_scan`.

    ``parameters`` are dt_weight, dt_bias, A_logs and Ds; `walked_map.suits` says which maps.
    """
    return _apply(_Scan, u, x_proj, *parameters)


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return SiLU of the depthwise 3x3 convolution of x (B, H, W, D) with ``weight`` (D, 1, 3, 3), zeros outside."""
    return _apply(_DepthwiseSilu, x, weight, bias)


def stem(
    images: Tensor, weight: Tensor, bias: Tensor, norm: tuple[Tensor, Tensor, float], dtype: torch.dtype
) -> Tensor:
    """Return GELU(norm(conv(images))) of float32 images (B, 3, H, W), which get no gradient themselves.

    Args:
        images: (B, 3, H, W).
        weight: (D, 3, 3, 3); stride 2 and a border of one zero.
        bias: (D,).
        norm: weight (D,), bias (D,) and eps of the layer norm.
        dtype: of the result (B, ceil(H / 2), ceil(W / 2), D), float32 or bfloat16.
    """
    return _apply(_Stem, images, weight, bias, *norm, dtype)


def conv_stride_2(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the 3x3 convolution of x (B, H, W, D) with ``weight`` (out, D, 3, 3), stride 2, a border of one zero.

    It is one product of matrices over the nine neighbours of each token side by side: for maps of few tokens and many
    channels in bfloat16, whose gradients oneDNN's convolution is slow at (docs/performance.md).
    """
    return _apply(_ConvStride2, x, weight, bias)


def layer_norm(x: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
    """Normalise x (..., D) over its last axis, scale and shift."""
    return _apply(_Norm, x, *norm)


def _apply(function: type[Function], *inputs: Any) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]
    return result


class _Mlp(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
    ) -> Tensor:
        x = x.contiguous()
        w1, b1, w2, b2 = (t.to(x.dtype) for t in (w1, b1, w2, b2))
        rows = x.view(-1, x.shape[-1])
        out, hidden = torch.empty_like(rows), rows.new_empty(rows.shape[0], w1.shape[0])
        moments = _moments(rows)
        for at in _blocks(rows):
            torch.addmm(b1, _norm(rows[at], scale, shift, eps, _part(moments, at)), w1.t(), out=hidden[at])
            torch.addmm(b2, _gelu(hidden[at]), w2.t(), out=out[at])
        out += rows
        ctx.save_for_backward(x, hidden, scale, shift, w1, w2, moments)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, scale, shift, w1, w2, moments = ctx.saved_tensors
        rows, grad_rows = x.view(-1, x.shape[-1]), grad.to(x.dtype).contiguous().view(-1, x.shape[-1])
        grad_x = torch.empty_like(rows)
        to_scale, to_shift, to_b2, to_b1 = (torch.zeros(n) for n in (*(3 * [rows.shape[1]]), w1.shape[0]))
        native().sum_tokens(_in(grad_rows), _in(to_b2), _threads(grad_rows))
        to_w1 = to_w2 = None
        for at in _blocks(rows):
            grad_hidden = grad_rows[at] @ w2
            active = torch.empty_like(grad_hidden)
            there = _in(grad_hidden)
            native().gelu_gradients(_in(hidden[at]), there, there, _in(active), _in(to_b1), _threads(active))
            to_w2 = _add(to_w2, grad_rows[at].t() @ active)
            grad_normed = grad_hidden @ w1
            normed = torch.empty_like(grad_normed)
            weights = _in(scale), _in(shift), _in(_part(moments, at))
            inputs = _in(rows[at]), _in(grad_normed), _in(grad_rows[at]), *weights
            outputs = _in(grad_x[at]), _in(normed), _in(to_scale), _in(to_shift)
            native().train_norm_gradients(*inputs, *outputs, _threads(normed))
            # The long side to the right: a third faster than the other way round.
            to_w1 = _add(to_w1, normed.t() @ grad_hidden)
        assert to_w1 is not None
        assert to_w2 is not None
        to_w1 = to_w1.t().contiguous().float()
        return grad_x.view(x.shape), to_scale, to_shift, None, to_w1, to_b1, to_w2.float(), to_b2


class _NormLinear(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, residual: Tensor | None
    ) -> Tensor:
        x, weight = x.contiguous(), weight.to(x.dtype)
        moments = _moments(x)
        normed = _norm(x, scale, shift, eps, moments).view(-1, x.shape[-1])
        out = (normed @ weight.t()).view(*x.shape[:-1], -1)
        if residual is not None:
            out += residual
        ctx.save_for_backward(x, scale, shift, weight, moments)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, moments = ctx.saved_tensors
        rows = grad.to(x.dtype).contiguous().view(-1, weight.shape[0])
        grad_normed = rows @ weight
        grad_x, normed, to_scale, to_shift = _norm_gradients(
            grad_normed, x, scale, shift, moments, again=True
        )
        to_weight = (rows.t() @ normed).float()
        return grad_x, to_scale, to_shift, None, to_weight, grad if ctx.needs_input_grad[5] else None


class _Scan(Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, x_proj: Tensor, *parameters: Tensor) -> Tensor:
        u, x_proj = u.contiguous(), x_proj.to(u.dtype)
        weights = pack_scan(*parameters)
        proj = (u.view(-1, u.shape[-1]) @ x_proj.t()).view(*u.shape[:-1], -1)
        ctx.save_for_backward(u, proj, x_proj)
        ctx.weights = weights
        return walk_map(u, proj, weights, threads=_threads(u))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, proj, x_proj = ctx.saved_tensors
        maps = u, proj, ctx.weights, grad.to(u.dtype).contiguous()
        grad_u, grad_proj, packed = walk_map_gradients(*maps, threads=_threads(u))
        rows = grad_proj.view(-1, x_proj.shape[0])
        grad_u.view(-1, u.shape[-1]).addmm_(rows, x_proj)
        to_x_proj = (rows.t() @ u.view(-1, u.shape[-1])).float()
        return grad_u, to_x_proj, *unpack_gradients(ctx.weights, *packed)


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        moments = _moments(x)
        ctx.save_for_backward(x, scale, shift, moments)
        return _norm(x, scale, shift, eps, moments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous()
        grad_x, _, to_scale, to_shift = _norm_gradients(grad, x, *weights, again=False)
        return grad_x, to_scale, to_shift, None


class _Stem(Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        images = images.contiguous()
        batch, _, height, width = images.shape
        out = torch.empty(batch, (height + 1) // 2, (width + 1) // 2, len(bias), dtype=dtype)
        inputs = _in(images), _stem_taps(weight), _in(bias), _in(scale), _in(shift), eps
        native().stem(*inputs, _in(out), _threads(out))
        ctx.save_for_backward(images, weight, bias, scale, shift)
        ctx.eps, ctx.dtype = eps, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, bias, scale, shift = ctx.saved_tensors
        grad = grad.to(ctx.dtype).contiguous()
        inputs = _in(images), _stem_taps(weight), _in(bias), _in(scale), _in(shift), ctx.eps, _in(grad)
        to_taps = torch.zeros(27, len(bias))
        sums = [torch.zeros_like(t) for t in (bias, scale, shift)]
        native().stem_gradients(*inputs, _in(to_taps), *map(_in, sums), _threads(grad))
        return None, to_taps.t().reshape(weight.shape), *sums, None, None


def _stem_taps(weight: Tensor) -> Any:
    """(D, 3, 3, 3) -> (27, D), over colours, rows and columns."""
    return _in(weight.detach().view(-1, 27).t().contiguous())


class _DepthwiseSilu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
        native().train_depthwise(_in(x), _in(out), _taps(weight), _in_or_none(bias), _threads(x))
        ctx.save_for_backward(x, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        grad, grad_x = grad.to(x.dtype).contiguous(), torch.empty_like(x)
        to_taps = torch.zeros(9, x.shape[-1])
        to_bias = None if bias is None else torch.zeros_like(bias)
        inputs = _in(x), _in(grad), _in(grad_x), _taps(weight), _in_or_none(bias)
        native().train_depthwise_gradients(*inputs, _in(to_taps), _in_or_none(to_bias), _threads(x))
        return grad_x, to_taps.t().reshape(weight.shape), to_bias


class _ConvStride2(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        neighbours = _neighbours(x)
        flat = neighbours.reshape(-1, 9 * x.shape[-1])
        out = torch.addmm(bias.to(x.dtype), flat, _spread(weight, x.dtype).t())
        return out.view(*neighbours.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous()
        rows, channels = grad.view(-1, grad.shape[-1]), x.shape[-1]
        to_weight = (rows.t() @ _neighbours(x).reshape(-1, 9 * channels)).view(-1, 3, 3, channels)
        shares = (rows @ _spread(weight, x.dtype)).view(*grad.shape[:3], 3, 3, channels)
        height, width = grad.shape[1:3]
        # Each token gets the shares of those it is a neighbour of; even sizes have a border of one row or column.
        padded = torch.zeros(x.shape[0], 2 * height + 1, 2 * width + 1, channels)
        for i in range(3):
            for j in range(3):
                padded[:, i : i + 2 * height : 2, j : j + 2 * width : 2] += shares[:, :, :, i, j]
        grad_x = padded[:, 1 : 1 + x.shape[1], 1 : 1 + x.shape[2]].to(x.dtype)
        to_weight = to_weight.permute(0, 3, 1, 2).contiguous().float()
        return grad_x, to_weight, rows.float().sum(0)


def _neighbours(x: Tensor) -> Tensor:
    """(B, H, W, D) -> (B, ceil(H / 2), ceil(W / 2), 3, 3, D): what a 3x3 window sees at every second token."""
    batch, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    image, row, token, number = padded.stride()
    shape = batch, (height + 1) // 2, (width + 1) // 2, 3, 3, channels
    return padded.as_strided(shape, (image, 2 * row, 2 * token, row, token, number))


def _spread(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(out, D, 3, 3) -> (out, 9 D), in the order of `_neighbours`."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1).to(dtype)


def _taps(weight: Tensor) -> Any:
    """(D, 1, 3, 3) -> (9, D)."""
    return _in(weight.detach().view(-1, 9).t().contiguous())


def _in(tensor: Tensor) -> Any:
    return array(tensor, "map", *STORAGE)


def _in_or_none(tensor: Tensor | None) -> Any:
    return None if tensor is None else _in(tensor)


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.numel() // _WORK_PER_THREAD))


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Equal ranges of tokens, about as many as fit the cache of each thread."""
    tokens = rows.shape[0]
    count = max(1, round(tokens / (BLOCK_TOKENS * torch.get_num_threads())))
    step = -(-tokens // count)
    for begin in range(0, tokens, step):
        yield slice(begin, begin + step)


def _moments(x: Tensor) -> Tensor:
    """Room for mean and 1 / standard deviation of each token of x; a range of tokens has its own part."""
    return torch.empty(2 * (x.numel() // x.shape[-1]))


def _part(moments: Tensor, at: slice) -> Tensor:
    return moments[2 * at.start : 2 * at.stop]


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float, moments: Tensor) -> Tensor:
    out = torch.empty_like(x)
    native().train_norm(_in(x), _in(out), _in(scale), _in(shift), eps, _in(moments), _threads(x))
    return out


def _norm_gradients(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, moments: Tensor, *, again: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the norm for x, scale and shift; with ``again`` the norm itself too, in the shape of ``grad``."""
    grad_x, normed = torch.empty_like(x), torch.empty_like(grad) if again else grad
    to_scale, to_shift = torch.zeros(x.shape[-1]), torch.zeros(x.shape[-1])
    inputs = _in(x), _in(grad), None, _in(scale), _in(shift), _in(moments)
    outputs = _in(grad_x), _in(normed) if again else None, _in(to_scale), _in(to_shift)
    native().train_norm_gradients(*inputs, *outputs, _threads(x))
    return grad_x, normed, to_scale, to_shift


def _gelu(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    native().gelu(_in(x), _in(out), _threads(x))
    return out


def _add(total: Tensor | None, product: Tensor) -> Tensor:
    """Add up products of blocks, in float32 where there are several."""
    return product if total is None else total.float().add_(product)
