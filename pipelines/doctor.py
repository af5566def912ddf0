"""Recipe: say what this installation can do, and why the active kernel is the active one."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch

from wsi_vmamba import console, ops
from wsi_vmamba.config import DoctorConfig
from wsi_vmamba.device import is_gpu, resolve_device
from wsi_vmamba.provenance import package_versions
from wsi_vmamba.rescale import compiled as resampling
from wsi_vmamba.slide.workers import usable_cores

#: Optional extra -> the module that shows it is installed.
EXTRAS: Mapping[str, str] = {
    "cuda": "mamba_ssm",
    "triton": "triton",
    "export": "anndata",
    "remote": "s3fs",
    "hpc": "dask_jobqueue",
    "timm": "timm",
    "onnx": "onnxruntime",
    "hub": "huggingface_hub",
    "download": "botocore",
    "detection": "torchvision",
}


def run(config: DoctorConfig) -> bool:
    """Print versions, CPU, kernel, GPU and extras; return whether the compiled kernels work."""
    for name, version in package_versions().items():
        console.say(f"{name:<24} {version}")
    console.say(
        f"{'cpu':<24} {usable_cores()} cores, torch capability {torch.backends.cpu.get_cpu_capability()}"
    )
    for kernel_of, module in {"CPU scan kernel": ops.cpu, "resampling kernel": resampling}.items():
        state = f"compiled, {module.isa}" if module.available else f"not available: {module.why}"
        console.say(f"{kernel_of:<24} {state}")
    if ops.cpu.available:
        console.say(
            f"{'CPU operators':<24} compiled, {ops.tokens.isa}; oneDNN for widths that are not multiples of 16"
        )
    device = resolve_device(config.device)
    if torch.cuda.is_available():
        console.say(
            f"{'gpu':<24} {torch.cuda.get_device_name(device if is_gpu(device) else None)}, CUDA {torch.version.cuda}"
        )
    else:
        built = "this torch is a CPU build" if torch.version.cuda is None else "no device found"
        console.say(f"{'gpu':<24} none ({built})")
    for place in dict.fromkeys(("cpu", device)):
        kernel, why = ops.choose_backend(torch.device(place), torch.float32)
        console.say(f"{'active on ' + place:<24} {kernel}: {why}")
    for extra, shown_by in EXTRAS.items():
        found = importlib.util.find_spec(shown_by) is not None
        console.say(
            f"{'extra ' + extra:<24} {'installed' if found else f'absent (pip install wsi-vmamba[{extra}])'}"
        )
    return ops.cpu.available and resampling.available
