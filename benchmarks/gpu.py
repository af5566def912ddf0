"""Everything about the GPU path in one command: parity first, then speed, then one table.

    python benchmarks/gpu.py --out results/

Checks the kernels against golden data (when WSI_VMAMBA_GOLDEN names it) and the float64 reference, past 2^32 elements
too; then times scan, whole model, training step and a slide in one pass, against mamba_ssm and timm models where these
are installed, with and without cuDNN. Writes gpu.json and gpu.md. Without a CUDA device it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from support.gpu_measure import Ceilings, ceilings, environment, measure, table  # noqa: E402
from whole_slide import Repeated  # noqa: E402

from wsi_vmamba.inference.cuda_encoder import CudaEncoder  # noqa: E402
from wsi_vmamba.inference.cuda_forward import CudaForward  # noqa: E402
from wsi_vmamba.inference.scratch import open_scratch, require_space  # noqa: E402
from wsi_vmamba.model import build_backbone, ss2d  # noqa: E402
from wsi_vmamba.ops import mamba_ssm, reference, triton  # noqa: E402
from wsi_vmamba.ops.triton_plan import Tiling  # noqa: E402

MODEL = "vmamba_tiny_s1l8"
#: (side of the map, channels, dt rank): the four stages of tiny_s1l8 at 10,000 and 1,024 px.
STAGES = [(2500, 96, 6), (1250, 192, 12), (625, 384, 24), (313, 768, 48)]
STAGES += [(256, 96, 6), (128, 192, 12), (64, 384, 24), (32, 768, 48)]
TILINGS = [(8, 8, 32, 4), (8, 16, 32, 4), (16, 16, 16, 4), (16, 16, 32, 8), (8, 16, 64, 8), (16, 16, 64, 16)]
PEERS = ("swin_tiny_patch4_window7_224", "convnext_tiny", "resnet152")
Row = dict[str, Any]


def main() -> int:
    """Run the sections asked for; 0 = all parity checks passed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-benchmark"), help="folder for gpu.json and gpu.md"
    )
    parser.add_argument(
        "--skip-parity", action="store_true", help="only when it has just passed on this machine"
    )
    parser.add_argument(
        "--sections", default="scan,model,peers,training,largest,slide", help="comma-separated"
    )
    parser.add_argument("--sweep", action="store_true", help="time every tiling of the stage-1 scan")
    parser.add_argument(
        "--largest-px", type=int, default=65_536, help="stop the search for the largest square here"
    )
    parser.add_argument(
        "--slide-px", type=int, default=40_000, help="side of the slide that is read in one pass"
    )
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="for its maps")
    options = parser.parse_args()
    if (reason := triton.unavailable_reason()) is not None or triton.interpreted():
        print(
            f"benchmarks/gpu.py needs a CUDA device and triton: {reason or 'TRITON_INTERPRET is set'}",
            file=sys.stderr,
        )
        return 2
    if not options.skip_parity and not parity():
        print("parity failed: a wrong number is worse than a slow one; nothing was timed", file=sys.stderr)
        return 1
    facts = environment()
    limits = ceilings(facts)
    sections: dict[str, Callable[[], list[Row]]] = {
        "scan": lambda: scan_rows(limits),
        "model": lambda: model_rows(limits),
        "peers": peer_rows,
        "training": training_rows,
        "largest": lambda: largest_rows(options.largest_px),
        "slide": lambda: slide_rows(options.slide_px, options.scratch),
    }
    wanted = options.sections.split(",") + (["sweep"] if options.sweep else [])
    sections["sweep"] = sweep_rows
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": facts,
        "ceilings": vars(limits),
    }
    for name in wanted:
        report[name] = sections[name]()
        print(f"\n## {name}\n\n{table(report[name])}", flush=True)
        # Written after every section: a run that is cut short keeps what it has.
        (options.out / "gpu.json").write_text(json.dumps(report, indent=1))
        (options.out / "gpu.md").write_text(as_markdown(report))
    return 0


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    facts = ", ".join(f"{key} {value}" for key, value in report["environment"].items())
    limits = report["ceilings"]
    head = (
        f"# GPU benchmark, {report['date']}\n\n{facts}\n\nCopy {limits['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"bf16 matmul {limits['bf16_flop_per_s'] / 1e12:.0f} TFLOP/s (both measured), special functions "
        f"{limits['special_ops_per_s'] / 1e12:.2f} T/s (data sheet).\n"
    )
    tables = [f"\n## {name}\n\n{table(rows)}\n" for name, rows in report.items() if isinstance(rows, list)]
    return head + "".join(tables)


# -- parity


def parity() -> bool:
    """Run the kernels' and the encoder's own tests on this device, then the test past 2^32 elements."""
    tests = [
        "tests/ops/test_triton.py",
        "tests/inference/test_cuda_encoder.py",
        "tests/inference/test_cuda_sweep.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not compile", *tests]
    passed = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    error = error_past_32_bits()
    print(f"map of more than 2^32 elements: last rows within {error:.2e} of the float64 reference")
    return passed and error <= 1e-2


def error_past_32_bits(*, width: int = 512, channels: int = 96, kept_rows: int = 5) -> float:
    """Relative error of the last rows of a bf16 map of 2^32 elements and more.

    Everything above those rows is zero and forgets at once (huge steps), so the rows, below one row that forgets,
    can be compared with a reference that sees only them.
    """
    rank, height = 6, 2**32 // (width * channels) + 64
    generator = torch.Generator("cuda").manual_seed(0)
    u = torch.zeros(1, height, width, channels, device="cuda", dtype=torch.bfloat16)
    proj = torch.ones(1, height, width, 4 * (rank + 2), device="cuda", dtype=torch.bfloat16)
    u[:, -kept_rows:] = torch.randn(1, kept_rows, width, channels, generator=generator, device="cuda")
    proj[:, -kept_rows:] = torch.randn(
        1, kept_rows, width, 4 * (rank + 2), generator=generator, device="cuda"
    )
    weight = torch.full((4, channels, rank), 8.0, device="cuda")  # ones in proj give steps of 46
    bias = torch.full((4, channels), -2.0, device="cuda")
    A_logs, Ds = torch.zeros(4 * channels, 1, device="cuda"), torch.ones(4 * channels, device="cuda")
    assert u.numel() > 2**32
    y = torch.empty_like(u)
    triton.ss2d_scan_into(u, proj, weight, bias, A_logs, Ds, out=y)
    maps = (t[:, -kept_rows - 1 :].double() for t in (u, proj))
    truth = reference.ss2d_scan(*maps, *(t.double() for t in (weight, bias, A_logs, Ds)))[:, 1:]
    return float((y[:, -kept_rows:].double() - truth).abs().max() / truth.abs().max())


# -- scan


def scan_inputs(
    side: int, channels: int, rank: int, *, state: int = 1, requires_grad: bool = False
) -> list[torch.Tensor]:
    """bf16 maps and float32 parameters of one scan, with step sizes like a trained model's."""
    maps = [
        torch.randn(1, side, side, n, device="cuda", dtype=torch.bfloat16)
        for n in (channels, 4 * (rank + 2 * state))
    ]
    weight = torch.randn(4, channels, rank, device="cuda") * rank**-0.5
    bias = torch.randn(4, channels, device="cuda") - 4
    A_logs = torch.arange(1.0, state + 1, device="cuda").log().expand(4 * channels, state).contiguous()
    tensors = [*maps, weight, bias, A_logs, torch.ones(4 * channels, device="cuda")]
    return [t.requires_grad_(requires_grad) for t in tensors]


def scan_rows(limits: Ceilings) -> list[Row]:
    """Forward and forward + backward of the scan, every stage, against the other backends."""
    rows = []
    for side, channels, rank in STAGES:
        inputs = scan_inputs(side, channels, rank)
        out = torch.empty_like(inputs[0])
        ours = measure(lambda i=inputs, o=out: triton.ss2d_scan_into(*i, out=o))  # type: ignore[misc]
        items = side * side * channels
        moved = 2 * (2 * items + side * side * 4 * (rank + 2))  # u and y once, proj once, bf16
        special = 4 * items * 2 * 2  # two exponentials per element and direction, in two passes
        row: Row = {
            "map": f"{side}² x {channels}",
            "ms": ours.seconds * 1e3,
            "least bytes, GB": moved / 1e9,
            "share of copy rate": moved / ours.seconds / limits.copy_bytes_per_s,
            "GFLOP": 4 * items * (2 * rank + 9) / 1e9,
            "special-function limit, ms": special / limits.special_ops_per_s * 1e3,
            "peak beyond the maps, MB": ours.peak_bytes / 1e6,
            "copies of the materialised path alone, ms": seconds_or_reason(lambda i=inputs: copies(i)),
            "mamba_ssm, ms": seconds_or_reason(lambda i=inputs: mamba_ssm.ss2d_scan(*i)),
        }
        if side <= 1250:
            leaves = scan_inputs(side, channels, rank, requires_grad=True)
            row["forward + backward, ms"] = measure(lambda i=leaves: step(triton.ss2d_scan, i)).seconds * 1e3
            row["mamba_ssm both, ms"] = seconds_or_reason(lambda i=leaves: step(mamba_ssm.ss2d_scan, i))
        if side <= 32:
            row["reference, ms"] = seconds_or_reason(
                lambda i=inputs: reference.ss2d_scan(*(t.float() for t in i))
            )
        rows.append(row)
    return rows


def copies(inputs: list[torch.Tensor]) -> torch.Tensor:
    """What surrounds the kernel of the materialised path: four orders out, four orders back."""
    us, *_ = mamba_ssm.materialise(inputs[0], inputs[1], inputs[2], state=inputs[4].shape[1])
    batch, height, width, channels = inputs[0].shape
    merged = reference.cross_merge(us.view(batch, 4, channels, -1), height=height, width=width)
    return merged.contiguous()


def step(scan: Callable[..., torch.Tensor], leaves: list[torch.Tensor]) -> None:
    """Forward and backward; gradients are dropped."""
    torch.autograd.grad(scan(*leaves).sum(), leaves)


def sweep_rows() -> list[Row]:
    """Every tiling on the stage-1 map of a 10,000 px region."""
    inputs = scan_inputs(*STAGES[0])
    out = torch.empty_like(inputs[0])
    rows = []
    for sizes in TILINGS:
        tiling = Tiling(*sizes)
        call = measure(lambda t=tiling: triton.ss2d_scan_into(*inputs, out=out, tiling=t))  # type: ignore[misc]
        rows.append({"tiling (rows, columns, channels, warps)": sizes, "ms": call.seconds * 1e3})
    return rows


# -- models


def model_rows(limits: Ceilings) -> list[Row]:
    """The whole encoder on square images: time, peak memory, share of the matmul rate; cuDNN on and off."""
    rows = []
    model = build_backbone(MODEL)
    encoder = CudaForward(model, device=torch.device("cuda"), dtype=torch.bfloat16)
    for side in (1024, 2048, 4096, 10_000):
        image = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, device="cuda")
        flop = 2 * 9.78e12 * (side / 10_000) ** 2  # the published count of multiply-adds, scaled
        for cudnn in (True, False):
            with torch.backends.cudnn.flags(enabled=cudnn):
                whole = measure(lambda i=image: encoder(i), repeats=5)
                rows.append(
                    {
                        "image": f"{side}²",
                        "path": "CudaForward",
                        "cuDNN": cudnn,
                        "ms": whole.seconds * 1e3,
                        "peak, GB": whole.peak_bytes / 1e9,
                        "share of matmul rate": flop / whole.seconds / limits.bf16_flop_per_s,
                    }
                )
        if side <= 4096:
            rows.append(plain_row(f"{side}²", "plain model, Triton scan", triton.ss2d_scan, side))
            rows.append(plain_row(f"{side}²", "plain model, mamba_ssm scan", mamba_ssm.ss2d_scan, side))
    rows += end_to_end_rows(model)
    return rows


def plain_row(image: str, path: str, scan: Callable[..., torch.Tensor], side: int) -> Row:
    """The readable model under autocast with one of the scans."""
    model = build_backbone(MODEL).cuda().eval()
    x = torch.randn(1, 3, side, side, device="cuda")
    with scan_replaced(scan), torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        found = attempt(lambda: measure(lambda: model.forward_features(x), repeats=5))
    return {"image": image, "path": path, "cuDNN": True, **found}


def end_to_end_rows(model: torch.nn.Module) -> list[Row]:
    """From pixels in host memory to features in host memory, one by one and queued; with recorded graphs too."""
    rows = []
    for side, graphs in ((1024, False), (1024, True), (10_000, False)):
        encoder = CudaEncoder(MODEL, model, precision="bf16", graphs=graphs)
        pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8).numpy()
        single = measure(lambda e=encoder, p=pixels: e.encode(p), repeats=5)

        def queued(encoder: CudaEncoder = encoder, pixels: Any = pixels) -> None:
            for pending in [encoder.submit(pixels) for _ in range(4)]:
                pending.result()

        stream = measure(queued, repeats=3)
        name = "host to host" + (", recorded graph" if graphs else "")
        rows.append({"image": f"{side}²", "path": name, "cuDNN": True, "ms": single.seconds * 1e3})
        rows.append(
            {"image": f"{side}²", "path": f"{name}, 4 queued", "cuDNN": True, "ms": stream.seconds / 4 * 1e3}
        )
    return rows


@contextmanager
def scan_replaced(scan: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let the plain model use ``scan``."""
    kept = ss2d.ss2d_scan
    ss2d.ss2d_scan = scan
    try:
        yield
    finally:
        ss2d.ss2d_scan = kept


def peer_rows() -> list[Row]:
    """Models of timm under autocast, channels last; in windows of 1024 px where the whole image is too much."""
    if importlib.util.find_spec("timm") is None:
        return [{"model": "timm is not installed"}]
    import timm

    rows = []
    for name in PEERS:
        fixed = {"img_size": 1024, "strict_img_size": False} if name.startswith("swin") else {}
        model = timm.create_model(name, pretrained=False, num_classes=0, **fixed).cuda().eval()
        model = model.to(memory_format=torch.channels_last)
        for side in (1024, 2048, 4096, 10_000):
            for cudnn in (True, False):
                for window in (side, 1024):
                    x = torch.randn(1, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
                    with torch.backends.cudnn.flags(enabled=cudnn):
                        found = attempt(
                            lambda m=model, i=x, w=window: measure(lambda: windows(m, i, w), repeats=3)
                        )
                    rows.append(
                        {"model": name, "image": f"{side}²", "window": window, "cuDNN": cudnn, **found}
                    )
                    if "ms" in found:
                        break
    return rows


@torch.inference_mode()
def windows(model: torch.nn.Module, image: torch.Tensor, window: int) -> None:
    """Feature maps of an image cut into windows, eight at a time; the last of a row may be small."""
    with torch.autocast("cuda", torch.bfloat16):
        pieces = [
            image[:, :, y : y + window, x : x + window]
            for y in range(0, image.shape[2] - window + 1, window)
            for x in range(0, image.shape[3] - window + 1, window)
        ]
        for i in range(0, len(pieces), 8):
            model.forward_features(torch.cat(pieces[i : i + 8]))


def training_rows(*, side: int = 1024, batch: int = 2) -> list[Row]:
    """Forward and backward of the plain model on crops, one row per scan."""
    rows = []
    for name, scan in (("Triton", triton.ss2d_scan), ("mamba_ssm", mamba_ssm.ss2d_scan)):
        model = build_backbone(MODEL).cuda().train()
        x = torch.randn(batch, 3, side, side, device="cuda")

        def train(model: torch.nn.Module = model, x: torch.Tensor = x) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(x).square().mean()
            loss.backward()
            model.zero_grad(set_to_none=True)

        with scan_replaced(scan):
            rows.append(
                {
                    "scan": name,
                    "crops": f"{batch} x {side}²",
                    **attempt(lambda t=train: measure(t, repeats=5)),
                }
            )
    return rows


def largest_rows(limit_px: int) -> list[Row]:
    """The largest square, in steps of a quarter, that goes through in one pass."""
    encoder = CudaForward(build_backbone(MODEL), device=torch.device("cuda"), dtype=torch.bfloat16)
    rows: list[Row] = []
    side = 16_384
    while side <= limit_px and (not rows or "ms" in rows[-1]):
        found = attempt(lambda s=side: measure(lambda: encoder(blank(s)), warmup=0, repeats=1))
        rows.append({"image": f"{side}²", **found})
        side = side * 5 // 4 // 256 * 256
    return rows


def slide_rows(side_px: int, folder: Path, *, region_px: int = 10_000) -> list[Row]:
    """A slide in one pass, its map in files; first a region that the memory holds as well, for the same features.

    Seconds are those of a clock: disk and GPU work side by side.
    """
    encoder = CudaEncoder(MODEL, build_backbone(MODEL), precision="bf16")
    picture = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8)
    rows: list[Row] = []
    for side in (region_px, side_px):
        pixels = Repeated(picture, width_px=side, height_px=side)
        scratch = open_scratch(folder, "gpu-benchmark", {"at": time.time()}, say=print)
        try:
            print(require_space(scratch, encoder.scratch_bytes(height_px=side, width_px=side)))
            planned = encoder.memory_in_words(height_px=side, width_px=side)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, began = torch.cuda.memory_allocated(), time.perf_counter()
            features = encoder.sweep(pixels, scratch, report=lambda share: None)
            row: Row = {"image": f"{side}²", "s": time.perf_counter() - began}
            row["peak, GB"] = (torch.cuda.max_memory_allocated() - before) / 1e9
            row["planned"] = planned
            if side == region_px:
                square = pixels.square(y_px=0, x_px=0, height_px=side, width_px=side)
                whole = encoder.encode(square)
                error = np.abs(features(0, len(whole)) - whole).mean() / np.abs(whole).mean()
                row["mean difference to the region in memory"] = float(error)
                if error > 0.03:
                    return [{**row, "not run": "parity failed: nothing larger was timed"}]
            rows.append(row)
        finally:
            scratch.remove()
    return rows


def blank(side: int) -> torch.Tensor:
    """A white image on the device."""
    return torch.full((side, side, 3), 255, dtype=torch.uint8, device="cuda")


def attempt(call: Callable[[], Any]) -> Row:
    """Time and peak memory, or the first line of why it cannot run."""
    try:
        found = call()
    except (
        RuntimeError,
        AssertionError,
        ValueError,
        ImportError,
    ) as error:  # out of memory, size, missing package
        torch.cuda.empty_cache()
        return {"not run": str(error).split("\n")[0][:120]}
    return {"ms": found.seconds * 1e3, "peak, GB": found.peak_bytes / 1e9}


def seconds_or_reason(call: Callable[[], Any]) -> float | str:
    """Milliseconds, or why not."""
    found = attempt(lambda: measure(call))
    return found["ms"] if "ms" in found else found["not run"]


if __name__ == "__main__":
    sys.exit(main())
