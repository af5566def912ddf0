"""Selective scan of a volume (T, H, W) along six paths, with the kernels of the two-dimensional one.

T stands for whatever lies behind the picture: time in a video, depth in a focal stack. The six paths are the three
raster orders that go round the axes, each forwards and backwards; every path is one long sequence through the whole
volume, and each has its own step sizes, A, B, C and D:

    0  (t, h, w)  W fastest: row after row, plane after plane      2  its reverse
    1  (w, t, h)  H fastest: column after column of each plane     3  its reverse
    4  (h, w, t)  T fastest: one place through all planes          5  its reverse

Paths 0 to 3 of a volume of one plane are the four directions of a map, in the order of `ss2d_scan`.

`reference_ss3d_scan` says it in plain torch; `ss3d_scan` gives the same with any backend of `ss2d_scan`. A volume in
memory, (T, H, W) with W fastest, is a map in two ways, and neither copies anything: of T·H rows and W columns, whose
rows one after another are path 0 and whose columns are path 1; and of T rows and H·W columns, whose columns are path
4. So one scan of the first map is paths 0 to 3, and one of the second, whose rows get B = C = D = 0 and therefore add
exact zeros, is paths 4 and 5. The rows of the second map are path 0 again, so nothing else can be had of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsi_vmamba.errors import UsageError
from wsi_vmamba.ops import ss2d_scan
from wsi_vmamba.ops.reference import selective_scan

#: Paths through a volume, and those of them that stay within a plane where there is but one.
PATHS, PLANE_PATHS = 6, 4
#: Axes of (B, T, H, W) in the order of each forward path, the slowest first, and its number and that of its reverse.
_ORDERS = (((0, 1, 2, 3), 0, 2), ((0, 3, 1, 2), 1, 3), ((0, 2, 3, 1), 4, 5))


def ss3d_scan(
    u: Tensor,
    proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Scan a channels-last volume along six paths and add the six results, the skip ``Ds`` included.

    The recurrence of each path is that of `ss2d_scan`; the module says which paths.

    Args:
        u: (B, T, H, W, D).
        proj: (B, T, H, W, 6 * (R + 2 N)); per token and path [dt_r (R) | B (N) | C (N)], in the volume's order.
        dt_weight: (6, D, R).
        dt_bias: (6, D).
        A_logs: (6 * D, N).
        Ds: (6 * D,).
        backend: a name in `BACKENDS` of the scans of maps; None chooses by device and dtype.

    Returns:
        (B, T, H, W, D), dtype of ``u``, not normalised.

    Raises:
        UsageError: the shapes do not fit.
    """
    channels, group = _check(u, proj, dt_weight, dt_bias, A_logs, Ds)
    batch, planes, height, width, _ = u.shape
    within = PLANE_PATHS * channels
    rows = ss2d_scan(
        u.reshape(batch, planes * height, width, channels),
        proj[..., : PLANE_PATHS * group].reshape(batch, planes * height, width, -1),
        dt_weight[:PLANE_PATHS],
        dt_bias[:PLANE_PATHS],
        A_logs[:within],
        Ds[:within],
        backend=backend,
    )
    through = proj[..., PLANE_PATHS * group :].reshape(batch, planes, height * width, 2, group)
    columns = ss2d_scan(
        u.reshape(batch, planes, height * width, channels),
        _after_blanks(through, 3).flatten(3),
        _after_blanks(dt_weight[PLANE_PATHS:], 0),
        _after_blanks(dt_bias[PLANE_PATHS:], 0),
        _after_blanks(A_logs[within:].view(2, channels, -1), 0).flatten(0, 1),
        _after_blanks(Ds[within:].view(2, channels), 0).flatten(),
        backend=backend,
    )
    return (rows.view(u.shape) + columns.view(u.shape)).view(u.shape)


def _after_blanks(x: Tensor, axis: int) -> Tensor:
    """Two paths along an axis as the four directions of a map: zeros for its rows, the paths for its columns."""
    behind = x.ndim - 1 - axis
    spread = F.pad(x.unsqueeze(axis + 1), (0, 0) * behind + (1, 0))
    return spread.flatten(axis, axis + 1)


def reference_ss3d_scan(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> Tensor:
    """The same in plain torch, path by path: the truth that `ss3d_scan` is measured against, and slow.

    Computes in float32 at least, under autocast too; returns the dtype of ``u``.
    """
    channels, group = _check(u, proj, dt_weight, dt_bias, A_logs, Ds)
    state = A_logs.shape[1]
    with torch.autocast(u.device.type, enabled=False):
        work = torch.promote_types(torch.float32, u.dtype)
        x, p, weight, bias, logs, skips = (t.to(work) for t in (u, proj, dt_weight, dt_bias, A_logs, Ds))
        p = p.reshape(*u.shape[:4], PATHS, group)
        total = torch.zeros_like(x)
        for axes, forwards, backwards in _ORDERS:
            ordered = [x.shape[axis] for axis in axes]
            for path in (forwards, backwards):
                tokens = x.permute(*axes, 4).flatten(1, 3)
                numbers = p[..., path, :].permute(*axes, 4).flatten(1, 3)
                if path == backwards:
                    tokens, numbers = tokens.flip(1), numbers.flip(1)
                low_rank, B, C = torch.split(numbers, [group - 2 * state, state, state], dim=-1)
                own = slice(path * channels, (path + 1) * channels)
                y = selective_scan(
                    tokens.transpose(1, 2),
                    (low_rank @ weight[path].t()).transpose(1, 2),
                    -torch.exp(logs[own]),
                    B.transpose(1, 2)[:, None],
                    C.transpose(1, 2)[:, None],
                    skips[own],
                    bias[path],
                    delta_softplus=True,
                ).transpose(1, 2)
                y = y.flip(1) if path == backwards else y
                back = [axes.index(axis) for axis in range(4)]
                total = total + y.reshape(*ordered, channels).permute(*back, 4)
        return total.to(u.dtype)


def _check(
    u: Tensor, proj: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_logs: Tensor, Ds: Tensor
) -> tuple[int, int]:
    """Channels, and projected numbers per token and path.

    Raises:
        UsageError: the shapes do not fit.
    """
    if u.ndim != 5:
        raise UsageError(f"u must be a volume (B, T, H, W, D), got {tuple(u.shape)}")
    channels, rank, state = u.shape[-1], dt_weight.shape[-1], A_logs.shape[-1]
    group = rank + 2 * state
    wanted = {
        "proj": (proj, (*u.shape[:4], PATHS * group)),
        "dt_weight": (dt_weight, (PATHS, channels, rank)),
        "dt_bias": (dt_bias, (PATHS, channels)),
        "A_logs": (A_logs, (PATHS * channels, state)),
        "Ds": (Ds, (PATHS * channels,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise UsageError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return channels, group
