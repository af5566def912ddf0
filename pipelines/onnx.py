"""Recipe: a VMamba to an ONNX file, and how far what it computes is from torch."""

from __future__ import annotations

import torch

from wsi_vmamba import console
from wsi_vmamba.config.onnx import OnnxConfig
from wsi_vmamba.datasets.synthetic import sample_tiles
from wsi_vmamba.errors import UsageError
from wsi_vmamba.model.normalise import normalise
from wsi_vmamba.onnx_file.agreement import Agreement, compare
from wsi_vmamba.onnx_file.front import OnnxFile, write_onnx
from wsi_vmamba.onnx_file.session import OnnxSession

#: Height and width of the pictures by which a file of free sizes is judged, and how many of each.
_JUDGED_PX = ((224, 224), (160, 288))
_PICTURES = 8
#: Largest pictures that are generated; larger ones repeat them, and one is enough.
_GENERATED_PX = 512
_SEED = 19


def run(config: OnnxConfig) -> bool:
    """Write the file, run it where onnxruntime is installed, and say how far it is from torch; return True."""
    written = write_onnx(config)
    console.say(
        f"{written.path}: {written.n_bytes / 1e6:.1f} MB, {written.nodes} nodes ({written.nodes_with_bodies} with "
        f"those in loops), images (B, 3, {_sides(config)}) to {' and '.join(written.outputs)}"
    )
    try:
        session = OnnxSession(written.path)
    except UsageError as error:
        console.say(f"not compared with torch: {error}")
        return True
    rows = [_row(one) for one in _judge(session, written)]
    console.print_table(
        "Compared with torch, generated tissue",
        ("pictures", "largest difference", "deviation of features", "least cosine", "same class"),
        rows,
    )
    console.say(f"use it with: wsi-vmamba extract SLIDES --backbone onnx --weights {written.path}")
    return True


def _sides(config: OnnxConfig) -> str:
    return "H, W" if config.px == "dynamic" else f"{config.px}, {config.px}"


def _judge(session: OnnxSession, written: OnnxFile) -> list[Agreement]:
    sizes = _JUDGED_PX if session.px is None else ((session.px, session.px),)
    return [
        compare(session, written.model, _pictures(written, height=height, width=width))
        for height, width in sizes
    ]


def _pictures(written: OnnxFile, *, height: int, width: int) -> torch.Tensor:
    """Normalised pictures of generated tissue."""
    times = -(-max(height, width) // _GENERATED_PX)
    tiles = torch.from_numpy(sample_tiles(_SEED, _PICTURES if times == 1 else 1, _GENERATED_PX).images)
    images = normalise(tiles, mean=written.model.mean, std=written.model.std)
    return images.repeat(1, 1, times, times)[:, :, :height, :width]


def _row(found: Agreement) -> tuple[str, ...]:
    count, _, height, width = found.shape
    same = "no head" if found.same_class is None else f"{found.same_class} of {count}"
    numbers = (f"{found.largest:.2g}", f"{found.spread:.2g}", f"{found.cosine:.6f}")
    return (f"{count} of {height} x {width} px", *numbers, same)
