"""Recipe: the whole product on a generated cohort, beside two baselines that it must beat."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_vmamba import console
from wsi_vmamba.config import DemoConfig, EvaluateConfig, ExtractConfig, TrainConfig
from wsi_vmamba.datasets.synthetic import CohortSpec, generate_cohort
from wsi_vmamba.durable import require_writable
from wsi_vmamba.pipelines import evaluate, extract, train
from wsi_vmamba.provenance import write_run_record


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to turn slides into scores."""

    label: str
    backbone: str
    weights: str
    aggregator: str


#: What is compared, by the name of its folder. The first is the product; the others say what it has to beat.
CONTENDERS: Mapping[str, Contender] = {
    "vmamba": Contender(
        label="vmamba_pico, shipped weights",
        backbone="vmamba_pico",
        weights="auto",
        aggregator="abmil",
    ),
    "random": Contender(
        label="vmamba_pico, random weights", backbone="vmamba_pico", weights="random", aggregator="abmil"
    ),
    "colour": Contender(
        label="colour mean and spread, no network", backbone="null", weights="auto", aggregator="mean"
    ),
}


def run(config: DemoConfig) -> bool:
    """Generate, extract, train and evaluate; print the comparison; return whether every step was done."""
    started = time.perf_counter()
    out = Path(config.out)
    require_writable(out, option="--out")
    console.say(f"1/3 generating {config.slides} synthetic slides in {out / 'slides'}")
    spec = CohortSpec(slides=config.slides, seed=config.seed)
    with console.progress("slide", config.slides) as task:
        manifest = generate_cohort(spec, out / "slides", progress=lambda slide: task.step(slide.slide_id))
    aucs = {}
    for name, contender in CONTENDERS.items():
        console.say(f"2/3 {contender.label}: extract, train, evaluate")
        if not _extract(config, name, contender, out):
            return False
        aucs[name] = _train_and_evaluate(config, name, contender, manifest, out)
    seconds = time.perf_counter() - started
    write_run_record(
        out, command="demo", config=config, facts={"test_auc": aucs, "seconds": round(seconds, 1)}
    )
    console.print_table(
        "3/3 AUC on the held-out synthetic slides", ("features", "aggregator", "AUC", "95 % interval"),
        [(contender.label, contender.aggregator, *_shown(aucs[name])) for name, contender in CONTENDERS.items()],
    )  # fmt: skip
    folder = out / "runs" / "vmamba"
    console.say(f"{seconds:.0f} s. Look at {folder / 'evaluation'}: slides.csv, roc.png, heatmaps/")
    console.say(
        "The slides are generated, and the weights have seen images of that kind: no claim about real tissue."
    )
    console.say("Next, everything about the run in one file, and its slides in the browser:")
    for command in ("report", "view"):
        console.say(f"  wsi-vmamba {command} {shlex.quote(str(folder))}")
    return True


def _shown(auc: Mapping[str, Any]) -> tuple[str, str]:
    low, high = auc["ci95"]
    return f"{auc['value']:.3f}", f"{low:.3f}-{high:.3f}"


def _extract(config: DemoConfig, name: str, contender: Contender, out: Path) -> bool:
    return extract.run(
        ExtractConfig(
            slides=str(out / "slides" / "manifest.csv"),
            out=str(out / "features" / name),
            target_mpp=config.target_mpp,
            patch_px=128,
            backbone=contender.backbone,
            weights=contender.weights,
            seed=config.seed,
        )
    )


def _train_and_evaluate(
    config: DemoConfig, name: str, contender: Contender, manifest: Path, out: Path
) -> dict[str, Any]:
    """Train and evaluate one contender; return ``value`` and ``ci95`` of its test AUC."""
    train.run(
        TrainConfig(
            dataset="synthetic", manifest=str(manifest), features=str(out / "features" / name), runs=str(out / "runs"),
            name=name, aggregator=contender.aggregator, overwrite=True, seed=config.seed,
        ),
        log_epochs=False,
    )  # fmt: skip
    folder = out / "runs" / name
    evaluate.run(
        EvaluateConfig(
            run=str(folder), heatmaps=2 if contender.aggregator == "abmil" else 0, seed=config.seed
        )
    )
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    return {"value": metrics["auc"], "ci95": metrics["auc_ci95"]}
