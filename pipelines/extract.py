"""Recipe: slides to feature files. One slide after another; a failed slide is named and the others go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_vmamba.encode import Encoder, build_encoder, pool_cells
from wsi_vmamba.pipelines.sources import SlideSource, find_sources

from wsi_vmamba import __version__, console
from wsi_vmamba.config import ExtractConfig
from wsi_vmamba.errors import NoTissueError, SlideError, StoreError
from wsi_vmamba.ops import choose_backend
from wsi_vmamba.provenance import write_run_record, write_text_atomic
from wsi_vmamba.regions import RegionPlan, RegionSpec, plan_regions
from wsi_vmamba.slide import ResolvedMpp, Slide, open_slide, resolve_mpp
from wsi_vmamba.store import FeatureMeta, FeatureWriter, check_compatible, is_complete
from wsi_vmamba.stream import StreamStats, stream_regions
from wsi_vmamba.tissue import segment_tissue


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one slide."""

    slide_id: str
    outcome: str
    detail: str = ""
    regions: int = 0
    cells: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the slide has no feature file now."""
        return self.outcome not in {"done", "already done"}


def run(config: ExtractConfig) -> int:
    """Extract every slide; return 0 when all have features, 1 when some slide failed."""
    sources = find_sources(config.slides)
    out = Path(config.out)
    encoder = build_encoder(
        config.backbone, weights=config.weights, precision=config.precision, device=config.device,
        seed=config.seed, memory_limit_gb=config.memory_limit_gb,
    )  # fmt: skip
    _announce(config, encoder, len(sources))
    started = time.perf_counter()
    outcomes = [_extract_or_report(config, source, encoder, out) for source in sources]
    _save(config, encoder, out, outcomes)
    failures = [outcome for outcome in outcomes if outcome.failed]
    done = len(outcomes) - len(failures)
    already = sum(outcome.outcome == "already done" for outcome in outcomes)
    console.say(
        f"{done} of {len(outcomes)} slides have features in {out} ({already} were there already; "
        f"{time.perf_counter() - started:.1f} s)"
    )
    if failures:
        console.print_table(
            "Slides without features", ("slide", "outcome", "cause"),
            [(failure.slide_id, failure.outcome, failure.detail) for failure in failures],
        )  # fmt: skip
    return 1 if failures else 0


def plan_slide(config: ExtractConfig, slide: Slide, mpp: ResolvedMpp) -> RegionPlan:
    """Find the tissue of a slide and plan its regions; the plan may be empty."""
    tissue = segment_tissue(slide, mpp=mpp.value, segmenter=config.segmenter)
    spec = RegionSpec(
        target_mpp=config.target_mpp,
        region_px=config.region_px,
        cell_px=config.cell_px,
        min_tissue=config.min_tissue,
    )
    level0 = slide.levels[0]
    return plan_regions(
        width_l0=level0.width_px, height_l0=level0.height_px, mpp=mpp.value, levels=slide.levels, spec=spec,
        tissue=tissue,
    )  # fmt: skip


def _announce(config: ExtractConfig, encoder: Encoder, n_slides: int) -> None:
    console.say(
        f"{n_slides} slide(s), {encoder.name} on {encoder.device} in {encoder.precision}: {encoder.weights_note}"
    )
    if config.weights == "random":
        console.warn("the backbone has random weights; use its features only to test the pipeline")


def _extract_or_report(config: ExtractConfig, source: SlideSource, encoder: Encoder, out: Path) -> Outcome:
    """The one boundary where a slide's error becomes an outcome, so that the others go on."""
    started = time.perf_counter()
    try:
        outcome = _extract(config, source, encoder, out)
    except NoTissueError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome="no tissue", detail=error.message)
    except SlideError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome="failed", detail=error.message)
    except StoreError as error:
        outcome = Outcome(slide_id=source.slide_id, outcome="failed", detail=str(error))
    seconds = time.perf_counter() - started
    facts = (
        f"{outcome.regions} region(s), {outcome.cells} cells, {seconds:.1f} s"
        if not outcome.failed
        else outcome.detail
    )
    console.say(
        f"{outcome.slide_id}: {outcome.outcome} ({facts})"
        if facts
        else f"{outcome.slide_id}: {outcome.outcome}"
    )
    return Outcome(**{**vars(outcome), "seconds": round(seconds, 3)})


def _extract(config: ExtractConfig, source: SlideSource, encoder: Encoder, out: Path) -> Outcome:
    path = out / f"{source.slide_id}.zarr"
    with open_slide(source.path, reader=config.reader) as slide:
        mpp = resolve_mpp(slide, mpp_override=config.mpp_override or source.mpp)
        plan = plan_slide(config, slide, mpp)
        if not plan.regions:
            raise NoTissueError(source.path, "no tissue found; `wsi-vmamba info` shows the tissue share")
        meta = _describe(config, source, slide, mpp, plan, encoder)
        n_cells = sum(len(region.cells) for region in plan.regions)
        facts = {"slide_id": source.slide_id, "regions": len(plan.regions), "cells": n_cells}
        if is_complete(path) and not config.overwrite:
            check_compatible(path, meta)
            return Outcome(outcome="already done", **facts)
        _encode_into(path, meta, slide, plan, encoder, config)
        return Outcome(outcome="done", **facts)


def _encode_into(
    path: Path, meta: FeatureMeta, slide: Slide, plan: RegionPlan, encoder: Encoder, config: ExtractConfig
) -> None:
    stats = StreamStats()
    with (
        FeatureWriter(path, meta, encoder.dim, overwrite=config.overwrite) as writer,
        console.progress(meta.slide_id, len(plan.regions)) as task,
    ):
        for decoded in stream_regions(slide, plan, prefetch=config.prefetch, stats=stats):
            region = decoded.region
            feature_map = encoder.encode(decoded.pixels)
            features = pool_cells(feature_map, region, cell_px=config.cell_px, stride_px=encoder.stride_px)
            writer.append(features, plan.coords_l0(region))
            task.step(f"region {region.width_px} x {region.height_px} px")
        writer.commit()


def _describe(
    config: ExtractConfig,
    source: SlideSource,
    slide: Slide,
    mpp: ResolvedMpp,
    plan: RegionPlan,
    encoder: Encoder,
) -> FeatureMeta:
    return FeatureMeta(
        slide_id=source.slide_id, slide_path=str(source.path), reader=slide.reader, mpp=mpp.value,
        mpp_source=mpp.source, target_mpp=config.target_mpp, cell_px=config.cell_px, cell_l0=plan.cell_l0,
        plan=plan.to_dict(), segmenter=config.segmenter, model=encoder.name, weights_hash=encoder.weights_hash,
        precision=encoder.precision, version=__version__,
    )  # fmt: skip


def _save(config: ExtractConfig, encoder: Encoder, out: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the table of outcomes and the provenance beside the features."""
    kernel, why = choose_backend(encoder.device)
    facts = {
        "backbone": encoder.name, "weights": encoder.weights_note, "weights_hash": encoder.weights_hash,
        "device": encoder.device, "precision": encoder.precision, "scan_kernel": kernel, "scan_kernel_why": why,
    }  # fmt: skip
    write_run_record(out, command="extract", config=config, facts=facts)
    columns = ("slide_id", "outcome", "detail", "regions", "cells", "seconds")
    lines = [",".join(columns)]
    for outcome in outcomes:
        detail = '"' + outcome.detail.replace('"', '""') + '"'
        lines.append(
            f"{outcome.slide_id},{outcome.outcome},{detail},{outcome.regions},{outcome.cells},{outcome.seconds}"
        )
    write_text_atomic(out / "extract.csv", "\n".join(lines) + "\n")
