"""End to end against another tool: tiles per CPU-second of `wsi-vmamba extract` and of slide2vec with hs2p.

    python -m venv peer                     # with torch, OpenCV, pandas, ... and wsi-vmamba itself in it
    peer/bin/pip install --no-deps slide2vec hs2p "transformers<5,>=4.47" "huggingface_hub<1" "tokenizers<0.23"
    peer/bin/pip install --no-deps regex omegaconf antlr4-python3-runtime==4.9.3 einops-exts
    peer/bin/pip install --no-deps pyvips pyvips-binary cucim-cu12 lazy-loader
    python benchmarks/peers.py --peer-python peer/bin/python --folder /tmp/slides --json result.json
    python benchmarks/peers.py --peer-python peer/bin/python --slide real.tif --mpp 0.5 --same-tissue

Both tools run as whole processes on the same file, in turns; the run of the least CPU time counts. Each finds the
tissue its own way, reads 256-px tiles at 0.5 um per pixel, encodes them and writes features and coordinates. CPU time
is user and system time of the process and of all its children, from start to exit, imports included; so there are two
slides of the same tissue, and "beyond start-up" is what the larger one costs more. Peak memory is that of the largest
process. Masks differ between tools, so rates are per tile that the tool itself kept; ``--same-tissue`` gives both the
mask that wsi-vmamba finds, as a picture, and the same threshold.

``null`` is the same arithmetic on both sides, next to nothing, and shows reading, tiling and writing. With
``vmamba_pico`` both use the same weights, kernels and precision, but not the same task: wsi-vmamba encodes regions in
one pass each, slide2vec knows tiles only, so that there every tile is encoded alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OURS, PEER = "wsi-vmamba", "slide2vec"
#: Sides in pixels of the generated slides, which are tissue all over.
SIDES_PX = {"small": 10_000, "large": 20_000}
#: Where encoding takes minutes, the start does not count and one slide will do.
SLIDES = {"null": ("small", "large"), "vmamba_pico": ("small",)}
Run = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one table, and write the JSON where asked."""
    options = _parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    made = {} if options.slide else _make_slides(options.folder)
    result: dict[str, Any] = {"settings": _settings(options), "encoders": {}}
    for encoder in options.encoders:
        slides = {"given": options.slide} if options.slide else {name: made[name] for name in SLIDES[encoder]}
        found = {name: compare(slide, encoder, options) for name, slide in slides.items()}
        result["encoders"][encoder] = {"slides": found, "ratios": ratios(found)}
        for line in lines(encoder, found, result["encoders"][encoder]["ratios"]):
            print(line, flush=True)
    # Last, because a parent that has imported numpy and torch would count in the memory of its children.
    if "null" in options.encoders and not options.slide:  # tiles of two masks are seldom at one place
        result["null_features_agree"] = agreement(options.folder)
        print(result["null_features_agree"])
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def compare(slide: Path, encoder: str, options: argparse.Namespace) -> dict[str, Run]:
    """Run both tools on a slide, in turns; of each, the run of the least CPU time."""
    runs: dict[str, list[Run]] = {OURS: [], PEER: []}
    for _ in range(options.turns):
        for tool, run in TOOLS.items():
            runs[tool].append(run(slide, encoder, options))
    return {tool: min(same, key=lambda run: float(run["cpu_s"])) for tool, same in runs.items()}


# -- one run of one tool ------------------------------------------------------------------------------------------


def run_ours(slide: Path, encoder: str, options: argparse.Namespace) -> Run:
    """`wsi-vmamba extract` with its defaults; it writes a mask, a preview and a run record beside the features."""
    out = _fresh(options.folder / f"ours-{encoder}")
    command = [sys.executable, "-m", "wsi_vmamba", "extract", str(slide), "--out", str(out)]
    command += ["--backbone", encoder, "--precision", options.precision, "--device", "cpu"]
    command += ["--background", options.background] if encoder == "vmamba_pico" else []
    command += ["--mpp-override", str(options.mpp)] if options.mpp else []
    command += ["--mask", str(tissue_picture(slide, options))] if options.same_tissue else []
    run = measured(command, slide, options)
    with (out / "extract.csv").open(newline="") as file:
        return {**run, "tiles": sum(int(row["patches"]) for row in csv.DictReader(file))}


def run_peer(slide: Path, encoder: str, options: argparse.Namespace) -> Run:
    """slide2vec's pipeline, see `support/peer_slide2vec.py`."""
    out = _fresh(options.folder / f"peer-{encoder}")
    driver = Path(__file__).with_name("support") / "peer_slide2vec.py"
    command = [str(options.peer_python), str(driver), str(slide), str(out), "--encoder", encoder]
    command += ["--precision", options.precision]
    command += ["--reader", options.peer_reader, "--batch", str(options.peer_batch)]
    command += ["--workers", str(options.peer_workers)]
    command += ["--mpp", str(options.mpp)] if options.mpp else []
    command += ["--mask", str(tissue_picture(slide, options))] if options.same_tissue else []
    run = measured(command, slide, options)
    facts = json.loads((out / "tile_embeddings" / "slide.meta.json").read_text())
    return {**run, "tiles": facts["num_tiles"], "reader": facts["backend"]}


TOOLS: dict[str, Callable[[Path, str, argparse.Namespace], Run]] = {OURS: run_ours, PEER: run_peer}


def measured(command: list[str], slide: Path, options: argparse.Namespace) -> Run:
    """Run a command to its end with the slide in the page cache; seconds and bytes, and the last line it printed."""
    with slide.open("rb") as file:
        while file.read(1 << 24):
            pass
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    log = options.folder / "last-run.log"
    with log.open("w") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    said = log.read_text().strip()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{said[-2000:]}")
    return {
        "cpu_s": used.ru_utime + used.ru_stime,
        "system_s": used.ru_stime,
        "wall_s": wall_s,
        "peak_bytes": used.ru_maxrss * 1024,
        "said": said.splitlines()[-1],
    }


def tissue_picture(slide: Path, options: argparse.Namespace) -> Path:
    """The tissue that wsi-vmamba finds by default, as a PNG of 0 and 1 over the whole slide."""
    path = options.folder / f"{slide.stem}-{options.mpp}-tissue.png"
    if not path.exists():
        from PIL import Image

        from wsi_vmamba.slide import open_slide, resolve_mpp
        from wsi_vmamba.tissue import segment_tissue

        with open_slide(slide) as opened:
            mpp = resolve_mpp(opened, mpp_override=options.mpp).value
            Image.fromarray(segment_tissue(opened, mpp=mpp).mask.astype("uint8")).save(path)
    return path


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _make_slides(folder: Path) -> dict[str, Path]:
    from support.repeated_slide import made_slide

    return {name: made_slide(folder, "tissue", (side, side)) for name, side in SIDES_PX.items()}


# -- figures ------------------------------------------------------------------------------------------------------


def ratios(found: dict[str, dict[str, Run]]) -> dict[str, dict[str, float]]:
    """Tiles per CPU-second of each tool and how many times the peer's ours are, whole and beyond start-up."""
    last = list(found.values())[-1]
    rates = {"whole": {tool: run["tiles"] / run["cpu_s"] for tool, run in last.items()}}
    if len(found) > 1:
        first = found["small"]
        rates["beyond start-up"] = {
            tool: (run["tiles"] - first[tool]["tiles"]) / (run["cpu_s"] - first[tool]["cpu_s"])
            for tool, run in last.items()
        }
    return {name: {**rate, "ratio": rate[OURS] / rate[PEER]} for name, rate in rates.items()}


def lines(encoder: str, found: dict[str, dict[str, Run]], rates: dict[str, dict[str, float]]) -> list[str]:
    """The table of one encoder."""
    rows = [f"{encoder}:"]
    for slide, runs in found.items():
        for tool, run in runs.items():
            rows.append(
                f"  {slide:6} {tool:11} {run['tiles']:6} tiles {run['cpu_s']:7.1f} CPU-s {run['wall_s']:7.1f} s "
                f"{run['tiles'] / run['cpu_s']:7.1f} tiles/CPU-s  peak {run['peak_bytes'] / 1e9:.2f} GB"
            )
    for name, rate in rates.items():
        rows.append(
            f"  {name}: {rate[OURS]:.1f} against {rate[PEER]:.1f} tiles per CPU-second, {rate['ratio']:.2f} times"
        )
    return rows


def agreement(folder: Path) -> dict[str, float]:
    """How far the null features of tiles at the same place differ, in the outputs of the last runs with them."""
    import numpy as np
    import torch

    from wsi_vmamba.store import open_features

    (path,) = (folder / "ours-null").glob("*.zarr")
    ours = open_features(path)
    theirs = torch.load(folder / "peer-null" / "tile_embeddings" / "slide.pt", weights_only=True).numpy()
    with np.load(folder / "peer-null" / "tiles" / "slide.coordinates.npz") as places:
        at = {
            place: row
            for row, place in enumerate(zip(places["x"].tolist(), places["y"].tolist(), strict=True))
        }
    pairs = [(row, at[x, y]) for row, (x, y) in enumerate(ours.coords_l0.tolist()) if (x, y) in at]
    mine, other = (list(rows) for rows in zip(*pairs, strict=True)) if pairs else ([], [])
    apart = np.abs(ours.features[mine].astype(np.float32) - theirs[other])
    return {"tiles_at_the_same_place": len(pairs), "largest_difference": float(apart.max(initial=0))}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name not in ("json", "peer_python")
    }


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer-python", type=Path, default=Path(sys.executable), help="of the peer's environment"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("peer-slides"), help="where slides and features go"
    )
    parser.add_argument("--slide", type=Path, help="one slide of your own in place of the generated ones")
    parser.add_argument(
        "--mpp", type=float, help="um per level-0 pixel for both, instead of what the file records"
    )
    parser.add_argument("--encoders", nargs="+", choices=list(SLIDES), default=list(SLIDES))
    parser.add_argument("--same-tissue", action="store_true", help="give both one mask")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="of vmamba_pico in both"
    )
    parser.add_argument(
        "--background",
        choices=("read", "skip"),
        default="read",
        help="what glass is to vmamba_pico in wsi-vmamba extract; slide2vec encodes tiles of tissue alone",
    )
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of both")
    parser.add_argument("--turns", type=int, default=2, help="how often each tool has its turn")
    parser.add_argument("--peer-reader", default="vips", help="hs2p's backend: auto, cucim, vips, openslide")
    parser.add_argument(
        "--peer-workers", type=int, default=0, help="processes that read; vips hangs with any"
    )
    parser.add_argument("--peer-batch", type=int, default=64, help="tiles per forward pass of the peer")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
