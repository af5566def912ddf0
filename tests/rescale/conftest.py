from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from wsi_vmamba.rescale import compiled, reference
from wsi_vmamba.rescale.rescaler import Rescaler

_BUILT = [pytest.param(partial(compiled.Cubic, isa=isa), id=isa) for isa in compiled.instruction_sets]
_MISSING = pytest.param(None, id="compiled", marks=pytest.mark.skip(reason="the C++ extension is not built"))


def _in_order(task, numbers):
    for number in numbers:
        task(number)


@pytest.fixture(scope="module", params=_BUILT or [_MISSING])
def fast(request):
    """The compiled cubic, once for every instruction set of this machine."""
    return request.param


@pytest.fixture(scope="module", params=[pytest.param(reference.Cubic, id="numpy"), *(_BUILT or [_MISSING])])
def cubic(request):
    """Every way to resample by a scale that is not whole."""
    return request.param


@pytest.fixture(scope="session")
def rescale():
    """Resample a rectangle of a canvas whose pixel (0, 0) is at (origin, origin) of the array."""

    def run(canvas, scale, *, x_px, y_px, width_px, height_px, cubic=None, origin=64):
        rescaler = Rescaler(
            x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px, scale=scale, cubic=cubic
        )
        top, bottom = int(rescaler.rows.first[0]), int(rescaler.rows.end[-1])
        source = canvas[origin + top : origin + bottom, origin + rescaler.left : origin + rescaler.right]
        assert source.shape[:2] == (bottom - top, rescaler.right - rescaler.left)
        out = np.zeros((height_px, width_px, 3), dtype=np.uint8)
        rescaler.fill(out, source, start=0, stop=height_px, source_y_px=top, run_all=_in_order)
        return out

    return run
