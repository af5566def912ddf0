"""VMamba in onnxruntime beside torch, on one thread: latency, memory, nodes, size and error of each file.

Every figure is of a process of its own. Latency is CPU time, the least of several passes; memory is what the process
grew by at its peak from before the network was loaded.

    OMP_NUM_THREADS=1 python benchmarks/onnx.py                                   # pico and tiny_s1l8 at 224 px
    OMP_NUM_THREADS=1 python benchmarks/onnx.py --models vmamba_pico --px 512 --passes 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import wsi_vmamba as wv
from wsi_vmamba.inference.memory import peak_resident_bytes, resident_bytes
from wsi_vmamba.model import build_backbone
from wsi_vmamba.model.shipped import SHIPPED, resolve_weights
from wsi_vmamba.model.vmamba import VMamba
from wsi_vmamba.onnx_file.agreement import compare
from wsi_vmamba.onnx_file.session import OnnxSession

PRECISIONS = ("fp32", "fp16", "int8")


def images(side_px: int) -> torch.Tensor:
    """One normalised picture, smooth with some noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side_px, side_px), mode="bicubic")
    return smooth + 0.3 * torch.randn(1, 3, side_px, side_px, generator=generator)


def load(name: str) -> VMamba:
    """The network with its shipped weights, else random ones."""
    model = build_backbone(name, weights=resolve_weights(name, weights_of(name)).path)
    assert isinstance(model, VMamba)
    return model.eval()


def weights_of(name: str) -> str:
    """Shipped weights where there are any."""
    return "auto" if name in SHIPPED else "random"


def measure(name: str, file: str | None, *, px: int, passes: int) -> dict[str, float]:
    """In this process: seconds of a pass and bytes at the peak, of torch where there is no file."""
    torch.set_num_threads(1)
    picture = images(px)
    before = resident_bytes()
    if file is None:
        model = load(name)
        run = model.forward_features
    else:
        session = OnnxSession(Path(file), threads=1)
        run = lambda x: session.run(x.numpy())  # noqa: E731
    seconds = []
    with torch.inference_mode():
        for _ in range(passes):
            start = time.process_time()
            run(picture)
            seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "bytes": peak_resident_bytes() - before}


def measured_apart(arguments: argparse.Namespace, name: str, file: Path | None) -> dict[str, float]:
    """The same in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        "--px",
        str(arguments.px),
        "--passes",
        str(arguments.passes),
    ]
    command += [] if file is None else ["--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rows_of(arguments: argparse.Namespace, name: str, folder: Path) -> list[dict[str, Any]]:
    """One row per way of computing."""
    rows: list[dict[str, Any]] = [{"with": "torch, fp32", **measured_apart(arguments, name, None)}]
    model = load(name)
    for precision in PRECISIONS:
        out = folder / f"{name}-{precision}.onnx"
        file = wv.export_onnx(backbone=name, weights=weights_of(name), precision=precision, out=str(out))
        agreement = compare(OnnxSession(out, threads=1), model, images(arguments.px))
        rows.append(
            {
                "with": f"onnxruntime, {precision}",
                **measured_apart(arguments, name, out),
                "file_bytes": file.n_bytes,
                "nodes": file.nodes,
                "nodes_with_bodies": file.nodes_with_bodies,
                "largest_error": agreement.largest,
                "deviation": agreement.spread,
                "cosine": agreement.cosine,
                "same_class": agreement.same_class,
            }
        )
    return rows


def table_line(row: dict[str, Any]) -> str:
    """A row as Markdown."""
    left = f"| {row['with']} | {row['seconds']:.3f} s | {row['bytes'] / 1e6:.0f} MB |"
    if "nodes" not in row:
        return f"{left} | | | |"
    nodes = f"{row['nodes']} ({row['nodes_with_bodies']})"
    error = f"{row['largest_error']:.2g} of {row['deviation']:.2g}"
    return f"{left} {row['file_bytes'] / 1e6:.1f} MB | {nodes} | {error} | {row['cosine']:.6f} |"


def main() -> None:
    """Measure, print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["vmamba_pico", "vmamba_tiny_s1l8"])
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # The folder of a script is first on the path, where the name of this one would hide the library onnx.
    sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.file, px=arguments.px, passes=arguments.passes)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            found[name] = rows_of(arguments, name, Path(folder))
            print(f"\n{name}, one picture of {arguments.px} px, one thread\n")
            print(
                "| with | CPU time | memory | file | nodes (with loops') | largest error of deviation | cosine |"
            )
            print("| --- | --- | --- | --- | --- | --- | --- |")
            print("\n".join(table_line(row) for row in found[name]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
