"""Resampling with a global phase: a target pixel depends on the slide and its own coordinates only.

Target pixel X has its centre at (X + 0.5) * scale in source pixels. Whole scales are area means; any other
scale uses the Catmull-Rom cubic, widened by the scale so that nothing aliases. Weights are whole numbers and
every sum stays below 2**24, so float32 is exact in whatever order a kernel or a BLAS adds: the same target pixel
has the same bytes through any rectangle it is read in, and with or without the compiled module.
"""

from wsi_vmamba.rescale.rescaler import Rescaler, RunAll
from wsi_vmamba.rescale.taps import Taps, is_whole, source_range

__all__ = ["Rescaler", "RunAll", "Taps", "is_whole", "source_range"]
