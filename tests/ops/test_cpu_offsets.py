"""Maps with more than 2^31 numbers: every offset in the kernels has 64 bits. Untouched zero pages cost nothing."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from wsi_vmamba.ops import cpu, reference

pytestmark = [pytest.mark.skipif(not cpu.available, reason=cpu.why), pytest.mark.slow]

GIB = 2**30


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take up memory only where they are written to."""
    return torch.zeros(shape, dtype=dtype)


def parameters(channels: int, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, channels, rank, generator=generator) * rank**-0.5
    skip = torch.randn(4 * channels, generator=generator)
    return weight, torch.zeros(4, channels), torch.zeros(4 * channels, 1), skip


def check_corner_tokens(u: Tensor, proj: Tensor, params: tuple[Tensor, ...]) -> None:
    """Set the first and the last token only; far apart, each must come out as if it were alone."""
    generator = torch.Generator().manual_seed(1)
    corners = [(0, 0, 0), (0, u.shape[1] - 1, u.shape[2] - 1)]
    for corner in corners:
        u[corner] = torch.randn(u.shape[3], generator=generator).to(u.dtype)
        proj[corner] = torch.randn(proj.shape[3], generator=generator)
    y = cpu.scan_map(u, proj, cpu.pack_scan(*params))
    for corner in corners:
        alone = u[corner].float()[None, None, None], proj[corner][None, None, None]
        expected = reference.ss2d_scan(*alone, *params)[0, 0, 0]
        torch.testing.assert_close(y[corner], expected, rtol=1e-5, atol=1e-5)
    assert float(y[0, u.shape[1] // 2].abs().max()) == 0.0


def test_projections_beyond_32_bits() -> None:
    rank = 62
    u = lazy_zeros((1, 2900, 2900, 1), torch.float32)
    proj = lazy_zeros((1, 2900, 2900, 4 * (rank + 2)), torch.float32)
    assert proj.numel() > 2**31
    check_corner_tokens(u, proj, parameters(1, rank))


def test_maps_beyond_32_bits() -> None:
    u = lazy_zeros((1, 2600, 2600, 320), torch.bfloat16)
    assert u.numel() > 2**31
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available < 12 * GIB:
        pytest.skip(f"needs 12 GiB of free memory for the result, found {available / GIB:.1f}")
    proj = lazy_zeros((1, 2600, 2600, 12), torch.float32)
    check_corner_tokens(u, proj, parameters(320, 1))
