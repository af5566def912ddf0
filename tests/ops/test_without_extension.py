"""Without the compiled module the package works through the reference and says so."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import importlib.abc, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "wsi_vmamba.ops._cpu":
            raise ImportError("hidden by the test")

sys.meta_path.insert(0, Hide())
import torch
from wsi_vmamba import ops
from wsi_vmamba.errors import UsageError

shapes = [(1, 2, 3, 4), (1, 2, 3, 12), (4, 4, 1), (4, 4), (16, 1), (16,)]
inputs = [torch.ones(s) for s in shapes]
assert not ops.cpu.available and ops.cpu.isa == "none"
name, why = ops.choose_backend(inputs[0].device, inputs[0].dtype)
assert name == "reference" and "hidden by the test" in why and "compiler" in why, (name, why)
assert torch.equal(ops.ss2d_scan(*inputs), ops.ss2d_scan(*inputs, backend="reference"))
try:
    ops.ss2d_scan(*inputs, backend="cpp")
except UsageError as error:
    assert "backend='reference'" in str(error)
else:
    raise AssertionError("the missing kernels were not refused")
"""


def test_fallback_is_visible() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
