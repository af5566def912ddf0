"""What the tests of ONNX files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.onnx_file.session import OnnxSession
from wsi_vmamba.onnx_file.write import build_model

WHY = "onnx and onnxruntime are not installed: pip install 'wsi-vmamba[onnx]'"


def network(seed: int = 0, **fields: Any) -> VMamba:
    """A small VMamba whose weights, random, are strong enough for every term to count."""
    model = build_backbone({"num_classes": 7, **fields}, seed=seed).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if name.endswith("A_logs"):
                parameter.uniform_(-2, 2)
            elif name.endswith(("Ds", "norm.bias", "conv2d.bias")):
                parameter.normal_()
            elif name.endswith("dt_projs_bias"):
                parameter.uniform_(-6, 1)
            elif name.endswith("weight") and parameter.ndim == 2:
                parameter.mul_(5)
    return model


def session_of(model: VMamba, folder: Path, **settings: Any) -> OnnxSession:
    """Write a network and open the file."""
    path = folder / "model.onnx"
    path.write_bytes(build_model(model, name="small", **settings).SerializeToString())
    return OnnxSession(path, threads=1)
