"""When and how a block is trained with the fused operators of `wsi_vmamba.ops.fused` instead of its own modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from wsi_vmamba.ops import cpu, fused, walked_map

if TYPE_CHECKING:
    from wsi_vmamba.model.blocks import Block
    from wsi_vmamba.model.ss2d import SS2D


#: Modules of ours, which have parameters and no surprises.
_OWN = ("wsi_vmamba.model.blocks", "wsi_vmamba.model.ss2d")
#: Output tokens up to which the convolution between stages is a product of matrices in bfloat16.
_FEW_TOKENS = 4096


def suits(x: Tensor, part: nn.Module) -> bool:
    """Tell whether the fused operators may stand for the modules inside ``part``, given maps like ``x``.

    They do in training mode on the CPU, in float32 or under autocast to bfloat16, with whole blocks of 16 channels,
    as long as nobody looks at the modules inside (hooks) or has put others in their place. Everything else,
    evaluation mode above all, runs the modules.
    """
    return x.dtype == _computed_in() and _suits(x, part)


def suits_images(x: Tensor, part: nn.Module) -> bool:
    """The same for images (B, 3, H, W) without a gradient, whose maps autocast may ask in another dtype."""
    return x.dtype == torch.float32 and not x.requires_grad and _computed_in() is not None and _suits(x, part)


def suits_block(x: Tensor, part: Block) -> bool:
    """The same for a block that drops no branch and whose linear layers have a bias or none as the published ones."""
    op, mlp = part.op, part.mlp
    bare = not _has_bias(op.in_proj) and not _has_bias(op.out_proj)
    biased = mlp is None or (_has_bias(mlp.fc1) and _has_bias(mlp.fc2))
    return not op.gated and not part.drop_path_rate and bare and biased and suits(x, part)


def _has_bias(linear: nn.Linear) -> bool:
    return linear._parameters.get("bias") is not None


def _suits(x: Tensor, part: nn.Module) -> bool:
    return (
        cpu.available
        and part.training
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not nn_module._has_any_global_hook()  # type: ignore[no-untyped-call]
        and all(_is_plain(module) for module in part.modules() if module is not part)
        and all(_is_own(parameter) for parameter in part.parameters())
    )


def _computed_in() -> torch.dtype | None:
    """The dtype that matmuls on the CPU have now, if it is one of those that the operators have."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    return torch.bfloat16 if torch.get_autocast_dtype("cpu") == torch.bfloat16 else None


def _is_plain(module: nn.Module) -> bool:
    """Tell whether a module is one of those that blocks are made of, not another's, and has no hooks."""
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return False
    if type(module) is nn.LayerNorm:
        return (
            module.elementwise_affine
            and module.bias is not None
            and module.normalized_shape[-1] % cpu.BLOCK == 0
        )
    if type(module) is nn.Linear:
        return module.out_features % cpu.BLOCK == 0
    if type(module) is nn.Conv2d:
        return module.out_channels % cpu.BLOCK == 0
    if type(module) is nn.GELU:
        return module.approximate == "none"
    return type(module).__module__ in _OWN


def _is_own(parameter: Tensor) -> bool:
    """Tell whether a parameter is what the kernels read, not a shard or anything else that only looks like a tensor."""
    plain = type(parameter) in (nn.Parameter, Tensor) and parameter.is_contiguous()
    return plain and parameter.device.type == "cpu" and parameter.dtype == torch.float32


def block(x: Tensor, part: Block) -> Tensor:
    """`Block.forward` without a gate, (B, H, W, D) -> (B, H, W, D)."""
    return after_scan(x, _scan(part.op, before_scan(x, part)), part)


def before_scan(x: Tensor, part: Block) -> Tensor:
    """`Block.before_scan` without a gate."""
    op = part.op
    u = fused.norm_linear(x, norm_of(part.norm), op.in_proj.weight)
    return fused.depthwise_silu(u, op.conv2d.weight, op.conv2d.bias)


def after_scan(x: Tensor, y: Tensor, part: Block) -> Tensor:
    """`Block.after_scan` without a gate."""
    op = part.op
    x = fused.norm_linear(y, norm_of(op.out_norm), op.out_proj.weight, residual=x)
    if part.norm2 is not None and part.mlp is not None:
        fc1, fc2 = part.mlp.fc1, part.mlp.fc2
        x = fused.mlp(x, norm_of(part.norm2), (fc1.weight, fc1.bias), (fc2.weight, fc2.bias))
    return x


def _scan(op: SS2D, u: Tensor) -> Tensor:
    if not walked_map.suits(u, op.d_state):
        return op.scan(u)
    x_proj, dt_weight, dt_bias, A_logs, Ds = op.scan_parameters()
    return fused.scan(u, x_proj.reshape(-1, op.d_inner), (dt_weight, dt_bias, A_logs, Ds))


def stem(x: Tensor, part: nn.Sequential) -> Tensor:
    """`Stem.forward`: images (B, 3, H, W) -> (B, ~H / 4, ~W / 4, D)."""
    first, second = part[0], part[5]
    norm, last = cast(nn.LayerNorm, part[2]), cast(nn.LayerNorm, part[7])
    weight, bias = cast(Tensor, first.weight), cast(Tensor, first.bias)
    tokens = fused.stem(x, weight, bias, norm_of(norm), _computed_in() or x.dtype)
    tokens = _to_last(second(_to_first(tokens)))
    return fused.layer_norm(tokens, norm_of(last))


def downsample(x: Tensor, part: nn.Sequential) -> Tensor:
    """`DownsampleConv.forward`: (B, H, W, D) -> (B, ceil(H / 2), ceil(W / 2), out)."""
    conv, norm = cast(nn.Conv2d, part[1]), cast(nn.LayerNorm, part[3])
    few = x.numel() // x.shape[-1] <= 4 * _FEW_TOKENS
    if few and x.dtype == torch.bfloat16 and conv.bias is not None:
        tokens = fused.conv_stride_2(x, conv.weight, conv.bias)
    else:
        tokens = _to_last(conv(_to_first(x)))
    return fused.layer_norm(tokens, norm_of(norm))


def _to_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _to_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def norm_of(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    """Weight, bias and eps."""
    return norm.weight, norm.bias, norm.eps
